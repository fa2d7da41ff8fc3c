"""Key: which notes sound, which of the 24 keys they fit, and how sure one can be of it.

Spectra in thirds of a semitone, less the noise between their peaks, are explained by the notes with
harmonics that could have made them (non-negative least squares: Mauch and Dixon 2010, "Approximate
note transcription for the improved identification of difficult chords"). What is left of overtones
then hardly counts, and how often each pitch class sounds, above all and in the bass, is compared
with what is usual in each key.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.ndimage
import scipy.special

from tunesmith.analysis.spectrum import RATE_HZ, magnitudes, to_mono

SIZE, HOP = 8192, 4096  # 0.37 s: long enough to tell semitones from about 100 Hz upwards

MAJORS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINORS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
KEYS = tuple(f"{name} major" for name in MAJORS) + tuple(f"{name} minor" for name in MINORS)
"""Names in the order of the scores: 12 major keys from C upwards, then 12 minor ones."""

_LOWEST, _HIGHEST = 28, 100  # MIDI notes, E1 up to (not including) E7
_NOTES = np.arange(_LOWEST, _HIGHEST)
_PER_SEMITONE = 3
_STEPS = (_HIGHEST - _LOWEST + 12) * _PER_SEMITONE  # an octave more than the notes, for harmonics
_HARMONICS, _HARMONIC_DECAY = 12, 0.5
_ROUNDS = 60  # of the least squares
_AROUND_STEPS = 54  # noise is what lies within this many steps (an octave and a half) on average
_TREBLE_NOTE, _TREBLE_WIDTH = 66, 12
_BASS_NOTE, _BASS_WIDTH = 44, 8
_BASS_WEIGHT = 0.6
_TUNING_HZ = (150.0, 2500.0)  # below, semitones are narrower than a bin; above, overtones are sharp

_LONG_S = 30.0

# How usual each pitch class is, from the tonic upwards: in the pieces of Kostka and Payne's book
# (Temperley 2001, "The Cognition of Basic Musical Structures") and in 982 pieces of classical music
# (Albrecht and Shanahan 2013, "The use of large corpora to train a new type of key-finding
# algorithm"). Together they beat either, and Krumhansl and Kessler's listeners by far.
_TEMPERLEY = (
    (0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400),
    (0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330),
)
_ALBRECHT = (
    (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
    (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
)
# Logistic map of 1 and the figures of `_Evidence` to the share that was right: fitted on 800 stretches
# of music with known key (1.5 to 10 s) and 210 without any (speech, noise, notes at random). None of
# them is in bench/facts.py.
_CONFIDENCE = (-5.8, 5.2, 3.9, 0.55, 1.0, 0.4)


def _unit(values: np.ndarray) -> np.ndarray:
    """The last axis with mean 0 and length 1: products of two such are correlations."""
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-9)


def _profiles() -> np.ndarray:
    """``[24, 12]``, the mean of both sources for every key of :data:`KEYS`."""
    both = _unit(np.array(_TEMPERLEY)) + _unit(np.array(_ALBRECHT))
    return _unit(np.array([np.roll(row, tonic) for row in both for tonic in range(12)]))


def _dictionary() -> np.ndarray:
    """What the notes look like in steps, with harmonics that fall off: float32 ``[steps, notes]``."""
    steps = np.arange(_STEPS)[:, None]
    sound = np.zeros((_STEPS, len(_NOTES)))
    for harmonic in range(1, _HARMONICS + 1):
        place = 1 + (_NOTES - _LOWEST + 12 * np.log2(harmonic)) * _PER_SEMITONE
        peak = np.maximum(0, 1 - np.abs(steps - place) / (_PER_SEMITONE / 2))
        sound += _HARMONIC_DECAY ** (harmonic - 1) * peak
    return (sound / np.linalg.norm(sound, axis=0)).astype(np.float32)


def _folding() -> np.ndarray:
    """Notes to pitch classes, all of them and those of the bass: float32 ``[notes, 24]``."""
    classes = _NOTES[:, None] % 12 == np.arange(12)
    treble = np.exp(-0.5 * ((_NOTES - _TREBLE_NOTE) / _TREBLE_WIDTH) ** 2)
    bass = np.exp(-0.5 * ((_NOTES - _BASS_NOTE) / _BASS_WIDTH) ** 2)
    folds = np.hstack([classes * treble[:, None], classes * bass[:, None]])
    return folds.astype(np.float32)


_PROFILES, _DICTIONARY, _FOLDING = _profiles(), _dictionary(), _folding()


@lru_cache(maxsize=4)
def _to_steps(tuning_twentieths: int) -> np.ndarray:
    """Bins to steps of a third of a semitone: float32 ``[SIZE // 2 + 1, steps]``.

    Triangles two steps wide; in the bass, where a bin is wider than that, two bins.
    """
    notes = _LOWEST + tuning_twentieths / 20 + (np.arange(_STEPS) - 1) / _PER_SEMITONE
    centres = 440 * 2 ** ((notes - 69) / 12)
    widths = np.maximum(centres * (2 ** (1 / (12 * _PER_SEMITONE)) - 1), RATE_HZ / SIZE)
    bins = np.arange(SIZE // 2 + 1)[:, None] * RATE_HZ / SIZE
    shapes = np.maximum(0, 1 - np.abs(bins - centres) / widths)
    return (shapes / shapes.sum(axis=0)).astype(np.float32)


def find_tuning(spectra: np.ndarray) -> tuple[float, float]:
    """How far the partials of magnitudes ``[F, bins]`` lie beside the semitones of a' = 440 Hz.

    Returns:
        (semitones in -0.5..0.5, how much the partials agree on it in 0..1)
    """
    middle = spectra[:, 1:-1]
    peaks = (middle > spectra[:, :-2]) & (middle >= spectra[:, 2:])
    peaks &= middle > 0.02 * spectra.max(axis=1, keepdims=True)
    low, high = (round(hz / RATE_HZ * SIZE) for hz in _TUNING_HZ)
    frames, bins = np.nonzero(peaks[:, low:high])
    if not len(frames):
        return 0.0, 0.0
    bins += low + 1
    # A parabola through logs is next to exact for the peak of a Hann window.
    left, top, right = np.log(spectra[frames, bins + np.arange(-1, 2)[:, None]] + 1e-12)
    shift = 0.5 * (left - right) / np.minimum(left - 2 * top + right, -1e-9)
    hz = (bins + np.clip(shift, -0.5, 0.5)) * RATE_HZ / SIZE
    weight = np.sqrt(spectra[frames, bins])
    mean = np.sum(weight * np.exp(2j * np.pi * 12 * np.log2(hz / 440))) / weight.sum()
    return float(np.angle(mean) / (2 * np.pi)), float(np.abs(mean))


def _notes(spectra: np.ndarray, tuning: float) -> np.ndarray:
    """How strong each note is in magnitudes ``[F, bins]``: float32 ``[F, notes]``."""
    steps = spectra @ _to_steps(round(tuning * 20))
    steps /= max(float(steps.max()), 1e-12)
    mean = scipy.ndimage.uniform_filter1d(steps, _AROUND_STEPS, axis=1, mode="nearest")
    square = scipy.ndimage.uniform_filter1d(steps**2, _AROUND_STEPS, axis=1, mode="nearest")
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    clear = np.maximum(0, steps - mean) / (spread + 1e-4)  # so that no register drowns another
    # Lee and Seung 2001, "Algorithms for non-negative matrix factorization", theorem 1.
    against = clear @ _DICTIONARY
    among = _DICTIONARY.T @ _DICTIONARY
    notes = against.copy()
    for _ in range(_ROUNDS):
        notes *= against / (notes @ among + 1e-9)
    return notes


def pitch_classes(notes: np.ndarray) -> np.ndarray:
    """Notes ``[F, notes]`` to how much each pitch class sounds, ``[F, 2, 12]``: all, and bass.

    Roots, and near each frame's maximum, so that a loud chord does not count for many quiet ones.
    """
    folded = (np.sqrt(notes) @ _FOLDING).reshape(len(notes), 2, 12)
    peak = folded.max(axis=2, keepdims=True)
    return folded / (peak + 0.1 * folded.max(axis=(0, 2), keepdims=True) + 1e-9)


def chroma_in(spectra: np.ndarray) -> np.ndarray:
    """How much each pitch class sounds in magnitudes ``[F, bins]``: ``[F, 12]``, 0 in silence."""
    if float(spectra.max(initial=0.0)) <= 1e-9:
        return np.zeros((len(spectra), 12), np.float32)
    return pitch_classes(_notes(spectra, find_tuning(spectra)[0]))[:, 0]


def key_scores(classes: np.ndarray) -> np.ndarray:
    """``[F, 2, 12]`` to how well the keys of :data:`KEYS` fit: ``[24]`` in -1..1."""
    everything, bass = _unit(classes.mean(axis=0)) @ _PROFILES.T
    return (everything + _BASS_WEIGHT * bass) / (1 + _BASS_WEIGHT)


class _Evidence(NamedTuple):
    """What speaks for a key.

    Attributes:
        fit: its score.
        margin: what the runner-up lacks.
        halves: in how many halves of the sound it wins too, 0..2.
        tuned: how much the partials agree on a tuning, 0..1: little in speech and noise.
        length: ln of the seconds that were heard, at most that of 30.
    """

    fit: float
    margin: float
    halves: int
    tuned: float
    length: float

    def confidence(self) -> float:
        return float(scipy.special.expit(_CONFIDENCE[0] + np.dot(_CONFIDENCE[1:], self)))


def find_key_in(spectra: np.ndarray) -> tuple[str, float] | None:
    """The likeliest key in magnitudes ``[F, bins]`` of windows of :data:`SIZE`, and confidence."""
    if float(spectra.max(initial=0.0)) <= 1e-9:
        return None
    tuning, tuned = find_tuning(spectra)
    classes = pitch_classes(_notes(spectra, tuning))
    scores = key_scores(classes)
    order = np.argsort(scores)
    best = int(order[-1])
    halves = sum(
        int(np.argmax(key_scores(half))) == best for half in np.array_split(classes, 2) if len(half)
    )
    margin = float(scores[best] - scores[order[-2]])
    length = float(np.log(min(_LONG_S, len(spectra) * HOP / RATE_HZ)))
    evidence = _Evidence(float(scores[best]), margin, halves, tuned, length)
    return KEYS[best], evidence.confidence()


def find_key(samples: np.ndarray, sample_rate_hz: int) -> tuple[str, float] | None:
    """The likeliest key of float32 ``[T, C]``.

    Returns:
        (its name, about the probability that it is right), or None in silence.
    """
    mono = to_mono(samples, sample_rate_hz)
    return find_key_in(np.concatenate(list(magnitudes(mono, SIZE, HOP))))
