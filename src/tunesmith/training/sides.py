"""The clips of a run: which are trained on, which measure, and what the bare base makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import RunConfig
from tunesmith.data.encode import EncodedClips, encode
from tunesmith.data.load import load_dataset
from tunesmith.data.quality import best
from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.training.measure import forward, mean_loss
from tunesmith.training.parallel import ALONE, Parallel
from tunesmith.training.rehearsal import forgetting_clips
from tunesmith.training.signals import StopFlag
from tunesmith.types import Clip, Example

OnEvent = Callable[[str, Mapping[str, Any]], None]


def sides_of(
    config: RunConfig, bundle: Bundle, warnings: list[str], event: OnEvent
) -> tuple[dict[str, list[Clip]], Any]:
    """The clips by side (``train``, ``valid``, ``general``), and how they were chosen among all.

    Args:
        config: the run's.
        bundle: the base.
        warnings: added to: what a user has to know of these clips.
        event: told of progress.

    Raises:
        UserError: there is nothing to train on.
    """
    place = Path(config.data.path).expanduser()
    clips, chosen = load_dataset(place), None
    if config.data.keep_best < 1:
        event("phase", {"name": "choosing the best clips"})
        clips, chosen = best(clips, place, config.data.keep_best)
    sides = {
        "train": [clip for clip in clips if clip.split == "train"],
        "valid": [clip for clip in clips if clip.split == "valid"],
        "general": forgetting_clips(config),
    }
    if not sides["train"]:
        raise UserError(
            f"{config.data.path} has no training clips",
            "run `tunesmith prepare` on more recordings",
        )
    if not sides["valid"]:
        warnings.append(
            "there are no validation clips: the last weights are kept, and no loss can tell if they are good"
        )
    long = sum(clip.duration_s > bundle.max_s + 0.05 for clip in clips)
    if long:
        warnings.append(
            f"{long} of {len(clips)} clips are longer than {bundle.max_s:g} s, and only the first "
            f"{bundle.max_s:g} s are used: `tunesmith prepare --base {bundle.name}` cuts them to fit"
        )
    return sides, chosen


def check_required(config: RunConfig) -> None:
    """That every clip has what ``data.require`` names.

    Raises:
        UserError: one line with how many lack what, and the first of them; or a data set that cannot
            be read.
    """
    if not config.data.require:
        return
    place = Path(config.data.path).expanduser()
    clips = load_dataset(place)
    lacking = []
    for column in dict.fromkeys(config.data.require):
        without = [clip for clip in clips if _is_blank(clip.extra.get(column))]
        if without:
            first = f"{without[0].split}/{without[0].path.name}"
            have = "has" if len(without) == 1 else "have"
            lacking.append(f"{len(without):,} of {len(clips):,} clips {have} no {column} ({first})")
    if lacking:
        raise UserError(
            f"{config.data.path}: {', '.join(lacking)}",
            "write it into metadata.csv, lyrics into x.lrc beside x.wav (passages where nobody sings too: "
            "[00:00.00] [instrumental]), and prepare again; or leave it out of data.require",
        )


def _is_blank(value: Any) -> bool:
    return value is None or value != value or not str(value).strip()


def encode_sides(
    sides: Mapping[str, list[Clip]],
    bundle: Bundle,
    stop: StopFlag,
    event: OnEvent,
    bands: int = 0,
    parallel: Parallel = ALONE,
) -> dict[str, EncodedClips]:
    """Each side encoded; ``bands`` is as of :func:`tunesmith.data.encode.encode`.

    Several processes share the clips out, then each finds all of them in the cache. One that has a
    cache of its own encodes what it lacks.
    """
    if parallel.world > 1:
        for clips in sides.values():
            encode(parallel.share(clips), bundle, should_stop=stop, bands=bands)
        parallel.meet()
    total = sum(map(len, sides.values()))
    encoded, before = {}, 0
    for side, clips in sides.items():
        encoded[side] = encode(
            clips,
            bundle,
            should_stop=stop,
            on_progress=lambda done, _, before=before: event(
                "encode", {"done": before + done, "total": total}
            ),
            bands=bands,
        )
        before += len(clips)
    return encoded


def base_losses(
    config: RunConfig,
    sides: Mapping[str, list[Clip]],
    bundle: Bundle,
    dtype: torch.dtype,
    stop: StopFlag,
    event: OnEvent,
    anchor: Sequence[Example] = (),
    bands: int = 0,
    parallel: Parallel = ALONE,
) -> dict[str, float]:
    """Loss of the bare base, with the captions as they are: what a method that does not start as
    the base has to be compared with. ``anchor`` are clips of its own making."""
    encoded = encode_sides(
        {side: sides[side] for side in ("valid", "general")}, bundle, stop, event, bands, parallel
    )
    found = {}
    for clips, prefix in (
        (encoded["valid"], ""),
        (encoded["general"], "general_"),
        (anchor, "anchor_"),
    ):
        if clips:
            values = mean_loss(
                bundle,
                clips,
                config.train.batch_size,
                lambda batch: forward(bundle, batch, dtype),
                lambda: stop.check("stopped before training began; run the same command again"),
                parallel,
            )
            found |= {prefix + name: value for name, value in values.items()}
    return found
