"""Pulse: onsets, tempo, beats, and how sure one can be of them.

Onsets are rises of a log spectrum against its neighbourhood in frequency (Böck and Widmer 2013,
"Maximum filter vibrato suppression for onset detection"), so that vibrato and glides are none. The
period is the one at whose multiples four frequency regions repeat themselves; the beats are the
path along the onsets that keeps it best (Ellis 2007, "Beat tracking by dynamic programming").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.special

from tunesmith.analysis.spectrum import RATE_HZ, magnitudes, to_mono

SIZE, HOP = 1024, 256
FRAMES_PER_S = RATE_HZ / HOP
SLOWEST_BPM, FASTEST_BPM = 40.0, 240.0

_LOWEST_HZ, _HIGHEST_HZ = 40.0, 10_000.0
_BANDS_PER_OCTAVE = 12
_COMPRESSION = 1e3  # of the log: what lies 60 dB below the loudest band is no onset
_RISE_FRAMES = 2  # a rise is measured over 23 ms
_REGIONS = 4  # of the spectrum, each with a say of its own: bass drum, chords, melody, cymbals
_SURROUND_S = 0.4  # an onset stands out against this neighbourhood in time
# A window notices a sound before its middle has reached it. Measured with clicks and plucked notes.
_EARLY_S = 0.004

_WINDOW_S = 12.0  # a tempo has to hold this long, not for the whole recording
_SHORTEST_S = 2.5
# (multiple of the period, weight): a beat, its double, the bar, and a little its half.
_COMB = ((1.0, 1.5), (2.0, 0.5), (4.0, 1.0), (0.5, 0.3))
_KNOWN_WEIGHT = 2.3  # all but the bar must fit in, else any short sound would have a slow tempo
# People tap near two beats a second (Moelants 2002); only to tell a tempo from its double.
_PREFERRED_BPM, _PREFERENCE_OCTAVES = 125.0, 0.9
_SAME = 0.04  # tempos that are closer are one; what the field's benchmarks allow

# Logistic map of 1 and the four figures of `_Evidence` to the share that was right: fitted on 1,200
# stretches of music with known tempo (3 to 10 s, faster and slower) and 640 without any (speech,
# noise, pads, notes at random times, music with wavering tempo). None of them is in bench/facts.py.
_CONFIDENCE = (-3.2, 11.2, 3.6, 1.1, -43.0)
_NO_PULSE = 0.2  # confidence below which there is none

_TIGHTNESS = 100.0  # what a gap costs that is not a period
_WAVERS = 0.2  # ln; beats that waver more are no worse
_FEWEST_BEATS = 4
_BLUR_FRAMES = 1.5
_HEARD = 0.25  # of the median beat: beats at the ends that are weaker are not heard
_SILENT = 0.1  # of the strong beats: if every other beat is weaker, it is none

_APART_S = 0.05  # between onsets that are counted
_ONSET_SHARE = 0.1  # of the strongest onset
# The ripple of a drone repeats itself perfectly and is no pulse: a pulse has onsets. This one is in
# the unit of the envelope: a note struck gives 10 to 200, two low partials beating 2 to 4.
_LEAST_ONSET = 5.0
_FEWEST_ONSETS, _FEWEST_ONSETS_PER_S = 6, 0.5


@dataclass(frozen=True, slots=True)
class Beats:
    """A pulse.

    Attributes:
        tempo_bpm: beats per minute.
        confidence: about the probability that the tempo, its half or its double is within 4 %.
        times_s: float64 ``[B]``, ascending.
    """

    tempo_bpm: float
    confidence: float
    times_s: np.ndarray


def _filters() -> np.ndarray:
    """Triangles a semitone wide (wider where a bin is): float32 ``[SIZE // 2 + 1, bands]``."""
    count = int(np.log2(_HIGHEST_HZ / _LOWEST_HZ) * _BANDS_PER_OCTAVE)
    centres = _LOWEST_HZ * 2.0 ** (np.arange(count + 2) / _BANDS_PER_OCTAVE)
    bins = np.arange(SIZE // 2 + 1)
    near = np.unique(np.round(centres * SIZE / RATE_HZ).astype(int))
    left, middle, right = near[:-2, None], near[1:-1, None], near[2:, None]
    rise, fall = (bins - left) / (middle - left), (right - bins) / (right - middle)
    bank = np.maximum(0.0, np.minimum(rise, fall))
    return (bank / bank.sum(axis=1, keepdims=True)).astype(np.float32).T


_FILTERS = _filters()


def to_bands(spectra: np.ndarray) -> np.ndarray:
    """Magnitudes ``[F, SIZE // 2 + 1]`` to their means in bands, float32 ``[F, bands]``."""
    return spectra @ _FILTERS


def bands(mono: np.ndarray) -> np.ndarray:
    """float32 ``[N]`` at 22.05 kHz to the magnitude in bands, float32 ``[F, bands]``."""
    return np.concatenate([to_bands(part) for part in magnitudes(mono, SIZE, HOP)])


def region_onsets(level: np.ndarray) -> np.ndarray:
    """Magnitudes ``[F, bands]`` to onset strengths, float32 ``[F, 4]``, bass first."""
    peak = float(level.max(initial=0.0))
    onsets = np.zeros_like(level)
    if peak > 0:
        logs = np.log1p(level * (_COMPRESSION / peak))
        before = scipy.ndimage.maximum_filter1d(logs, 3, axis=1)[:-_RISE_FRAMES]
        np.maximum(0, logs[_RISE_FRAMES:] - before, out=onsets[_RISE_FRAMES:])
    regions = [part.sum(axis=1) for part in np.array_split(onsets, _REGIONS, axis=1)]
    return np.stack(regions, axis=1)


def onset_envelope(mono: np.ndarray) -> np.ndarray:
    """Onset strength of float32 ``[N]`` at 22.05 kHz: float32 ``[F]``, 86.13 frames a second.

    The unit is the log of magnitude summed over bands: the loudness of the recording has no part.
    """
    return region_onsets(bands(mono)).sum(axis=1)


def _standing_out(onsets: np.ndarray) -> np.ndarray:
    around = scipy.ndimage.uniform_filter1d(onsets, max(1, int(_SURROUND_S * FRAMES_PER_S)), axis=0)
    return np.maximum(0, onsets - around)


def _autocorrelation(onsets: np.ndarray, lags: int) -> np.ndarray:
    """How much ``[F, R]`` is like itself some frames later: ``[lags]``, 1 at lag 0.

    Each region counts the same. Divided by the number of products (unbiased), so that long periods
    are not at a disadvantage.
    """
    frames = len(onsets)
    centred = onsets - onsets.mean(axis=0)
    spectrum = np.asarray(scipy.fft.rfft(centred, 2 * frames, axis=0))
    full = np.asarray(scipy.fft.irfft(np.abs(spectrum) ** 2, 2 * frames, axis=0))
    full = full[: min(lags, frames)]
    full = full / (1 - np.arange(len(full))[:, None] / frames)
    sounding = full[0] > 1e-6 * max(float(full[0].max()), 1e-9)
    if not sounding.any():
        return np.zeros(len(full))
    return (full[:, sounding] / full[0, sounding]).mean(axis=1)


_GRID_BPM = np.exp(np.linspace(np.log(SLOWEST_BPM), np.log(FASTEST_BPM), 400))


def _comb(likeness: np.ndarray, bpm: np.ndarray) -> np.ndarray:
    """Mean likeness at the multiples of a period, ``[len(bpm)]``; those too long do not count."""
    total, weights = np.zeros(len(bpm)), np.zeros(len(bpm))
    places = np.arange(len(likeness))
    for multiple, weight in _COMB:
        lags = 60 / bpm * FRAMES_PER_S * multiple
        known = weight * (lags < len(likeness) - 1)
        total += known * np.interp(lags, places, likeness)
        weights += known
    return np.where(weights > _KNOWN_WEIGHT - 1e-6, total / np.maximum(weights, 1e-9), 0.0)


def _related(bpm: np.ndarray, other: float, tolerance: float = _SAME) -> np.ndarray:
    ratios = np.array([1, 2, 0.5])[:, None]
    return np.any(np.abs(bpm / (other * ratios) - 1) < tolerance, axis=0)


def track(onsets: np.ndarray, period: float) -> np.ndarray:
    """Beats along onset strengths ``[F]``, about ``period`` frames apart: int ``[B]``.

    Ellis 2007, equations 3 and 6: every frame's score is its onset plus the best earlier score less
    ``tightness * ln(gap / period) ** 2``.
    """
    gaps = np.arange(max(1, int(period / 1.5)), int(period * 1.5) + 1)
    cost = _TIGHTNESS * np.log(gaps / period) ** 2
    frames, longest = len(onsets), int(gaps[-1])
    score = np.zeros(frames + longest)  # what lies before the beginning scores nothing
    score[:longest] = -1e-3
    origin = np.full(frames, -1)
    step = int(gaps[0])  # frames that cannot be each other's predecessors are scored together
    for start in range(0, frames, step):
        here = np.arange(start, min(start + step, frames))
        earlier = score[here[:, None] + longest - gaps] - cost
        best = np.argmax(earlier, axis=1)
        score[here + longest] = onsets[here] + earlier[np.arange(len(here)), best]
        origin[here] = here - gaps[best]
    at = frames - 1 - int(np.argmax(score[longest:][::-1][: int(gaps[-1])]))
    path = []
    while at >= 0:
        path.append(at)
        at = int(origin[at])
    return np.array(path[::-1])


class _Evidence(NamedTuple):
    """What speaks for a period.

    Attributes:
        likeness: how much the onsets repeat at its multiples, at most 1.
        margin: how far the runner-up that is not its half or double lies behind, 0..1.
        halves: in how many halves of the sound it is found again, 0..2.
        wavering: spread of the beats' gaps, in ln.
    """

    likeness: float
    margin: float
    halves: int
    wavering: float

    def confidence(self) -> float:
        return float(scipy.special.expit(_CONFIDENCE[0] + np.dot(_CONFIDENCE[1:], self)))


_PREFERENCE = np.exp(-0.5 * (np.log2(_GRID_BPM / _PREFERRED_BPM) / _PREFERENCE_OCTAVES) ** 2)


def _scores(onsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every tempo of the grid in onsets ``[F, R]``: likeness, and the same with preference."""
    frames, window = len(onsets), int(_WINDOW_S * FRAMES_PER_S)
    lags = int(4 * 60 / SLOWEST_BPM * FRAMES_PER_S) + 2
    known = min(lags, int(0.8 * min(window, frames)))  # beyond, too few products are left
    starts = np.linspace(0, max(0, frames - window), max(1, -(-2 * frames // window) - 1))
    parts = [_autocorrelation(onsets[int(at) : int(at) + window], known) for at in starts]
    likeness = _comb(np.mean(parts, axis=0), _GRID_BPM)
    return likeness, likeness * _PREFERENCE


def _sharpened(scores: np.ndarray) -> float:
    """Tempo of the peak, between the grid's points (a parabola through three of them)."""
    at = int(np.argmax(scores))
    shift = 0.0
    if 0 < at < len(scores) - 1:
        left, peak, right = scores[at - 1 : at + 2]
        bend = left - 2 * peak + right
        shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return float(np.exp(np.interp(at + shift, np.arange(len(scores)), np.log(_GRID_BPM))))


def find_pulse(onsets: np.ndarray) -> Beats | None:
    """The likeliest pulse in onsets ``[F, R]`` of :func:`region_onsets`, however unlikely.

    Returns:
        None where there is nothing to go by: under 2.5 s, or too few onsets or too far apart.
    """
    if len(onsets) < _SHORTEST_S * FRAMES_PER_S or not _has_onsets(onsets):
        return None
    clear = _standing_out(onsets)
    likeness, scores = _scores(clear)
    best = int(np.argmax(scores))
    if scores[best] <= 0:
        return None
    tempo = _sharpened(scores)
    runner_up = float(scores[~_related(_GRID_BPM, tempo)].max())
    halves = [_sharpened(_scores(half)[1]) for half in np.array_split(clear, 2)]

    # Every region counts the same, as it did for the tempo.
    spread = clear.std(axis=0)
    strength = (clear / np.maximum(spread, 1e-3 * spread.max())).mean(axis=1)
    strength = scipy.ndimage.gaussian_filter1d(strength, _BLUR_FRAMES)
    beats = _trimmed(strength, track(strength / strength.std(), 60 / tempo * FRAMES_PER_S))
    tempo, beats = _without_silent(strength, beats, tempo)
    if len(beats) < _FEWEST_BEATS:
        return None
    times = _between_frames(strength, beats) / FRAMES_PER_S + _EARLY_S
    gaps = np.diff(times)
    evidence = _Evidence(
        float(likeness[best]),
        1 - runner_up / float(scores[best]),
        int(_related(np.array(halves), tempo).sum()),
        min(_WAVERS, float(np.std(np.log(gaps / np.median(gaps))))),
    )
    return Beats(_steady(times, tempo), evidence.confidence(), np.maximum(times, 0.0))


def _trimmed(strength: np.ndarray, beats: np.ndarray) -> np.ndarray:
    """Without the beats before the first and after the last that can be heard."""
    heard = np.flatnonzero(strength[beats] > _HEARD * np.median(strength[beats]))
    return beats[heard[0] : heard[-1] + 1] if len(heard) else beats[:0]


def _without_silent(
    strength: np.ndarray, beats: np.ndarray, tempo: float
) -> tuple[float, np.ndarray]:
    """Half the tempo where nothing is heard on every other beat."""
    even, odd = strength[beats[::2]], strength[beats[1::2]]
    if len(odd) < _FEWEST_BEATS or tempo < 2 * SLOWEST_BPM:
        return tempo, beats
    if min(even.mean(), odd.mean()) > _SILENT * max(even.mean(), odd.mean()):
        return tempo, beats
    return tempo / 2, beats[::2] if even.mean() > odd.mean() else beats[1::2]


def _between_frames(strength: np.ndarray, beats: np.ndarray) -> np.ndarray:
    """Beats ``[B]`` moved to the peak nearby, between frames."""
    inner = np.clip(beats, 2, len(strength) - 3)
    near = inner[:, None] + np.arange(-1, 2)
    peak = near[np.arange(len(near)), np.argmax(strength[near], axis=1)]
    left, middle, right = strength[peak - 1], strength[peak], strength[peak + 1]
    bend = left - 2 * middle + right
    is_peak = (bend < 0) & (middle >= left) & (middle >= right)
    shift = np.where(is_peak, 0.5 * (left - right) / np.where(is_peak, bend, -1.0), 0.0)
    return np.where(is_peak, peak + shift, beats)


def _steady(times: np.ndarray, tempo: float) -> float:
    """The beats' own tempo, which is finer than the grid's, unless they wander off."""
    slope = np.polyfit(np.arange(len(times)), times, 1)[0]
    own = 60 / slope if slope > 0 else tempo
    return float(own) if abs(own / tempo - 1) < _SAME else tempo


def find_beats(samples: np.ndarray, sample_rate_hz: int) -> Beats | None:
    """Tempo and beats of float32 ``[T, C]``.

    Returns:
        None if no pulse can be told (confidence below 0.2): noise, most speech, pads, under 2.5 s.
    """
    pulse = find_pulse(region_onsets(bands(to_mono(samples, sample_rate_hz))))
    return pulse if pulse is not None and pulse.confidence >= _NO_PULSE else None


def _peaks(onsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the peaks in ``[F, R]``, at least 50 ms apart, and how far each stands out."""
    strength = onsets.sum(axis=1)
    clear = strength - scipy.ndimage.uniform_filter1d(strength, int(_SURROUND_S * FRAMES_PER_S))
    wide = 2 * int(_APART_S * FRAMES_PER_S) + 1
    at = np.flatnonzero((strength == scipy.ndimage.maximum_filter1d(strength, wide)) & (clear > 0))
    return at, clear[at]


def _has_onsets(onsets: np.ndarray) -> bool:
    """Whether ``[F, R]`` holds enough onsets for a pulse, and close enough to each other."""
    at, height = _peaks(onsets)
    real = at[height >= _LEAST_ONSET]
    if len(real) < _FEWEST_ONSETS:
        return False
    return bool((len(real) - 1) / (real[-1] - real[0]) * FRAMES_PER_S >= _FEWEST_ONSETS_PER_S)


def count_onsets(onsets: np.ndarray) -> int:
    """Onsets in ``[F, R]``: peaks that stand out, at least 50 ms apart."""
    if not onsets.size:
        return 0
    _, height = _peaks(onsets)
    return int(np.sum(height > _ONSET_SHARE * float(onsets.sum(axis=1).max())))
