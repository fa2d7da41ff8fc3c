"""Variants of a clip, drawn from a seed: pitch, tempo, tone, noise and level, before encoding.

The transforms are audiomentations' (MIT), whose stretcher is Signalsmith Stretch (MIT): it takes all
channels together, and is 50 to 200 times faster than the sound plays. Parameters are drawn here and
handed over as ranges of no width, so what was done is known exactly and captions can follow it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import soxr

from tunesmith.errors import UserError, did_you_mean
from tunesmith.randomness import own_generators

OPERATIONS: Mapping[str, str] = {
    "pitch": "one or two semitones up or down; the tempo stays (never for voices)",
    "stretch": "2 to 8 % faster or slower; the pitch stays",
    "eq": "bass, middle and treble each up to 4 dB louder or softer",
    "noise": "white noise 30 to 50 dB below the sound",
    "gain": "1 to 6 dB softer, or 1 to 3 dB louder where that does not clip",
}
"""What can be asked for, in the order in which it is applied."""

# How likely each asked operation is in a variant. Pitch and tempo change most what a model hears,
# so half of the variants keep each; level costs nothing and is nearly always welcome.
_CHANCE: Mapping[str, float] = {"pitch": 0.5, "stretch": 0.5, "eq": 0.5, "noise": 0.5, "gain": 0.8}

_SEMITONES = (-2, -1, 1, 2)  # whole ones, so that the key has a name
_TEMPO_STEP = (0.02, 0.08)  # distance from 1
_SNR_DB = (30.0, 50.0)
_EQ_DB = 4.0
_SOFTER_DB, _LOUDER_DB = (-6.0, -1.0), (1.0, 3.0)
_STRETCHER = "signalsmith_stretch"
_EDGE_S = 0.12  # one block of the stretcher: it fades in and out within this at the ends
_PEAK = 0.999  # where a sound that would clip is turned down to


@dataclass(frozen=True, slots=True)
class Variant:
    """A changed clip, and how it was changed.

    Attributes:
        samples: float32 ``[T', C]`` within -1..1.
        operations: what was done: ``pitch_semitones``, ``tempo_factor`` (new tempo over old),
            ``eq_db`` (gain of the band that changed most), ``noise_snr_db``, ``gain_db``.
    """

    samples: np.ndarray
    operations: Mapping[str, float]


def check_operations(names: Sequence[str], *, voice: bool = False) -> tuple[str, ...]:
    """The asked operations without repeats, in the order in which they are applied.

    Args:
        names: keys of :data:`OPERATIONS`.
        voice: the recordings are of someone's voice, which a change of pitch makes another's.

    Errors: :class:`UserError` for an unknown name, for pitch on voices, for nothing at all.
    """
    for name in names:
        if name not in OPERATIONS:
            raise UserError(f"no augmentation '{name}'", did_you_mean(name, OPERATIONS))
    if voice and "pitch" in names:
        raise UserError(
            "no pitch change for voices: the speaker would become someone else",
            f"leave 'pitch' out; {', '.join(name for name in OPERATIONS if name != 'pitch')} remain",
        )
    if not names:
        raise UserError("augmentation without an operation", f"name some: {', '.join(OPERATIONS)}")
    return tuple(name for name in OPERATIONS if name in names)


def vary(
    samples: np.ndarray,
    sample_rate_hz: int,
    operations: Sequence[str],
    seed: int,
    *,
    min_s: float,
    max_s: float,
) -> Variant:
    """One variant of a clip; the same seed gives the same bytes, and global generators stay put.

    Each operation is drawn with probability 0.5 (gain: 0.8), from a stream of its own: asking for
    one more leaves the others as they were. At least one is always applied. All channels get the
    same treatment, so they keep their phase (equal ones stay equal to -60 dB or better). A slower
    tempo that runs over ``max_s`` is cut at the end; a faster one that would fall under ``min_s``
    becomes the slower one as far from 1.

    Args:
        samples: float32 ``[T, C]``, at least 0.2 s.
        sample_rate_hz: of the samples; 8,000 to 48,000.
        operations: keys of :data:`OPERATIONS`.
        seed: not negative.
        min_s, max_s: bounds of the variant's length.

    Errors: :class:`UserError` from :func:`check_operations`, or where audiomentations is missing.
    """
    names = check_operations(operations)
    transforms = _audiomentations()
    streams = {
        name: np.random.default_rng([seed, index])
        for index, name in enumerate(OPERATIONS)
        if name in names
    }
    chosen = [name for name in names if streams[name].random() < _CHANCE[name]]
    if not chosen:
        chosen = [names[np.random.default_rng([seed, len(OPERATIONS)]).integers(len(names))]]

    done: dict[str, float] = {}
    sound = np.ascontiguousarray(samples.T, dtype=np.float32)  # [C, T]
    # The noise, and the coin that every transform tosses even at probability 1, come from them.
    with own_generators(seed):
        semitones, factor = 0, 1.0
        if "pitch" in chosen:
            semitones = int(streams["pitch"].choice(_SEMITONES))
            done["pitch_semitones"] = float(semitones)
        if "stretch" in chosen:
            factor = _tempo_factor(streams["stretch"], len(samples) / sample_rate_hz, min_s)
            done["tempo_factor"] = factor
        if semitones or factor != 1.0:
            sound = _shift(transforms, sound, sample_rate_hz, semitones, factor)
            sound = sound[:, : max(1, math.floor(max_s * sample_rate_hz + 1e-6))]
        if "eq" in chosen:
            sound, done["eq_db"] = _equalise(transforms, sound, sample_rate_hz, streams["eq"])
        if "noise" in chosen:
            snr_db = float(streams["noise"].uniform(*_SNR_DB))
            sound = transforms.AddGaussianSNR(snr_db, snr_db, p=1.0)(sound, sample_rate_hz)
            done["noise_snr_db"] = snr_db
        if "gain" in chosen:
            done["gain_db"] = _gain_db(streams["gain"], sound)
            gain = transforms.Gain(done["gain_db"], done["gain_db"], p=1.0)
            sound = gain(sound, sample_rate_hz)

    peak = float(np.abs(sound).max())
    if peak > 1.0:
        sound = sound * np.float32(_PEAK / peak)
        done["gain_db"] = done.get("gain_db", 0.0) + 20 * math.log10(_PEAK / peak)
    return Variant(np.ascontiguousarray(sound.T, dtype=np.float32), done)


def _audiomentations() -> ModuleType:
    try:
        import audiomentations
    except ImportError:
        raise UserError(
            "augmentation needs audiomentations", "pip install tunesmith[augment]"
        ) from None
    return audiomentations


def _tempo_factor(rng: np.random.Generator, duration_s: float, min_s: float) -> float:
    step = float(rng.uniform(*_TEMPO_STEP))
    faster = bool(rng.random() < 0.5) and duration_s / (1 + step) >= min_s
    return round(1 + step if faster else 1 - step, 4)


def _shift(
    transforms: ModuleType, sound: np.ndarray, rate_hz: int, semitones: int, factor: float
) -> np.ndarray:
    """Pitch by semitones and tempo by a factor: ``[C, T]`` to ``[C, round(T / factor)]``.

    Pitch is changed by resampling, which is exact, and the tempo is put right in the same stretch
    that changes it: the stretcher's own way of shifting pitch is up to 1 Hz off, 16 cents at 110 Hz.
    It also loses up to 6 dB in the last 20 ms of what it is given, so it is given the sound mirrored
    at both ends, and the ends are cut off again.
    """
    frames = sound.shape[1]
    edge = min(frames - 1, round(_EDGE_S * rate_hz))
    sound = np.pad(sound, ((0, 0), (edge, edge)), mode="reflect")
    ratio = 2 ** (semitones / 12)
    if semitones:
        sound = np.ascontiguousarray(soxr.resample(sound.T, rate_hz * ratio, rate_hz).T)
    stretch = transforms.TimeStretch(
        factor / ratio, factor / ratio, leave_length_unchanged=False, method=_STRETCHER, p=1.0
    )
    sound = stretch(sound, rate_hz)
    start = round(edge / factor)
    return sound[:, start : start + round(frames / factor)]


def _equalise(
    transforms: ModuleType, sound: np.ndarray, rate_hz: int, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Two shelves and a bell whose centres stay well below half the sample rate."""
    gains = rng.uniform(-_EQ_DB, _EQ_DB, 3)
    # A change that nobody hears is no variant: one band moves by at least a quarter of the range.
    gains[np.abs(gains).argmax()] = math.copysign(
        max(np.abs(gains).max(), _EQ_DB / 4), gains[np.abs(gains).argmax()]
    )
    centres = [
        rng.uniform(70, 140),
        rng.uniform(500, 1000),
        min(rng.uniform(4e3, 7e3), 0.3 * rate_hz),
    ]
    kinds = [transforms.LowShelfFilter, transforms.PeakingFilter, transforms.HighShelfFilter]
    for kind, centre, gain in zip(kinds, centres, gains, strict=True):
        settings: dict[str, Any] = {
            f"{end}_{what}": value
            for what, value in (("center_freq", centre), ("gain_db", gain), ("q", 0.7))
            for end in ("min", "max")
        }
        sound = kind(**settings, p=1.0)(sound, rate_hz)
    return sound, float(gains[np.abs(gains).argmax()])


def _gain_db(rng: np.random.Generator, sound: np.ndarray) -> float:
    """Softer or louder with equal chance; softer by as much where louder would clip."""
    softer, louder = float(rng.uniform(*_SOFTER_DB)), float(rng.uniform(*_LOUDER_DB))
    if rng.random() < 0.5:
        return softer
    clips = np.abs(sound).max() * 10 ** (louder / 20) > 1.0
    return -louder if clips else louder
