"""Data that holds a model in place while it learns: prior preservation and replay.

What the base samples of itself is kept as codes, never decoded and encoded again: the prior is what
the base would say, not what its codec makes of that.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from tunesmith.atomic import write_bytes
from tunesmith.config import ConceptConfig, RunConfig
from tunesmith.data.encode import cache_folder, encode
from tunesmith.data.load import load_dataset
from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.training.parallel import ALONE, Parallel
from tunesmith.training.sampler import stable_seed
from tunesmith.training.signals import StopFlag
from tunesmith.training.streams import Stream
from tunesmith.types import Clip, Example, GenerationSettings

OnEvent = Callable[[str, Mapping[str, Any]], None]

AS_IT_IS = GenerationSettings(guidance=1.0, temperature=1.0, top_k=0, top_p=1.0)
"""The base's own distribution, not sharpened: that is what its loss has to stay low on."""

_BATCH = 16


def with_concept(text: str, concept: ConceptConfig) -> str:
    """A caption that names the concept; one that holds its token already stays."""
    if concept.token is None or concept.token in text.replace(",", " ").split():
        return text
    parts = {"token": concept.token, "class_name": concept.class_name, "caption": text}
    return concept.template.format(**parts).strip(" ,")


def recaptioned(clips: Sequence[Clip], change: Callable[[str], str]) -> list[Clip]:
    """The clips with every caption changed."""
    return [
        replace(clip, caption=change(clip.caption), captions=tuple(map(change, clip.captions)))
        for clip in clips
    ]


def forgetting_clips(config: RunConfig) -> list[Clip]:
    """``data.general``, less what is trained on: forgetting is measured on other data than that.

    Raises:
        UserError: all of it is trained on.
    """
    if not config.data.general:
        return []
    place = Path(config.data.general).expanduser()
    clips = load_dataset(place)
    if replayable(config):
        return [clip for clip in clips if clip.split == "valid"]
    for section, path in (("replay", config.replay.path), ("prior", config.prior.path)):
        if path and Path(path).expanduser().resolve() == place.resolve():
            clips = [clip for clip in clips if clip.split == "valid"]
            if not clips:
                raise UserError(
                    f"{section}.path and data.general are one folder without a validation side",
                    "prepare it with --valid-share 0.3, or give other recordings to data.general",
                )
    return clips


def replayable(config: RunConfig) -> list[Clip]:
    """The training side of ``data.general``, if a run may begin to replay it (``auto_fix``).

    None where nothing would be left to measure forgetting with, or where the run has a prior or
    replay of its own.
    """
    own = config.replay.path or config.prior.weight
    if own or not (config.watch and config.auto_fix and config.data.general):
        return []
    clips = load_dataset(Path(config.data.general).expanduser())
    sides = {side: [clip for clip in clips if clip.split == side] for side in ("train", "valid")}
    return sides["train"] if sides["valid"] else []


def rehearsal_streams(
    config: RunConfig,
    bundle: Bundle,
    lengths_s: Sequence[float],
    stop: StopFlag,
    event: OnEvent,
    parallel: Parallel = ALONE,
) -> list[Stream]:
    """The streams beside the main one. Called before a method is attached: the base itself samples.

    Args:
        config: the run's.
        bundle: the bare base.
        lengths_s: of the clips to be learned.
        stop: polled often.
        event: told of progress.
        parallel: the processes of the run: one samples, the others take it from the cache.

    Raises:
        UserError: no clips where clips were promised.
        Stopped: what was sampled or encoded so far is lost or cached.
    """
    found = []
    prior, replay = config.prior, config.replay
    size = config.train.batch_size
    if prior.weight and prior.path is None:
        seconds = prior.seconds or min(statistics.median(lengths_s), bundle.max_s)
        prompts = prior.prompts or (config.concept.class_name,)
        with parallel.leader_first():
            examples = sampled(bundle, prompts, prior.clips, seconds, config.seed, stop, event)
        lengths = [example.frames for example in examples]
        rows = prior.batch_size or size
        found.append(Stream("prior", examples, lengths, rows, prior.weight))
    elif prior.weight and prior.path is not None:
        rows = prior.batch_size or size
        place = prior.path
        found.append(_given("prior", place, prior.weight, rows, bundle, stop, event, parallel))
    if replay.path is not None:
        rows = replay.batch_size or size
        place = replay.path
        found.append(_given("replay", place, replay.weight, rows, bundle, stop, event, parallel))
    return found


def _given(
    name: str,
    path: str,
    weight: float,
    batch_size: int,
    bundle: Bundle,
    stop: StopFlag,
    event: OnEvent,
    parallel: Parallel,
) -> Stream:
    clips = [clip for clip in load_dataset(Path(path).expanduser()) if clip.split == "train"]
    if not clips:
        raise UserError(f"{path} has no training clips", f"give other recordings to {name}.path")
    if parallel.world > 1:
        encode(parallel.share(clips), bundle, should_stop=stop)
        parallel.meet()
    encoded = encode(
        clips,
        bundle,
        should_stop=stop,
        on_progress=lambda done, total: event("encode", {"done": done, "total": total}),
    )
    return Stream(name, encoded, encoded.lengths, batch_size, weight)


def sampled(
    bundle: Bundle,
    prompts: Sequence[str],
    clips: int,
    seconds: float,
    seed: int,
    stop: StopFlag,
    event: OnEvent = lambda kind, values: None,
) -> list[Example]:
    """What the base makes of prompts in turn, as it samples by itself; kept in the cache.

    Args:
        bundle: the bare base.
        prompts: texts; clip i has prompt i modulo their number.
        clips: how many.
        seconds: length of each.
        seed: of the first; clip i has ``seed + i``.
        stop: polled while sampling.
        event: told ``prior`` with ``done`` and ``total``.
    """
    told = {
        "family": bundle.family,
        "base": bundle.base_hash,
        "quantized": bundle.quantized,
        "prompts": list(prompts),
        "clips": clips,
        "seconds": round(seconds, 4),
        "seed": seed,
    }
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    file = cache_folder() / "prior" / key[:2] / f"{key}.safetensors"
    texts = [prompts[index % len(prompts)] for index in range(clips)]
    codes = _read(file)
    if codes is None:
        made: list[Tensor] = []
        while len(made) < clips:
            event("prior", {"done": len(made), "total": clips})
            part = range(len(made), min(len(made) + _BATCH, clips))
            seeds = [stable_seed("prior", seed, index) for index in part]
            some = [texts[index] for index in part]
            made += bundle.generate_codes(some, seconds, seeds, AS_IT_IS, None, stop)
        codes = {f"{index:05d}": one.contiguous() for index, one in enumerate(made)}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, save(codes))
        event("prior", {"done": clips, "total": clips})
    distinct = list(dict.fromkeys(texts))
    more = [[{"duration_s": round(seconds, 3)}] * len(distinct)] if bundle.columns else []
    states = dict(zip(distinct, bundle.encode_text(distinct, *more), strict=True))
    return [
        Example(f"{key[:16]}-{name}", one, states[text])
        for (name, one), text in zip(sorted(codes.items()), texts, strict=True)
    ]


def _read(file: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(file) if file.is_file() else None
    except (OSError, SafetensorError):
        return None  # half a file: sampled anew


__all__ = [
    "forgetting_clips",
    "recaptioned",
    "rehearsal_streams",
    "replayable",
    "sampled",
    "with_concept",
]
