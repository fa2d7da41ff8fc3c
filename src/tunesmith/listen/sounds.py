"""Sounds that differ in nothing but what is to be judged.

One sample rate, one number of channels and one loudness for the whole test, one length for each item,
and files that carry no word about where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import soxr

from tunesmith.analysis.loudness import integrated_lufs, true_peak_dbtp
from tunesmith.errors import UserError

HEADROOM_DBTP = -1.0
"""No sound's true peak exceeds it (EBU R 128)."""

LEVEL_S = 5.0
_QUIETEST_LUFS = -40.0
_FADE_IN_S, _FADE_OUT_S = 0.005, 0.02
_ANCHOR_PASS_HZ, _ANCHOR_STOP_HZ = 3500.0, 4000.0


@dataclass(frozen=True, slots=True)
class Format:
    """What all sounds of a test have in common."""

    sample_rate_hz: int
    channels: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one sound: ``lufs`` is None for silence; ``peak_dbtp`` is its true peak."""

    lufs: float | None
    peak_dbtp: float


def common_format(files: Sequence[Path]) -> Format:
    """The highest sample rate of all files; stereo as soon as one is.

    Raises:
        UserError: a file that cannot be read.
    """
    rates, channels = set(), set()
    for file in files:
        try:
            info = soundfile.info(str(file))
        except (OSError, soundfile.SoundFileError) as error:
            raise UserError(f"{file} cannot be read ({error})", "replace or remove it") from None
        rates.add(int(info.samplerate))
        channels.add(int(info.channels))
    return Format(max(rates), 1 if channels == {1} else 2)


def conformed(
    files: Sequence[Path], wanted: Format, longest_s: float, lowpass: Sequence[bool] = ()
) -> tuple[list[np.ndarray], float]:
    """The versions of one item as float32 ``[T, C]``, all of the length of the shortest.

    Args:
        files: one a side.
        wanted: rate and channels.
        longest_s: seconds kept of each.
        lowpass: which of them become a low anchor.

    Returns:
        (sounds, seconds that the longest had more than the shortest)
    """
    sounds = [_read(file, wanted, longest_s) for file in files]
    lengths = [len(sound) for sound in sounds]
    shortest = min(lengths)
    if not shortest:
        raise UserError(f"{files[lengths.index(0)]} is empty", "replace or remove it")
    out = []
    for index, sound in enumerate(sounds):
        if index < len(lowpass) and lowpass[index]:
            sound = low_anchor(sound, wanted.sample_rate_hz)
        out.append(_faded(sound[:shortest], wanted.sample_rate_hz))
    return out, (max(lengths) - shortest) / wanted.sample_rate_hz


def _read(file: Path, wanted: Format, longest_s: float) -> np.ndarray:
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            samples = sound.read(int(longest_s * rate), dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{file} cannot be read ({error})", "replace or remove it") from None
    samples = np.nan_to_num(samples, posinf=1.0, neginf=-1.0)
    if samples.shape[1] > wanted.channels:
        samples = samples.mean(axis=1, keepdims=True)
    if samples.shape[1] < wanted.channels:
        samples = np.repeat(samples[:, :1], wanted.channels, axis=1)
    if rate != wanted.sample_rate_hz and len(samples):
        samples = soxr.resample(samples, rate, wanted.sample_rate_hz, quality="VHQ")
    return np.ascontiguousarray(samples, dtype=np.float32)


def low_anchor(sound: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """A sound ``[T, C]`` without anything above 3.5 kHz: the low anchor of ITU-R BS.1534-3, 5.1.

    Raises:
        UserError: the rate is so low that there is nothing above it anyway.
    """
    if sample_rate_hz < 3 * _ANCHOR_STOP_HZ:
        raise UserError(
            f"at {sample_rate_hz} Hz a low pass at 3.5 kHz takes hardly anything away",
            "give a side of bad recordings as the anchor, or leave it out",
        )
    width = (_ANCHOR_STOP_HZ - _ANCHOR_PASS_HZ) / (sample_rate_hz / 2)
    taps, beta = scipy.signal.kaiserord(60.0, width)
    middle = (_ANCHOR_STOP_HZ + _ANCHOR_PASS_HZ) / 2
    # An ideal low pass, windowed: firwin's own formula, whose type stubs know no Kaiser window.
    reach = 2 * middle / sample_rate_hz
    times = np.arange(taps | 1) - (taps | 1) // 2
    kernel = reach * np.sinc(reach * times) * np.kaiser(taps | 1, beta)
    kernel = (kernel / kernel.sum())[:, None]
    filtered = scipy.signal.oaconvolve(sound, kernel, mode="same", axes=0)
    return filtered[: len(sound)].astype(np.float32)


def _faded(sound: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Cut edges would click, and only on the side that was cut: all get the same fades."""
    sound = sound.copy()
    for length_s, part in ((_FADE_IN_S, slice(None)), (_FADE_OUT_S, slice(None, None, -1))):
        count = min(round(length_s * sample_rate_hz), len(sound) // 2)
        ramp = np.sin(np.linspace(0, np.pi / 2, count, endpoint=False)) ** 2
        view = sound[part]
        view[:count] *= ramp[:, None].astype(np.float32)
    return sound


def measure(sound: np.ndarray, sample_rate_hz: int) -> Measured:
    """Loudness and peak of ``[T, C]``."""
    return Measured(integrated_lufs(sound, sample_rate_hz), true_peak_dbtp(sound, sample_rate_hz))


def common_level(measured: Sequence[tuple[Path, Measured]], wanted_lufs: float) -> float:
    """The loudness that all sounds can have without one of them clipping, at most ``wanted_lufs``.

    Raises:
        UserError: all is silence, or a sound's peaks stand so far above its loudness that all
            others would have to be too quiet.
    """
    rooms = [
        (one.lufs - one.peak_dbtp + HEADROOM_DBTP, file)
        for file, one in measured
        if one.lufs is not None
    ]
    if not rooms:
        raise UserError("all sounds are silent or shorter than 0.4 s", "give longer ones")
    lowest, file = min(rooms, key=lambda room: room[0])
    if lowest < _QUIETEST_LUFS:
        raise UserError(
            f"{file}: its peaks stand {HEADROOM_DBTP - lowest:.0f} dB above its loudness, so all others "
            f"would have to go down to {lowest:.0f} LUFS with it",
            "remove it from the test",
        )
    return min(wanted_lufs, lowest)


def gain_db(one: Measured, level_lufs: float) -> float:
    """What brings a sound to the common level; nothing for silence."""
    return 0.0 if one.lufs is None else level_lufs - one.lufs


def write_plain(file: Path, sound: np.ndarray, sample_rate_hz: int) -> None:
    """16-bit wav of ``[T, C]`` that holds samples and nothing else: no title, no date, no encoder."""
    steps = np.clip(np.round(sound * 32767.0), -32768, 32767).astype(np.int16)
    soundfile.write(file, steps, sample_rate_hz, subtype="PCM_16", format="WAV")


def pink_noise(wanted: Format, level_lufs: float) -> np.ndarray:
    """Noise of equal power per octave at a loudness, ``[T, C]``: what the volume is set by."""
    frames = round(LEVEL_S * wanted.sample_rate_hz)
    white = np.random.default_rng(0).standard_normal(frames)
    spectrum = np.fft.rfft(white)
    hz = np.fft.rfftfreq(frames, 1 / wanted.sample_rate_hz)
    spectrum[hz < 40] = 0
    spectrum[hz >= 40] /= np.sqrt(hz[hz >= 40])
    noise = np.fft.irfft(spectrum, frames)
    noise = (0.1 * noise / np.abs(noise).max()).astype(np.float32)
    sound = _faded(np.repeat(noise[:, None], wanted.channels, axis=1), wanted.sample_rate_hz)
    one = measure(sound, wanted.sample_rate_hz)
    level = min(level_lufs, (one.lufs or 0.0) - one.peak_dbtp + HEADROOM_DBTP)
    return sound * np.float32(10 ** (gain_db(one, level) / 20))
