"""Pitch of a voice: the fundamental frequency of each frame that has one, by YIN.

de Cheveigné & Kawahara 2002, "YIN, a fundamental frequency estimator for speech and music": the difference
function over a lag τ (equation 6), divided by its mean over shorter lags (equation 8), and the first dip of that
below a threshold. Good enough for medians and ranges of speech; no tracking from frame to frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from tunesmith.types import Audio

LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0

_RATE_HZ = 16_000
_FRAME_S, _HOP_S = 0.04, 0.01
_THRESHOLD = 0.15
_BELOW_LOUDEST_DB = 30.0


@dataclass(frozen=True, slots=True)
class Pitch:
    """Pitch of a voice over one or more sounds.

    Attributes:
        median_hz: half of the voiced frames are below.
        low_hz, high_hz: a tenth of them is below, and above.
        voiced_s: seconds of voiced sound.
    """

    median_hz: float
    low_hz: float
    high_hz: float
    voiced_s: float

    @property
    def range_semitones(self) -> float:
        """From ``low_hz`` to ``high_hz``."""
        return semitones(self.low_hz, self.high_hz)


def semitones(low_hz: float, high_hz: float) -> float:
    """The interval between two frequencies; negative where it falls."""
    return float(12 * np.log2(high_hz / low_hz))


def frames_hz(audio: Audio) -> np.ndarray:
    """Fundamental frequencies ``[N]`` of the frames (every 10 ms) that have one."""
    mono = audio.samples.mean(axis=0, dtype=np.float32)
    if audio.sample_rate_hz != _RATE_HZ:
        mono = soxr.resample(mono, audio.sample_rate_hz, _RATE_HZ)
    mono = np.asarray(mono, np.float64)
    shortest, longest = int(_RATE_HZ / HIGHEST_HZ), int(_RATE_HZ / LOWEST_HZ)
    window = round(_FRAME_S * _RATE_HZ)
    size, hop = window + longest + 1, round(_HOP_S * _RATE_HZ)
    if len(mono) < size:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(mono, size)[::hop]
    power = np.square(frames[:, :window]).mean(axis=1)
    if not power.max() > 0:
        return np.zeros(0)
    frames = frames[power >= power.max() * 10 ** (-_BELOW_LOUDEST_DB / 10)]
    ratio = _normalised(frames, window, longest)
    dips = ratio[:, shortest:]
    below = dips < _THRESHOLD
    voiced = below.any(axis=1)
    dips, first = dips[voiced], below[voiced].argmax(axis=1)
    rows = np.arange(len(dips))
    # On from the first lag below the threshold, down to the bottom of its dip.
    rising = np.diff(dips, axis=1, append=np.inf) > 0
    rising &= np.arange(dips.shape[1])[None] >= first[:, None]
    lag = rising.argmax(axis=1)
    at = np.clip(lag, 1, dips.shape[1] - 2)
    left, middle, right = dips[rows, at - 1], dips[rows, at], dips[rows, at + 1]
    curve = left - 2 * middle + right
    shift = np.where(curve > 0, 0.5 * (left - right) / np.where(curve > 0, curve, 1), 0.0)
    found = _RATE_HZ / (at + shortest + np.clip(shift, -0.5, 0.5))
    return found[(found >= LOWEST_HZ) & (found <= HIGHEST_HZ)]


def _normalised(frames: np.ndarray, window: int, longest: int) -> np.ndarray:
    """YIN's d'(τ) ``[N, longest + 1]`` of frames ``[N, window + longest + 1]``."""
    size = 1 << (frames.shape[1] + window - 1).bit_length()
    heads = np.fft.rfft(frames[:, :window], size)
    products = np.fft.irfft(np.fft.rfft(frames, size) * heads.conj(), size)[:, : longest + 1]
    total = np.cumsum(np.pad(np.square(frames), ((0, 0), (1, 0))), axis=1)
    energy = total[:, window : window + longest + 1] - total[:, : longest + 1]
    apart = np.maximum(energy[:, :1] + energy - 2 * products, 0.0)
    lags = np.arange(1, longest + 1)
    mean = np.cumsum(apart[:, 1:], axis=1) / lags
    ratio = np.ones_like(apart)
    ratio[:, 1:] = apart[:, 1:] / np.maximum(mean, 1e-12)
    return ratio


def of_sounds(sounds: list[Audio] | tuple[Audio, ...]) -> Pitch | None:
    """Pitch over all voiced frames of several sounds; None where there are hardly any (0.2 s)."""
    found = np.concatenate([np.zeros(0), *(frames_hz(one) for one in sounds)])
    if len(found) * _HOP_S < 0.2:
        return None
    low, middle, high = np.quantile(found, (0.1, 0.5, 0.9))
    return Pitch(float(middle), float(low), float(high), len(found) * _HOP_S)


__all__ = ["HIGHEST_HZ", "LOWEST_HZ", "Pitch", "frames_hz", "of_sounds", "semitones"]
