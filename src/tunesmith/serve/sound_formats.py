"""Sound as it goes over the wire: whole files, and streams that begin before their length is known.

libsndfile encodes every format. It goes back to a file's header at the end to fill in what it did not
know at first; what has been sent cannot be filled in, so a stream's header says "unknown" and says it
in the way that each format has for it.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from tunesmith.errors import UserError
from tunesmith.formats.sound import read_made_of


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write sound.

    Attributes:
        name: as requests say it; also the suffix.
        media_type: of the answer.
        container, subtype: libsndfile's names; an empty container is bare samples.
        rates_hz: sample rates that it can have; empty is any.
        constant: streamed at one bit rate, by which a player tells the length.
        no_stream: why it cannot be streamed; empty if it can.
    """

    name: str
    media_type: str
    container: str
    subtype: str
    rates_hz: tuple[int, ...] = ()
    constant: bool = False
    no_stream: str = ""


_MP3_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format("wav", "audio/wav", "WAV", "PCM_16"),
        Format(
            *("flac", "audio/flac", "FLAC", "PCM_16"),
            no_stream="its header holds the length, without which many players refuse it",
        ),
        Format("ogg", "audio/ogg", "OGG", "VORBIS"),
        Format("mp3", "audio/mpeg", "MP3", "MPEG_LAYER_III", _MP3_HZ, constant=True),
        Format("opus", "audio/ogg", "OGG", "OPUS", _OPUS_HZ),
        Format("pcm", "application/octet-stream", "", "PCM_16"),
    )
}
_UNKNOWN = 0xFFFFFFFF  # of a WAV header's two lengths: "until it ends"
_PIECE = 4096  # frames a call: libsndfile's Vorbis encoder keeps a call's frames on the stack


class _Outlet(io.RawIOBase):
    """What libsndfile takes for a file: bytes wait here until they are taken, and are gone then."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting = bytearray()
        self._taken = self._at = 0

    def write(self, data: Any) -> int:
        size = len(data)
        begin = self._at - self._taken
        if begin < 0:  # into what was taken already; only what reaches beyond it still counts
            data, begin = bytes(data)[-begin:], 0
        self._waiting[begin : begin + len(data)] = data
        self._at += size
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = (0, self._at, self._taken + len(self._waiting))[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        return 0

    def take(self) -> bytes:
        found = bytes(self._waiting)
        self._taken += len(found)
        self._waiting.clear()
        return found


def _le16(samples: np.ndarray) -> bytes:
    """``[T, C]`` in -1..1 as interleaved 16-bit little-endian integers."""
    return np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()


def _wav_header(rate_hz: int, channels: int) -> bytes:
    width = 2 * channels
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate_hz, rate_hz * width, width, 16)
    unknown = struct.pack("<I", _UNKNOWN)
    return b"RIFF" + unknown + b"WAVEfmt " + form + b"data" + unknown


class Encoder:
    """Writes one sound piece by piece.

    Args:
        format: which one.
        sample_rate_hz, channels: of the pieces.
        made_of: what the sound was made of, for its comment; mp3 and bare samples have none.

    A rate that the format cannot have is resampled to the next higher one that it can (soxr, HQ).
    """

    def __init__(
        self,
        format: Format,
        sample_rate_hz: int,
        channels: int,
        made_of: Mapping[str, Any] | None = None,
    ) -> None:
        self._format = format
        rate_hz = _rate(format, sample_rate_hz)
        self._resampler = (
            soxr.ResampleStream(sample_rate_hz, rate_hz, channels, dtype="float32", quality="HQ")
            if rate_hz != sample_rate_hz
            else None
        )
        self._channels = channels
        self._file: soundfile.SoundFile | None = None
        self._outlet: Any = _Outlet()
        self._head = b""
        if format.container in ("", "WAV"):
            self._head = _wav_header(rate_hz, channels) if format.container else b""
            return
        # The level picks the rate, and without one libsndfile forgets the mode: 96 kbit/s at 16 kHz.
        constant = {"compression_level": 0.4, "bitrate_mode": "CONSTANT"} if format.constant else {}
        self._file = soundfile.SoundFile(
            self._outlet,
            "w",
            rate_hz,
            channels,
            format.subtype,
            format=format.container,
            **constant,
        )
        if made_of and format.container != "MP3":
            _describe(self._file, made_of)

    def encode(self, samples: np.ndarray) -> bytes:
        """The bytes that a piece ``[C, T]`` brought out; maybe none yet."""
        return self._written(np.ascontiguousarray(samples.T), last=False)

    def close(self) -> bytes:
        """The bytes that were still kept back. To be called once, at the end."""
        rest = self._written(np.zeros((0, self._channels), np.float32), last=True)
        if self._file is not None:
            self._file.close()
        return rest + self._outlet.take()

    def abandon(self) -> None:
        """Let go of a sound that has no end."""
        if self._file is not None:
            self._file.close()

    def _written(self, frames: np.ndarray, last: bool) -> bytes:
        if self._resampler is not None:
            frames = self._resampler.resample_chunk(frames.astype(np.float32), last=last)
        if self._file is None:
            head, self._head = self._head, b""
            return head + _le16(frames)
        for start in range(0, len(frames), _PIECE):
            self._file.write(np.clip(frames[start : start + _PIECE], -1.0, 1.0))
        return self._outlet.take()


def converted(file: Path, format: Format) -> bytes:
    """A kept file in another format, its length in its header; 16 bits stay the same 16 bits.

    Args:
        file: 16-bit FLAC with a recipe in its comment, which goes along; mp3 and bare samples have none.
        format: which one.
    """
    if format.name == "flac":
        return file.read_bytes()
    made_of = read_made_of(file)
    with soundfile.SoundFile(file) as kept:
        samples, given_hz, channels = kept.read(dtype="int16"), kept.samplerate, kept.channels
    rate_hz = _rate(format, given_hz)
    if rate_hz != given_hz:
        samples = soxr.resample(samples, given_hz, rate_hz, "HQ")
    if not format.container:
        return samples.astype("<i2").tobytes()
    made = io.BytesIO()
    with soundfile.SoundFile(
        made, "w", rate_hz, channels, format.subtype, format=format.container
    ) as sound:
        if made_of and format.container != "MP3":
            _describe(sound, made_of)
        for start in range(0, len(samples), _PIECE):
            sound.write(samples[start : start + _PIECE])
    return made.getvalue()


def _describe(file: soundfile.SoundFile, made_of: Mapping[str, Any]) -> None:
    # libsndfile wants its strings before the sound, and refuses empty ones.
    if prompt := str(made_of.get("prompt", "")):
        file.title = prompt
    file.software = "Tunesmith"
    file.comment = json.dumps(dict(made_of), ensure_ascii=False)


def _rate(format: Format, rate_hz: int) -> int:
    if not format.rates_hz or rate_hz in format.rates_hz:
        return rate_hz
    higher = [one for one in format.rates_hz if one > rate_hz]
    return min(higher) if higher else max(format.rates_hz)


def find_format(name: str) -> Format:
    """The format of a name.

    Raises:
        UserError: there is none.
    """
    if name not in FORMATS:
        raise UserError(f"no format '{name}'", f"give one of {', '.join(FORMATS)}")
    return FORMATS[name]


__all__ = ["FORMATS", "Encoder", "Format", "converted", "find_format"]
