"""Which clips sound best: a score that can be read, and the choice of the best share.

Every clip begins with 100 points and loses some for each thing that is measurably wrong with it:

=========== =========================================================== =========================
noise       sound over steady noise (:mod:`tunesmith.analysis.noise`)   2 a dB below 30 dB
bandwidth   where its sound ends, as a share b of half the sample rate  80 (1 - 1.1 b): 36 at half
clipping    samples that stand at a ceiling                             20, and 5 a percent
hum         mains hum                                                   20, and 1 a dB from -56 dBFS
silence     its time without sound                                      0.6 a percent
dc          an offset from zero                                         10
=========== =========================================================== =========================

None takes more than 60. Faults and bandwidth are those of ``measures.jsonl``
(:mod:`tunesmith.analysis.faults`); clips without that file are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.analysis.noise import sound_to_noise_db
from tunesmith.data._clip_measures import LONGEST_S, Measured, measured, name_of
from tunesmith.data._sound import read_start
from tunesmith.data.recording import BadRecording
from tunesmith.types import Clip

MOST = 60.0
"""Points that one thing can cost."""

_CLEAN_DB = 30.0
_HUM_FROM_DBFS = -56.0


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a clip sounds, as far as it can be measured.

    Attributes:
        file: its path in the data set.
        score: 100 is the best; below 0 is possible.
        lost: points that each thing has cost.
    """

    file: str
    score: float
    lost: Mapping[str, float]


def rate(
    clips: Sequence[Clip],
    root: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Quality]:
    """The quality of each clip, in their order.

    Args:
        clips: of one data set.
        root: its folder.
        on_progress: told ``(done, total)``.

    Raises:
        UserError: a line of ``measures.jsonl`` that cannot be read.
    """
    known = {one.file: one for one in measured(clips, root)[0]}
    found = []
    for done, clip in enumerate(clips):
        on_progress(done, len(clips))
        name = name_of(clip, root)
        try:
            samples, rate_hz = read_start(clip.path, LONGEST_S)
            lost = points_lost(known[name], sound_to_noise_db(samples, rate_hz), rate_hz)
        except (BadRecording, KeyError):
            lost = {"unreadable": 100.0}
        found.append(Quality(name, round(100.0 - sum(lost.values()), 2), lost))
    on_progress(len(clips), len(clips))
    return found


def points_lost(one: Measured, noise_db: float, rate_hz: int) -> dict[str, float]:
    """Points that each thing costs a clip; what costs nothing is left out.

    Args:
        one: what is known of it.
        noise_db: its sound over its noise.
        rate_hz: its sample rate.
    """
    lost = {"noise": 2.0 * (_CLEAN_DB - noise_db)}
    if one.bandwidth_hz is not None:
        lost["bandwidth"] = 80.0 * (1.0 - 1.1 * one.bandwidth_hz / (rate_hz / 2))
    for fault in one.faults:
        figure = abs(fault.figure or 0.0)
        if fault.name == "clipping":
            lost["clipping"] = 20.0 + 5.0 * figure
        elif fault.name == "hum":
            lost["hum"] = 20.0 + max(0.0, (fault.figure or 0.0) - _HUM_FROM_DBFS)
        elif fault.name == "silence":
            lost["silence"] = 0.6 * figure
        elif fault.name == "dc":
            lost["dc"] = 10.0
    return {name: round(min(points, MOST), 2) for name, points in lost.items() if points >= 0.005}


def best(
    clips: Sequence[Clip],
    root: Path,
    share: float,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Clip], dict[str, Any]]:
    """The best share of each side of a data set, and what there is to say about the choice.

    Both sides are chosen from alike. The weights that are kept are those with the lowest validation
    loss, and noise that is not to be learned is not to be aimed at either; base and adapted model
    are measured on the same clips. At least one clip of each side stays. Varied versions go where
    their original goes. Of equal scores the earlier clip is taken.

    Args:
        clips: of one data set.
        root: its folder.
        share: of each side's clips, above 0 and at most 1.
        on_progress: told ``(done, total)``.

    Returns:
        The clips that stay, in their order, and per side ``kept``, ``of``, ``lowest_kept`` (score)
        and ``left_out`` (file, score, points lost), the worst first.
    """
    originals = [clip for clip in clips if not clip.variant_of]
    scores = dict(zip((c.path for c in originals), rate(originals, root, on_progress), strict=True))
    kept: set[Path] = set()
    told: dict[str, Any] = {"keep_best": share}
    for side in ("train", "valid"):
        some = [clip for clip in originals if clip.split == side]
        if not some:
            continue
        count = max(1, math.ceil(share * len(some) - 1e-9))
        ranked = sorted(some, key=lambda clip: -scores[clip.path].score)
        kept |= {clip.path for clip in ranked[:count]}
        told[side] = {
            "kept": count,
            "of": len(some),
            "lowest_kept": scores[ranked[count - 1].path].score,
            "left_out": [
                {"file": one.file, "score": one.score, "lost": dict(one.lost)}
                for one in (scores[clip.path] for clip in reversed(ranked[count:]))
            ],
        }
    chosen = [
        clip
        for clip in clips
        if (clip.path.with_name(clip.variant_of) if clip.variant_of else clip.path) in kept
    ]
    return chosen, told


__all__ = ["MOST", "Quality", "best", "points_lost", "rate"]
