"""Loss of each clip under a base and under a run: what a mean with an interval is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from tunesmith.data.encode import encode
from tunesmith.data.load import load_dataset
from tunesmith.evaluation.findings import Finding
from tunesmith.evaluation.open import attached, opened
from tunesmith.training.hardware import choose_dtype
from tunesmith.training.measure import clip_losses, forward
from tunesmith.training.rehearsal import sampled
from tunesmith.training.signals import StopFlag
from tunesmith.types import Clip, Example

OnEvent = Callable[[str, Mapping[str, Any]], None]

_BATCH = 4


def losses_of(
    *,
    base: Mapping[str, Any],
    run: str | None,
    sets: Mapping[str, Mapping[str, Any]],
    anchor: Mapping[str, Any] | None = None,
    stop: StopFlag,
    on_event: OnEvent,
) -> dict[str, list[tuple[float, float]]]:
    """``(sum, count)`` of each clip of each set, in nats and codes.

    Args:
        base: how to open the base: :class:`tunesmith.evaluation.open.BaseName` as a mapping.
        run: folder of a run on it; None for the base itself.
        sets: by name: ``path`` of a data set, the ``split`` wanted (None is all of it), the hashes of
            the clips wanted if these are not all of it (``only``), and whether its captions are
            ``worded`` as the run was taught.
        anchor: ``prompts``, ``clips``, ``seconds`` and ``seed`` of what the base is to sample of
            itself: a further set, ``anchor_loss``.
        stop: polled often.
        on_event: told ``encode``.
    """
    bundle, wording = opened(base, None)
    own = []
    if anchor is not None:
        own = sampled(bundle, **anchor, stop=stop, event=on_event)
    if run is not None:
        wording = attached(bundle, Path(run))
    dtype = choose_dtype("auto", torch.device(bundle.device))
    found = {}

    def measured(examples: Sequence[Example]) -> list[tuple[float, float]]:
        each = clip_losses(
            bundle,
            examples,
            _BATCH,
            lambda batch: forward(bundle, batch, dtype),
            lambda: stop.check("stopped while measuring; run the same command again"),
        )
        return [_whole(clip, bundle.term_weights) for clip in each]

    if own:
        found["anchor_loss"] = measured(own)
    for name, wanted in sets.items():
        clips = chosen(wanted["path"], wanted["split"], wanted.get("only"))
        if wanted["worded"]:
            clips = [replace(clip, caption=wording(clip.caption), captions=()) for clip in clips]
        encoded = encode(
            clips,
            bundle,
            should_stop=stop,
            on_progress=lambda done, total: on_event("encode", {"done": done, "total": total}),
        )
        found[name] = measured(encoded)
    return found


def _whole(
    clip: Mapping[str, tuple[float, float]], weights: Mapping[str, float]
) -> tuple[float, float]:
    """A clip's whole loss times its size, and its size: that of its largest term."""
    size = max(count for _, count in clip.values())
    loss = sum(weights.get(term, 1.0) * total / count for term, (total, count) in clip.items())
    return loss * size, size


def chosen(path: str, split: str | None, only: Collection[str] | None = None) -> list[Clip]:
    """The clips of one side of a data set, without varied versions; the same bytes count once.

    Args:
        path: of the data set.
        split: the side; None is both.
        only: hashes of the clips wanted; None is all.
    """
    clips = [clip for clip in load_dataset(path) if not clip.variant_of]
    clips = [clip for clip in clips if split is None or clip.split == split]
    wanted = None if only is None else set(only)
    once = {clip.sha256: clip for clip in reversed(clips)}
    return [
        clip
        for clip in clips
        if once[clip.sha256] is clip and (wanted is None or clip.sha256 in wanted)
    ]


def compared(
    metric: str,
    subject: str,
    own: Sequence[tuple[float, float]],
    base: Sequence[tuple[float, float]],
    groups: Sequence[str],
    explanation: str,
) -> Finding:
    """Mean loss with its interval, and the p-value of the difference to the base's.

    The mean is a ratio Σ sums / Σ counts, so its error is jackknifed, a recording at a time: clips
    of one recording are alike (Efron and Tibshirani 1993, ch. 11; t with G − 1 degrees of freedom).
    The same clips went through both models, so the difference is tested pair by pair.

    Args:
        metric: name of the finding.
        subject: whose it is.
        own, base: ``(sum, count)`` of each clip.
        groups: recording of each clip.
        explanation: for a reader.
    """
    value, error, degrees = ratio(own, groups)
    difference = [(a[0] - b[0], a[1]) for a, b in zip(own, base, strict=True)]
    apart, apart_error, _ = ratio(difference, groups)
    interval = p_value = None
    warnings = ()
    if degrees >= 1:
        width = float(stats.t.ppf(0.975, degrees)) * error
        interval = (value - width, value + width)
        if apart_error > 0:
            p_value = float(2 * stats.t.sf(abs(apart) / apart_error, degrees))
    if degrees < 4:
        warnings = (f"{degrees + 1} recording(s) are too few to tell how far others would differ",)
    return Finding(
        metric,
        subject,
        value,
        "lower",
        interval=interval,
        n=len(own),
        p_value=p_value,
        warnings=warnings,
        explanation=explanation,
        details={"recordings": degrees + 1},
    )


def ratio(clips: Sequence[tuple[float, float]], groups: Sequence[str]) -> tuple[float, float, int]:
    """Σ sums / Σ counts, its jackknife standard error over groups, and G − 1."""
    names = sorted(set(groups))
    place = {name: index for index, name in enumerate(names)}
    both = np.zeros((len(names), 2))
    for (total, count), group in zip(clips, groups, strict=True):
        both[place[group]] += total, count
    whole = both.sum(axis=0)
    value = float(whole[0] / whole[1])
    if len(names) < 2:
        return value, 0.0, 0
    without = (whole[0] - both[:, 0]) / (whole[1] - both[:, 1])
    n = len(names)
    error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return value, error, n - 1
