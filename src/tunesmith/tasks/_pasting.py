"""What of a recording a base listens to, and what it made of that put back into the recording."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.types import Audio

FADE_S = 0.01
"""Seconds on either side of a hole over which the recording and what is new are faded into each other."""


def converted(audio: Audio, rate_hz: int, channels: int) -> Audio:
    """Sound at another rate (soxr, HQ) and in as many channels; fewer are the mean of all."""
    samples = audio.samples
    if samples.shape[0] != channels:
        samples = samples.mean(axis=0, keepdims=True).repeat(channels, axis=0)
    if audio.sample_rate_hz != rate_hz:
        samples = soxr.resample(samples.T, audio.sample_rate_hz, rate_hz).T
    return Audio(np.ascontiguousarray(samples, dtype=np.float32), rate_hz)


def around(bundle: Bundle, audio: Audio, spans: Sequence[tuple[float, float]]) -> tuple[int, Audio]:
    """The part of a recording that is listened to: its first sample, and itself."""
    rate = audio.sample_rate_hz
    most = int(bundle.max_s * rate + 1e-6)
    if audio.samples.shape[1] <= most:
        return 0, audio
    begin, end = round(spans[0][0] * rate), round(spans[-1][1] * rate)
    if end - begin >= most:
        raise UserError(
            f"the spans reach over {(end - begin) / rate:.1f} s, '{bundle.name}' hears {bundle.max_s:g} s",
            "make them anew one after the other",
        )
    first = min(max(0, (begin + end - most) // 2), audio.samples.shape[1] - most)
    return first, Audio(audio.samples[:, first : first + most], rate)


def pasted(
    audio: Audio,
    new: Audio,
    first: int,
    spans: Sequence[tuple[float, float]],
    fade_s: float = FADE_S,
) -> Audio:
    """A recording with spans of another laid over it, faded in and out just outside of them.

    Args:
        audio: the recording.
        new: what is laid over it.
        first: the sample of ``audio`` at which ``new`` begins.
        spans: in seconds of ``audio``.
        fade_s: length of a fade.
    """
    rate, length = audio.sample_rate_hz, audio.samples.shape[1]
    share = np.zeros(length, np.float32)  # of what is new
    ramp = max(1, round(fade_s * rate))
    for begin_s, end_s in spans:
        begin, end = round(begin_s * rate), min(round(end_s * rate), length)
        rise = np.clip((np.arange(length) - (begin - ramp)) / ramp, 0, 1)
        fall = np.clip(((end - 1 + ramp) - np.arange(length)) / ramp, 0, 1)
        share = np.maximum(share, np.minimum(rise, fall).astype(np.float32))
    stop = min(length, first + new.samples.shape[1])
    laid = audio.samples.copy()
    part = share[first:stop]
    laid[:, first:stop] = (
        audio.samples[:, first:stop] * (1 - part) + new.samples[:, : stop - first] * part
    )
    untouched = share == 0  # exactly what was given, also where it is beyond -1..1
    laid[:, untouched] = audio.samples[:, untouched]
    return Audio(laid, rate)


__all__ = ["FADE_S", "around", "converted", "pasted"]
