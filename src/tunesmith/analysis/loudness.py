"""Loudness as broadcasters measure it: integrated loudness, loudness range, true peak.

ITU-R BS.1770-4 (integrated loudness, annex 1; true peak, annex 2) and EBU Tech 3342 (loudness range).
The standard gives its K-weighting for 48 kHz only; :func:`k_weighting` derives it for any rate.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.signal

FLOOR_DB = -120.0

_OFFSET_DB = -0.691  # equation 2: undoes what the weighting adds at 1 kHz
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_RANGE_GATE_LU = -20.0
_BLOCK_S, _STEP_S = 0.4, 0.1
_SHORT_TERM_S = 3.0
# Tables 1 (what a head does to sound) and 2 (a high pass): numerator, denominator.
_AT_48K = (
    (
        (1.53512485958697, -2.69169618940638, 1.19839281085285),
        (1.0, -1.69065929318241, 0.73248077421585),
    ),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)
_HIGHEST_TURN = 0.49 * np.pi
_SURROUND_GAIN = 1.41  # table 3, of the surround channels of 5.1

_REACH = 12  # samples on either side that a value between two samples is made of
_PEAK_BLOCK = 64
_BATCH = 256


def _to_s(section: np.ndarray) -> np.ndarray:
    """Coefficients ``[3]`` of powers 0, -1, -2 of z as those of powers 2, 1, 0 of s.

    ``s = (z - 1) / (z + 1)``; a factor common to numerator and denominator is left over.
    """
    first, second, third = section
    return np.array([first - second + third, 2 * (first - third), first + second + third])


def _to_z(polynomial: np.ndarray) -> np.ndarray:
    """The way back."""
    second, first, constant = polynomial
    return np.array([second + first + constant, 2 * (constant - second), second - first + constant])


def k_weighting(sample_rate_hz: float) -> np.ndarray:
    """The two filters of BS.1770-4 for a rate, as second-order sections ``[2, 6]``.

    Tables 1 and 2 are bilinear transforms at 48 kHz. They are transformed back, moved so that each
    corner stays at its frequency, and transformed again.
    """
    sections = []
    for numerator, denominator in _AT_48K:
        above, below = _to_s(np.array(numerator)), _to_s(np.array(denominator))
        corner = np.sqrt(below[2] / below[0])  # in s, where f stands at tan(pi f / rate)
        turn = np.arctan(corner) * 48_000 / sample_rate_hz
        # At low rates the shelf's corner lies above half the rate: the shelf is flat there anyway.
        move = (corner / np.tan(min(turn, _HIGHEST_TURN))) ** np.array([2, 1, 0])
        above, below = _to_z(above * move), _to_z(below * move)
        sections.append(np.concatenate([above, below]) / below[0])
    return np.array(sections)


def _channel_gains(channels: int) -> np.ndarray:
    """Equation 2's weights: 5.1 (left, right, centre, LFE, surrounds) has its own, others count 1."""
    if channels == 6:
        return np.array([1, 1, 1, 0, _SURROUND_GAIN, _SURROUND_GAIN])
    if channels == 5:
        return np.array([1, 1, 1, _SURROUND_GAIN, _SURROUND_GAIN])
    return np.ones(channels)


def _step_powers(samples: np.ndarray, sample_rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """K-weighted power summed over 100 ms steps.

    Returns:
        (weighted sums of squares ``[S]``, frames in each step ``[S]``); whole steps only
    """
    sections = k_weighting(sample_rate_hz)
    steps = int(len(samples) / sample_rate_hz / _STEP_S + 1e-6)
    edges = np.round(np.arange(steps + 1) * _STEP_S * sample_rate_hz).astype(int)
    sums = np.zeros(steps)
    for channel, gain in enumerate(_channel_gains(samples.shape[1])):
        if steps and gain:
            channel_samples = samples[:, channel].astype(np.float64)
            weighted = np.asarray(scipy.signal.sosfilt(sections, channel_samples))
            sums += gain * np.add.reduceat(weighted[: edges[-1]] ** 2, edges[:-1])
    return sums, np.diff(edges)


def _block_powers(sums: np.ndarray, frames: np.ndarray, length_s: float) -> np.ndarray:
    """Mean power of blocks that begin every 100 ms, ``[max(0, S - length + 1)]``."""
    width = round(length_s / _STEP_S)
    if len(sums) < width:
        return np.zeros(0)
    ones = np.ones(width)
    return np.convolve(sums, ones, "valid") / np.convolve(frames, ones, "valid")


def _lufs(power: np.ndarray | float) -> np.ndarray:
    return _OFFSET_DB + 10 * np.log10(np.maximum(power, 1e-20))


def _integrated(sums: np.ndarray, frames: np.ndarray) -> float | None:
    power = _block_powers(sums, frames, _BLOCK_S)
    power = power[_lufs(power) > _ABSOLUTE_GATE_LUFS]
    if not len(power):
        return None
    power = power[_lufs(power) > _lufs(power.mean()) + _RELATIVE_GATE_LU]
    return float(_lufs(power.mean()))


def _range(sums: np.ndarray, frames: np.ndarray) -> float | None:
    power = _block_powers(sums, frames, _SHORT_TERM_S)
    power = power[_lufs(power) >= _ABSOLUTE_GATE_LUFS]
    if len(power) < 2:
        return None
    loud = _lufs(power)[_lufs(power) >= _lufs(power.mean()) + _RANGE_GATE_LU]
    low, high = np.percentile(loud, [10, 95])
    return float(high - low)


def loudness(samples: np.ndarray, sample_rate_hz: int) -> tuple[float | None, float | None]:
    """Both of the following, weighted once."""
    sums, frames = _step_powers(samples, sample_rate_hz)
    return _integrated(sums, frames), _range(sums, frames)


def integrated_lufs(samples: np.ndarray, sample_rate_hz: int) -> float | None:
    """Integrated loudness of float32 ``[T, C]`` in LUFS, BS.1770-4 equations 1 to 7.

    Returns:
        None where nothing passes the gate: silence, or less than 0.4 s.
    """
    return loudness(samples, sample_rate_hz)[0]


def loudness_range_lu(samples: np.ndarray, sample_rate_hz: int) -> float | None:
    """Loudness range of float32 ``[T, C]`` in LU, EBU Tech 3342: 10th to 95th percentile of 3 s.

    Returns:
        None under 3.1 s, or where nothing passes the gate.
    """
    return loudness(samples, sample_rate_hz)[1]


def _interpolator() -> np.ndarray:
    """A block and its surroundings to the three values after each sample of the block.

    A windowed sinc, as a matrix so that many blocks are one product: float32 ``[64 + 24, 3 * 64]``.
    """
    around = np.arange(-_REACH, _PEAK_BLOCK + _REACH)[:, None]
    places = (np.arange(_PEAK_BLOCK)[:, None] + np.array([0.25, 0.5, 0.75])).ravel()
    away = around - places
    window = np.i0(5.0 * np.sqrt(np.maximum(0, 1 - (away / _REACH) ** 2))) / np.i0(5.0)
    return np.where(np.abs(away) < _REACH, np.sinc(away) * window, 0.0).astype(np.float32)


_INTERPOLATOR = _interpolator()
# No value of a block is larger than the largest sample around times this.
_OVERSHOOT = float(np.abs(_INTERPOLATOR).sum(axis=0).max())


def true_peak_dbtp(samples: np.ndarray, sample_rate_hz: int) -> float:
    """Peak of float32 ``[T, C]`` at four times its rate, in dB of full scale, at least -120.

    BS.1770-4 annex 2. Only what could hold the peak is interpolated: blocks whose largest sample,
    times the most that interpolation can add, exceeds the peak found so far.

    Args:
        samples: the sound.
        sample_rate_hz: without effect, as the factor is the same for all rates.
    """
    del sample_rate_hz
    frames, channels = samples.shape
    scale = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if scale <= 10 ** (FLOOR_DB / 20):
        return FLOOR_DB
    count = -(-frames // _PEAK_BLOCK)
    padded = np.zeros((channels, count * _PEAK_BLOCK + 2 * _REACH), np.float32)
    np.multiply(samples.T, np.float32(1 / scale), out=padded[:, _REACH : _REACH + frames])
    windows = np.lib.stride_tricks.sliding_window_view(padded, _PEAK_BLOCK + 2 * _REACH, axis=1)
    windows = windows[:, ::_PEAK_BLOCK]  # [C, count, 64 + 24]
    tops = np.maximum(windows.max(axis=2), -windows.min(axis=2)).ravel()
    peak = 1.0
    order = np.argsort(tops)[::-1]
    for start in range(0, len(order), _BATCH):
        some = order[start : start + _BATCH]
        some = some[tops[some] * _OVERSHOOT > peak]
        if not len(some):
            break
        fine = windows[some // count, some % count] @ _INTERPOLATOR
        peak = max(peak, float(np.abs(fine).max()))
    return 20 * (math.log10(scale) + math.log10(peak))
