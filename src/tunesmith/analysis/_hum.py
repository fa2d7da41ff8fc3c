"""Finds the comb of steady lines that mains hum is; :mod:`tunesmith.analysis.faults` judges it."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

HUM_RATE_HZ = 1500
_HUM_WINDOW_S = 10.0
_QUIET_WINDOW_S = 2.0
_HARMONICS = 10
_LINE_DB = 4.0  # over everything near it
_NEAR_HZ = 2.5
_STEADY = 0.3  # of its power is left in the quietest tenth of the time
_HUM_LINES = 3
# Sound that repeats itself every 0.2 s has lines at all multiples of 5 Hz, those of the mains too.
# Neighbours on the grid are at most this far below the line; few lines may be there by chance.
_GRID_DB, _FEW_LINES, _GRID_OF_FEW_DB = 6.0, 4, 9.0
_GRID_SHARE = 0.6  # of the lines have such neighbours


def _db(power: float) -> float:
    return float(10 * np.log10(max(power, 1e-20)))


def comb(wave: np.ndarray) -> tuple[float, float]:
    """Level in dBFS and fundamental of the mains comb with the most lines in ``[T]``, or -200, 0.

    Two spectra are looked at. That of up to 10 s is so narrow that a note which starts and stops
    is wide in it. That of the quietest quarter of all 2 s windows, bin by bin, shows what the
    music leaves free. A line of either counts where it holds its level in the quietest tenth of
    all quarter seconds, since music adds to hum and seldom takes away.
    """
    whole, step_hz = _spectrum(wave, _HUM_WINDOW_S, None)
    quiet, quiet_step_hz = _spectrum(wave, _QUIET_WINDOW_S, 25.0)
    length_s = min(len(wave) / HUM_RATE_HZ, _HUM_WINDOW_S)
    sharp = _lines(whole, step_hz, length_s)
    free = _lines(quiet, quiet_step_hz, _QUIET_WINDOW_S)
    tops = ndimage.maximum_filter1d(whole, 2 * max(1, round(0.08 / step_hz)) + 1)
    quiet_tops = ndimage.maximum_filter1d(quiet, 2 * max(1, round(0.25 / quiet_step_hz)) + 1)
    numbers = np.arange(1, _HARMONICS + 1)
    best = (0, -200.0, 0.0)
    for mains_hz in (50.0, 60.0):
        exact_hz = mains_hz + np.arange(-0.5, 0.501, 0.02)
        hz = exact_hz[:, None] * numbers
        at = np.round(hz / step_hz).astype(int)
        there = _widened(sharp, 0.08 / step_hz)[at]
        at_quiet = np.round(hz / quiet_step_hz).astype(int)
        there_quiet = _widened(free, 0.25 / quiet_step_hz)[at_quiet]
        count = (there | there_quiet).sum(axis=1)
        for row in np.flatnonzero(count == max(int(count.max()), _HUM_LINES)):
            # Music may hide a line in either spectrum, but only from above.
            power = np.minimum(tops[at[row]], quiet_tops[at_quiet[row]])
            lines = there[row] | there_quiet[row]
            for number in np.flatnonzero(lines):
                lines[number] = _steady(wave, hz[row, number], power[number])
            if lines.sum() >= _HUM_LINES and lines[:3].any():
                # In the quiet spectrum no chord of the music stands beside a line of hum.
                if _is_grid(quiet_tops, quiet_step_hz, hz[row, lines], mains_hz):
                    break
                best = max(best, (int(lines.sum()), _db(float(power[lines].sum())), mains_hz))
                break
    return best[1], best[2]


def _spectrum(
    wave: np.ndarray, window_s: float, percentile: float | None
) -> tuple[np.ndarray, float]:
    """Power of sines up to 750 Hz: mean of the windows or a percentile, and the step in Hz."""
    length = min(len(wave), round(window_s * HUM_RATE_HZ))
    hop = length if percentile is None else length // 4
    window = np.hanning(length)
    size = 4 * length
    frames = np.lib.stride_tricks.sliding_window_view(wave, length)[::hop]
    # A sine of amplitude A has the power A**2 / 2 at its peak.
    spectra = np.asarray(fft.rfft(frames * window, size, axis=1))
    power = 2 * np.abs(spectra / window.sum()) ** 2
    middle = power.mean(axis=0) if percentile is None else np.percentile(power, percentile, axis=0)
    return middle, HUM_RATE_HZ / size


def _lines(power: np.ndarray, step_hz: float, length_s: float) -> np.ndarray:
    """Which bins are peaks that stand over everything near them but their own main lobe."""
    lobe = round(2.2 / length_s / step_hz) + 1
    reach = round(_NEAR_HZ / step_hz)
    side = ndimage.maximum_filter1d(power, reach)
    shift = lobe + reach // 2
    around = np.maximum(np.roll(side, shift), np.roll(side, -shift))
    peak = power >= ndimage.maximum_filter1d(power, 3)
    return peak & (power > 10 ** (_LINE_DB / 10) * around) & (power > 1e-9)


def _is_grid(tops: np.ndarray, step_hz: float, hz: np.ndarray, mains_hz: float) -> bool:
    """Whether lines ``[L]`` belong to a finer grid: a whole part of the mains' frequency apart.

    Their neighbours on it are about as strong, on both sides, and less is between.
    """
    range_db = _GRID_OF_FEW_DB if len(hz) <= _FEW_LINES else _GRID_DB
    for parts in range(2, int(mains_hz / _NEAR_HZ) + 1):
        apart_hz = mains_hz / parts
        # In places of the spectrum: [-1, -1/2, 0, 1/2, 1] spacings away from every line.
        at = np.round((hz[:, None] + apart_hz * np.arange(-2, 3) / 2) / step_hz).astype(int)
        below, left, line, right, above = 10 * np.log10(tops[at] + 1e-20).T
        neighbours = np.minimum(below, above)
        near = neighbours > line - range_db
        clear = neighbours > np.maximum(left, right)
        if np.mean(near & clear) >= _GRID_SHARE:
            return True
    return False


def _widened(flags: np.ndarray, bins: float) -> np.ndarray:
    return ndimage.maximum_filter1d(flags.astype(np.uint8), 2 * max(1, round(bins)) + 1) > 0


def _steady(wave: np.ndarray, hz: float, power: float) -> bool:
    """Whether a sine of that power is there even in the quietest tenth of all quarter seconds."""
    length = min(len(wave), HUM_RATE_HZ // 4)
    window = np.hanning(length)
    turn = np.exp(-2j * np.pi * hz / HUM_RATE_HZ * np.arange(length)) * window
    frames = np.lib.stride_tricks.sliding_window_view(wave, length)[:: length // 4]
    moments = 2 * np.abs(frames @ turn / window.sum()) ** 2
    return float(np.percentile(moments, 10)) > _STEADY * power
