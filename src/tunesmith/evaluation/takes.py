"""Takes and renderings as files: what is there and was made the same way is not made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from tunesmith.data.encode import read_audio
from tunesmith.errors import ResourceError, UserError
from tunesmith.evaluation.open import BaseName, opened
from tunesmith.evaluation.open import voice_of as spoken_as
from tunesmith.families import EMBEDDED, find_base, load
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import card_hash
from tunesmith.formats.sound import read_made_of, write_sound
from tunesmith.tasks.generate import check_duration
from tunesmith.training.hardware import best_device
from tunesmith.training.signals import StopFlag

OnEvent = Callable[[str, Mapping[str, Any]], None]

BATCH = 32
"""Takes at a time. On one core 32 short takes cost little more than half of what they do in eights."""

BATCH_S = 80.0
"""Seconds of sound at a time of other bases: keys and values of 80 s of musicgen-large, with and
without guidance, take about 6 GB in float32."""


def make_takes(
    *,
    out: str | Path,
    base: str,
    run: str | Path | None,
    prompts: Sequence[str],
    seed: int,
    duration_s: float,
    batch_size: int | None = None,
    revision: str | None = None,
    quantize: str = "",
    voice_of: str = "",
    worded: bool = False,
    stop: StopFlag,
    on_event: OnEvent,
) -> list[str]:
    """One take of each prompt as ``out/000.flac`` ..., take i with the seed ``seed + i``.

    The same prompts and seeds give each model its twin of every take, so that two models can be
    compared pair by pair.

    Args:
        out: folder of the takes.
        base: name of the base.
        run: a finished run whose adapter sings; None for the base itself.
        prompts: texts.
        seed: of the first take.
        duration_s: seconds of each.
        batch_size: takes at a time; by default :data:`BATCH` of an embedded base, else so many that
            they last :data:`BATCH_S`. Halved where memory does not suffice.
        revision: of the base on the hub.
        quantize: ``nf4`` holds the base in 4 bits.
        voice_of: folder of a run whose speaker the base speaks as.
        worded: ask a run as it was taught: with its rare token or its trained one.
        stop: polled often.
        on_event: told ``takes`` with ``done`` and ``total``.

    Returns:
        The files in order.

    Raises:
        UserError: a length the base cannot give, or an adapter of another base.
        Stopped: what was made stays.
    """
    name = BaseName(base, revision, quantize, voice_of)
    bundle, wording = opened(name.plain(), run)
    check_duration(bundle, duration_s)
    common = {
        "base": bundle.name,
        "base_hash": bundle.base_hash,
        "adapter": card_hash(Path(run)) if run is not None else "",
        "duration_s": duration_s,
        **asdict(bundle.sampling),
    }
    if told := spoken_as(name):
        told = json.dumps(told, sort_keys=True)
        common |= {"speaker": hashlib.sha256(told.encode()).hexdigest()}
    if bundle.quantized:
        common |= {"quantize": bundle.quantized}
    recipes = [
        common | {"prompt": wording(text) if worded else text, "seed": seed + i}
        for i, text in enumerate(prompts)
    ]
    files = [Path(out) / f"{index:03d}.flac" for index in range(len(recipes))]
    missing = [pair for pair in zip(files, recipes, strict=True) if not _is_made_of(*pair)]
    done, todo = len(files) - len(missing), iter(missing)
    usual = BATCH if base in EMBEDDED else min(BATCH, max(1, int(BATCH_S / duration_s)))
    size = batch_size or usual
    while some := list(islice(todo, size)):
        on_event("takes", {"done": done, "total": len(files)})
        try:
            audios = bundle.generate(
                [recipe["prompt"] for _, recipe in some],
                duration_s,
                [recipe["seed"] for _, recipe in some],
                should_stop=stop,
            )
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise ResourceError(
                    f"the memory of {bundle.device} does not hold one take of {duration_s:g} s",
                    "ask for shorter takes with --seconds",
                ) from error
            size, todo = max(1, size // 2), chain(some, todo)
            continue
        for (file, recipe), audio in zip(some, audios, strict=True):
            write_sound(file, audio, recipe)
        done += len(some)
    on_event("takes", {"done": done, "total": len(files)})
    return [str(file) for file in files]


def through_codec(
    *,
    out: str | Path,
    base: str,
    files: Sequence[str],
    revision: str | None = None,
    stop: StopFlag,
    on_event: OnEvent,
) -> list[str]:
    """Recordings as the base's codec renders them: the best that any adapter could sound.

    Args:
        out: folder of the renderings.
        base: name of the base.
        files: the recordings, none longer than the base allows.
        revision: of the base on the hub.
        stop: polled before each.
        on_event: told ``takes`` with ``done`` and ``total``.

    Returns:
        The renderings in the same order.

    Raises:
        UserError: a file that cannot be read.
        Stopped: what was made stays.
    """
    bundle = load(find_base(base, revision), device=best_device())
    made = []
    for index, file in enumerate(map(Path, files)):
        stop.check("stopped while encoding; run the same command again")
        recipe = {
            "recording": hashlib.sha256(file.read_bytes()).hexdigest(),
            "codec_hash": bundle.codec_hash,
        }
        rendered = Path(out) / f"{index:03d}.flac"
        if not _is_made_of(rendered, recipe):
            sound = _read(file, bundle)
            write_sound(rendered, bundle.decode_audio(bundle.encode_audio(sound)), recipe)
        made.append(str(rendered))
        on_event("takes", {"done": index + 1, "total": len(files)})
    return made


def _read(file: Path, bundle: Bundle):
    return read_audio(file, bundle.sample_rate_hz, bundle.channels, bundle.max_s)


def _is_made_of(file: Path, recipe: Mapping[str, Any]) -> bool:
    try:
        return file.is_file() and read_made_of(file) == recipe
    except (OSError, RuntimeError, UserError):  # half a file of an interrupted run
        return False
