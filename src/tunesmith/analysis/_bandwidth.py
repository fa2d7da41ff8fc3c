"""Finds where a sound ends in frequency; :mod:`tunesmith.analysis.faults` judges it.

Two marks tell of a lower sample rate. Nothing is left above a cliff, where the resampler was a good
one. Where it was ffmpeg's or a short filter, what lies above the edge is a fading mirror image of
what lies below it, peak by peak. Recorded sound, however dark, is never its own mirror.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import fft, ndimage

BANDS = 128
# An edge at 16 kHz in a 44.1 kHz file is narrow, one at 17 kHz (LAME's at 128 kbit/s) is not.
NARROW = 0.735  # of half the sample rate

_LOWEST_EDGE = 20
_CLIFF_DB = 14.0
# Where nothing but rounding is left above it, a low cliff is one: what was recorded is never so even.
_LOW_CLIFF_DB, _EVEN_DB = 5.0, 1.0
_MOST_PARTIAL_DB = 50.0  # a partial that stands this far out of its band leaks into the others

_USUAL_HZ = (4000.0, 5512.5, 6000.0, 8000.0, 11_025.0, 12_000.0, 16_000.0, 22_050.0, 24_000.0)
# A resampler's edge lies a little below half the rate that it came from.
_BELOW_USUAL, _ABOVE_USUAL = 0.06, 0.01
_IMAGE_FROM, _IMAGE_TO = 0.004, 0.14  # of the edge, to both of its sides
_IMAGE_OVER_FLOOR_DB = 6.0
_IMAGE_LEAST_BINS = 20
_IMAGE_SMOOTHED_BINS = 15
# Of 350 clips through ffmpeg or scipy one lies below 0.75, of 1,600 looks at 250 others none above 0.6.
_IMAGE_LIKENESS = 0.75
_IMAGE_FALL_DB = 12.0  # a chord that lies around the edge by chance does not fade


def _db(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-20))


def spectrum(wave: np.ndarray, rate_hz: int) -> np.ndarray:
    """Mean power spectrum of ``[C, T]`` in windows of about 93 ms: ``[1 + a multiple of 128]``."""
    size = max(8 * BANDS, 2 ** round(math.log2(0.093 * rate_hz)))
    if wave.shape[1] < size:
        wave = np.pad(wave, ((0, 0), (0, size - wave.shape[1])))
    frames = wave[:, : wave.shape[1] // size * size].reshape(-1, size)
    bins = np.asarray(fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1))
    return np.square(np.abs(bins)).mean(axis=0, dtype=np.float64) / size


def bands_db(power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and lower quartile of a spectrum's bins in 128 equal bands: ``[128]``, dB.

    The quartile is what fills the space between partials.
    """
    bins = np.sort(power[1:].reshape(BANDS, -1), axis=1)
    return _db(bins.mean(axis=1)), _db(bins[:, bins.shape[1] // 4])


def edge_hz(power: np.ndarray, rate_hz: int) -> float:
    """Where a spectrum ends as no recorded sound does: 0.0 where it does not."""
    for usual_hz in _USUAL_HZ:
        if usual_hz < NARROW * rate_hz / 2 and _mirrored(power, rate_hz, usual_hz):
            return usual_hz
    mean_db, filled_db = bands_db(power)
    edge, height = _cliff(mean_db, filled_db)
    if not _is_cliff(mean_db, edge, height):
        return 0.0
    hz = edge / BANDS * rate_hz / 2
    for usual_hz in _USUAL_HZ:
        near = (1 - _BELOW_USUAL) * usual_hz <= hz <= (1 + _ABOVE_USUAL) * usual_hz
        if near and usual_hz < NARROW * rate_hz / 2:
            return usual_hz
    return hz


def _mirrored(power: np.ndarray, rate_hz: int, usual_hz: float) -> bool:
    """Whether what lies above a frequency is a fading image of what lies below it."""
    middle = usual_hz / (rate_hz / 2) * (len(power) - 1)
    away = np.arange(max(1, int(_IMAGE_FROM * middle)), int(_IMAGE_TO * middle))
    if len(away) < _IMAGE_LEAST_BINS:
        return False
    low, high = int(middle - away[-1]) - 1, int(middle + away[-1]) + 3
    if high > len(power):
        return False
    near_db = _db(power[low:high])
    below = np.interp(middle - away - low, np.arange(len(near_db)), near_db)
    above = np.interp(middle + away - low, np.arange(len(near_db)), near_db)
    far = slice(len(away) // 2, None)
    if below[far].mean() - above[far].mean() < _IMAGE_FALL_DB:
        return False
    floor_db = float(np.percentile(_db(power[round(1.02 * middle) :]), 5))
    there = above > floor_db + _IMAGE_OVER_FLOOR_DB
    if np.count_nonzero(there) < _IMAGE_LEAST_BINS:
        return False
    # Slopes are no likeness: only the peaks and gaps beside them count.
    below -= ndimage.uniform_filter1d(below, _IMAGE_SMOOTHED_BINS, mode="nearest")
    above -= ndimage.uniform_filter1d(above, _IMAGE_SMOOTHED_BINS, mode="nearest")
    one, other = below[there] - below[there].mean(), above[there] - above[there].mean()
    size = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) > _IMAGE_LIKENESS * size


def _cliff(mean_db: np.ndarray, filled_db: np.ndarray) -> tuple[int, float]:
    """Band above the steepest cliff and its height in dB: (128, 0.0) where there is none.

    Above the cliff nothing may rise again. Below it every band must be filled (a few partials
    are none) and not fall already: the slope before it is taken off.
    """
    above = np.maximum.accumulate(mean_db[::-1])[::-1]
    best = (BANDS, 0.0)
    for edge in range(_LOWEST_EDGE, round(1.05 * NARROW * BANDS)):
        # A resampler's own slope lies between a tenth below the edge and the edge.
        end = round(0.9 * edge)
        near = filled_db[end - max(4, edge // 8) : end]
        far = filled_db[end - 2 * len(near) - 2 : end - len(near) - 2]
        level = float(near.min())
        if float(mean_db[end - len(near) : end].max()) > level + _MOST_PARTIAL_DB:
            continue
        height = level - float(above[edge]) - max(0.0, float(np.median(far)) - level)
        if height > best[1]:
            # The edge itself is where half of the cliff is fallen.
            under = mean_db[end : edge + 1] < level - (level - above[edge]) / 2
            best = (end + int(np.argmax(under)), height)
    return best


def _is_cliff(mean_db: np.ndarray, edge: int, height: float) -> bool:
    if height >= _CLIFF_DB:
        return True
    above = mean_db[edge + 2 :]
    even = len(above) > 0 and float(above.max() - np.median(above)) <= _EVEN_DB
    return height >= _LOW_CLIFF_DB and even
