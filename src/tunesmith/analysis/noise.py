"""How far a sound stands above the noise that it lies in."""

from __future__ import annotations

import math

import numpy as np
from scipy import fft

LOUDEST_DB = 120.0
"""Given for a sound without any noise, such as one with rests of digital silence."""

_WINDOW_S = 0.064
_QUANTILE = 0.1


def sound_to_noise_db(samples: np.ndarray, sample_rate_hz: int) -> float:
    """Mean power over that of the steady noise below it, as if the noise were white: dB.

    Quantile noise estimation (Stahl, Fischer and Bippus 2000, ICASSP, "Quantile based noise
    estimation for spectral subtraction and Wiener filtering"): music leaves every frequency now and
    then, noise never does, so the lowest tenth over time of a bin's power is the noise's. The power
    of noise in a bin is exponential, so its lowest tenth lies at -ln(1 - 0.1) of its mean. Of the
    bins the median counts: notes that are held stand in few of them.

    White noise at S dB below music is found as S up to about 30 dB; above, the decay of the notes
    fills the gaps.

    Args:
        samples: float32 ``[T, C]``, finite.
        sample_rate_hz: of the samples.

    Returns:
        dB, from 0 to 120; 0 in silence.
    """
    size = 2 ** round(math.log2(_WINDOW_S * sample_rate_hz))
    mono = samples.mean(axis=1, dtype=np.float64)
    if len(mono) < size or not np.any(mono):
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(mono, size)[:: size // 2]
    power = np.square(np.abs(np.asarray(fft.rfft(frames * np.hanning(size), axis=1))))[:, 1:-1]
    lowest = np.quantile(power, _QUANTILE, axis=0) / -math.log(1 - _QUANTILE)
    noise = float(np.median(lowest)) * power.shape[1]
    sound = float(power.mean(axis=0).sum())
    if noise <= sound * 10 ** (-LOUDEST_DB / 10):
        return LOUDEST_DB
    return max(0.0, 10 * math.log10(sound / noise))
