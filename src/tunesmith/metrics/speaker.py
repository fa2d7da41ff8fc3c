"""Speaker similarity: how like the target's voice the takes are, by an embedding that tells voices apart.

The mean cosine over all pairs of a take and a recording of the target. Pairs, not the distance to
the target's mean: that grows with the number of recordings, and could not be held against the
similarity of the target's recordings to each other, which is what "the same voice" looks like.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.errors import UserError
from tunesmith.metrics._intervals import around
from tunesmith.metrics._result import Result
from tunesmith.metrics.clap_score import mean_row, unit
from tunesmith.types import Audio

SPEC = {
    "name": "speaker",
    "summary": "Speaker similarity: cosine of the takes' voice and the target's",
    "better": "higher",
    "needs": ["reference", "candidate"],
}

LEAST_S = 3.0
"""Seconds of speech below which a voice is not told reliably."""

_FRAME_S, _BELOW_LOUDEST_DB = 0.02, 40.0


def compute(
    reference: Sequence[np.ndarray],
    candidate: Sequence[np.ndarray],
    *,
    others: Sequence[np.ndarray] = (),
    speech_s: Sequence[float] = (),
    seed: int = 0,
) -> Result:
    """Mean cosine of takes and recordings of the target's voice.

    A sound's embedding is the mean of its windows' (each of length 1), brought to length 1. The
    interval takes both the takes and the recordings for samples: the variance of the mean over all
    pairs is that of the takes' means / N + that of the recordings' means / M (Hoeffding 1948, the
    first-order terms of a two-sample U-statistic), with Satterthwaite's degrees of freedom (1946).
    Clips must be independent: cuts of one recording are more alike than other recordings would be.

    Args:
        reference: M recordings of the target, each ``[W, D]`` or ``[D]``.
        candidate: N takes, likewise.
        others: recordings of other voices, for the lower bound.
        speech_s: seconds of speech in each take (:func:`sounding_s`), for a warning.
        seed: unused, nothing is drawn; here because every metric takes one.

    Returns:
        The mean, −1 to 1. ``details["same_speaker"]`` is the mean cosine of two different recordings
        of the target, where there are two; ``details["different_speakers"]`` that of the target's and
        the others' recordings, where there are others.

    Raises:
        UserError: no takes, no recordings, different widths, NaN, or a row of zeros.
    """
    del seed
    if not len(reference) or not len(candidate):
        raise UserError(
            f"speaker: {len(candidate)} takes and {len(reference)} recordings of the target",
            "give one or more of each",
        )
    target, takes = _voices(reference), _voices(candidate)
    widths = {target.shape[1], takes.shape[1]} | {np.shape(one)[-1] for one in others}
    if len(widths) > 1:
        raise UserError(
            f"speaker: embeddings are {', '.join(map(str, sorted(widths)))} wide", "embed all alike"
        )
    cosines = takes @ target.T
    details: dict[str, float] = {}
    if (m := len(target)) > 1:
        details["same_speaker"] = float((target @ target.T)[~np.eye(m, dtype=bool)].mean())
    if len(others):
        details["different_speakers"] = float((target @ _voices(others).T).mean())
    return Result(
        value=float(cosines.mean()),
        interval=_interval(cosines),
        p_value=None,
        n_reference=m,
        n_candidate=len(takes),
        dimension=takes.shape[1],
        warnings=_warnings(m, len(takes), speech_s),
        details=details,
    )


def _voices(sounds: Sequence[np.ndarray]) -> np.ndarray:
    """One row of length 1 a sound: ``[N, D]``."""
    return unit(np.stack([mean_row(sound) for sound in sounds]))


def _interval(cosines: np.ndarray) -> tuple[float, float] | None:
    """Of the mean of ``[N, M]``, over its rows and its columns; over one of them where the other is single."""
    parts = []
    for axis in (0, 1):
        means = cosines.mean(axis=1 - axis)
        if len(means) > 1:
            parts.append((float(means.var(ddof=1)) / len(means), len(means) - 1))
    if not parts:
        return None
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread > 0 else 1.0
    return around(float(cosines.mean()), variance, freedom, (-1.0, 1.0))


def _warnings(recordings: int, takes: int, speech_s: Sequence[float]) -> tuple[str, ...]:
    out = []
    if short := sum(seconds < LEAST_S for seconds in speech_s):
        out.append(
            f"{short} of {len(speech_s)} takes have less than {LEAST_S:.0f} s of speech: too little to "
            "tell a voice by"
        )
    if recordings == 1:
        out.append(
            "one recording of the target: how much the voice itself varies is not in the interval"
        )
    if takes == 1:
        out.append("one take: how much takes vary is not in the interval")
    return tuple(out)


def sounding_s(audio: Audio) -> float:
    """Seconds of a sound that are not pauses: frames of 20 ms within 40 dB of the loudest.

    A measure of level only: music and noise count, too.
    """
    size = max(1, round(_FRAME_S * audio.sample_rate_hz))
    count = audio.samples.shape[1] // size
    if not count:
        return 0.0
    frames = audio.samples[:, : count * size].astype(np.float64).mean(axis=0).reshape(count, size)
    power = (frames**2).mean(axis=1)
    loud = power >= power.max() * 10 ** (-_BELOW_LOUDEST_DB / 10)
    return float(loud.sum() * size / audio.sample_rate_hz) if power.max() > 0 else 0.0
