"""What a sound file is, and parts of it, whatever its format: with the eyes of `prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from tunesmith.data import ffmpeg
from tunesmith.data.ffmpeg import DecodeError
from tunesmith.data.recording import BadRecording, Recording

_UNKNOWN = 1 << 62  # libsndfile's word for a length that it does not know is beyond this
_DECODED_S = 300.0  # of a file without random access, the middle is sought in so much of it


@dataclass(frozen=True, slots=True)
class Look:
    """A sound file from outside: ``FLAC 44100 Hz stereo``, and how long it is."""

    format: str
    seconds: float


def look(path: Path) -> Look:
    """What a sound file is; decoded only where its length cannot be told otherwise.

    Raises:
        BadRecording: why it cannot be read, as `prepare` would say it.
    """
    found = None if path.suffix.lower() in ffmpeg.SUFFIXES else _by_libsndfile(path)
    found = found or _by_ffmpeg(path) or _by_decoding(path)
    if not found.seconds > 0:
        raise BadRecording("holds no sound")
    return found


def _by_libsndfile(path: Path) -> Look | None:
    with Recording(path):  # refuses what is no sound, whatever its name says
        pass
    try:
        info = soundfile.info(path)
    except (OSError, RuntimeError):
        return None  # a foreign codec inside, which ffmpeg has opened just now
    if info.frames >= _UNKNOWN:
        return None
    return Look(_named(info.format, info.samplerate, info.channels), info.frames / info.samplerate)


def _by_ffmpeg(path: Path) -> Look | None:
    try:
        probe = ffmpeg.probe(path)
    except DecodeError:
        return None  # Recording puts it into better words
    if probe.duration_s is None or not probe.sample_rate_hz:
        return None
    return Look(_named(probe.codec, probe.sample_rate_hz, probe.channels), probe.duration_s)


def _by_decoding(path: Path) -> Look:
    with Recording(path) as recording:
        frames = sum(len(block) for block in recording.blocks())
        rate = recording.source_rate_hz
        name = _named(path.suffix.removeprefix("."), rate, recording.channels)
    return Look(name, frames / rate)


def _named(kind: str, rate_hz: int, channels: int) -> str:
    count = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
    return f"{kind.upper()} {rate_hz} Hz {count}"


def read_start(path: Path, longest_s: float) -> tuple[np.ndarray, int]:
    """The beginning of a sound file: float32 ``[T, C]`` and its rate in Hz.

    Raises:
        BadRecording: it cannot be decoded so far, or breaks off.
    """
    with Recording(path) as recording:
        rate = recording.source_rate_hz
        wanted = round(longest_s * rate)
        blocks, frames = [], 0
        for block in recording.blocks():
            blocks.append(block[: wanted - frames])
            frames += len(blocks[-1])
            if frames >= wanted:
                break
    return np.concatenate(blocks), rate


def read_middle(path: Path, longest_s: float) -> tuple[np.ndarray, int]:
    """The middle of a sound file, of one that ffmpeg decodes that of the first five minutes.

    Raises:
        BadRecording: it cannot be decoded there.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate, frames = int(file.samplerate), int(file.frames)
            wanted = round(longest_s * rate)
            if frames > wanted:
                file.seek((frames - wanted) // 2)
            samples = file.read(wanted, dtype="float32", always_2d=True)
            if not len(samples):
                raise BadRecording("holds no sound")
            return np.nan_to_num(samples, posinf=0.0, neginf=0.0), rate
    except (OSError, RuntimeError):
        samples, rate = read_start(path, _DECODED_S)  # or a better reason than libsndfile's
    wanted = round(longest_s * rate)
    first = max(0, len(samples) - wanted) // 2
    return samples[first : first + wanted], rate
