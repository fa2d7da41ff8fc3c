"""A recording, read in bounded blocks, whatever its format.

Nothing about it is trusted: it may be cut short, mislabelled, a bomb of a few kilobytes that
decodes to hours, or no sound at all. A bad one raises :class:`BadRecording` with one line, and
memory never depends on a file's length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import soxr

from tunesmith.data import ffmpeg
from tunesmith.data.ffmpeg import DecodeError, FfmpegDecoder
from tunesmith.data.headers import declared_frames, lacks_last_page

# libsndfile tells formats by content and knows two dozen; only these are wanted here.
_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF"})
_DEEP = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
_LOSSLESS = _DEEP | {"PCM_S8", "PCM_U8", "PCM_16"}
# Containers that hold foreign codecs: an ogg with speex, a wav with ac3.
_SECOND_CHANCE = {
    **dict.fromkeys((".ogg", ".oga", ".opus"), (b"OggS",)),
    **dict.fromkeys((".wav", ".wave"), (b"RIFF", b"RF64")),
}
# What turns up under the names of sound files; said plainly, and never given to a decoder.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"Rar!", "a rar archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff\xe0", "a picture"),
    (b"\xff\xd8\xff\xe1", "a picture"),
    (b"GIF8", "a picture"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a program"),
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"[playlist]", "a playlist"),
    (b"<?xml", "an XML document"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a git-lfs pointer (fetch the file itself)"),
)
_BLOCK = 1 << 16  # frames per read: 1.5 s of 44.1 kHz


class BadRecording(Exception):
    """A recording that cannot be used; the message is the one-line reason."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a single recording may be.

    Attributes:
        max_s: decoded length.
        max_channels: FLAC, which the clips are kept in, holds eight.
        max_sample_rate_hz: samples per second and channel.
    """

    max_s: float = 6 * 3600.0
    max_channels: int = 8
    max_sample_rate_hz: int = 384_000


class Decoder(Protocol):
    """What gives a recording's samples, whichever library does it.

    Attributes:
        sample_rate_hz, channels: as decoded.
        bits: 16 or 24: the depth that keeps what the file has.
        lossy: whether its codec loses something.
        frames: how many there are by the header; ``None`` where it does not tell.
    """

    sample_rate_hz: int
    channels: int
    bits: int
    lossy: bool
    frames: int | None

    def read(self) -> np.ndarray:
        """The next block, float32 ``[T, C]``; empty at the end. Errors: :class:`DecodeError`."""
        ...

    def close(self) -> None: ...


class SndfileDecoder:
    """A file that libsndfile reads; a :class:`Decoder`. Errors: :class:`DecodeError`."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = soundfile.SoundFile(path)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise DecodeError(_reason(error)) from None
        self.format = str(self._file.format)
        self.sample_rate_hz = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.bits = 24 if self._file.subtype in _DEEP else 16
        self.lossy = self._file.subtype not in _LOSSLESS
        # libsndfile's word for an unknown length is the largest number there is.
        self.frames = self._file.frames if self._file.frames < 1 << 62 else None
        if self.frames is not None:
            self.frames = max(self.frames, declared_frames(path) or 0)

    def read(self) -> np.ndarray:
        try:
            return self._file.read(_BLOCK, dtype="float32", always_2d=True)
        except (OSError, RuntimeError) as error:
            raise DecodeError(_reason(error)) from None

    def close(self) -> None:
        self._file.close()


class Recording:
    """An open recording that gives its sound in blocks.

    Args:
        path: the file.
        sample_rate_hz: rate to resample to (soxr, HQ); ``None`` keeps the recording's own.
        channels: 1 (mean of all) or 2 (mono is doubled); ``None`` keeps the recording's own.
        limits: caps, held against what is decoded, not only against the header.

    Attributes:
        sample_rate_hz, channels: of the blocks.
        source_rate_hz: of the recording itself.
        bits: 16 or 24: the depth that keeps what the source has.
        lossy: whether it was stored by a codec that loses something: mp3, ogg, aac ...
        done: share of the file that has been decoded, as far as its header is right.

    Errors: :class:`BadRecording`, here and from :meth:`blocks`.
    """

    def __init__(
        self,
        path: Path,
        *,
        sample_rate_hz: int | None = None,
        channels: int | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self._limits = limits
        self._decoder = _open(path, limits, channels)
        self.source_rate_hz = self._decoder.sample_rate_hz
        self.sample_rate_hz = sample_rate_hz or self.source_rate_hz
        self.channels = channels or self._decoder.channels
        self.bits, self.lossy = self._decoder.bits, self._decoder.lossy
        self.done = 0.0

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """The sound in order: float32 ``[T, C]`` blocks (time first, as libsndfile has it)."""
        if self.sample_rate_hz == self.source_rate_hz:
            yield from self._mapped()
            return
        stream = soxr.ResampleStream(
            self.source_rate_hz, self.sample_rate_hz, self.channels, dtype="float32", quality="HQ"
        )
        for block in self._mapped():
            yield stream.resample_chunk(block)
        yield stream.resample_chunk(np.zeros((0, self.channels), np.float32), last=True)

    def _mapped(self) -> Iterator[np.ndarray]:
        for block in self._decoded():
            if block.shape[1] == self.channels:
                yield block
            elif self.channels == 1:
                yield block.mean(axis=1, keepdims=True, dtype=np.float32)
            else:
                yield np.repeat(block, self.channels, axis=1)

    def _decoded(self) -> Iterator[np.ndarray]:
        rate_hz, declared = self.source_rate_hz, self._decoder.frames
        most = math.floor(self._limits.max_s * rate_hz)
        if declared is not None and declared > most:
            # Rather than decode six of eight hours to find that out.
            raise BadRecording(
                f"is {declared / rate_hz / 3600:.1f} hours long by its header, at most "
                f"{self._limits.max_s / 3600:g} are taken: cut it first"
            )
        frames = 0
        while True:
            try:
                block = self._decoder.read()
            except DecodeError as error:
                at = f"breaks off at {frames / rate_hz:.1f} s" if frames else "cannot be decoded"
                raise BadRecording(f"{at}: {error}") from None
            if not len(block):
                break
            if not np.isfinite(block).all():
                bad = frames + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise BadRecording(f"a sample at {bad / rate_hz:.3f} s is not a number")
            frames += len(block)
            if frames > most:
                raise BadRecording(
                    f"decodes to more than {self._limits.max_s / 3600:g} hours: cut it first"
                )
            self.done = min(1.0, frames / declared) if declared else 0.0
            yield block
        if frames == 0:
            raise BadRecording("holds no sound")
        # A quarter of a second: mp3 headers are off by a frame or two in sound files as well.
        if declared is not None and declared - frames > 0.25 * rate_hz:
            raise BadRecording(
                f"is cut short: {frames / rate_hz:.1f} of {declared / rate_hz:.1f} s could be decoded"
            )


def _open(path: Path, limits: Limits, channels: int | None) -> Decoder:
    """The decoder for a file, by its name and what its first bytes say.

    Errors: :class:`BadRecording`.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except (OSError, ValueError) as error:
        raise BadRecording(f"cannot be opened: {getattr(error, 'strerror', error)}") from None
    lowered = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what in _FOREIGN:
        if start.startswith(magic) or lowered.startswith(magic.lower()):
            raise BadRecording(f"its content is {what}, not sound")
    suffix = path.suffix.lower()
    decoder: Decoder
    try:
        if suffix in ffmpeg.SUFFIXES:
            return _through_ffmpeg(path, limits, channels)
        try:
            decoder = SndfileDecoder(path)
        except DecodeError:
            if not (start.startswith(_SECOND_CHANCE.get(suffix, ())) and ffmpeg.is_there()):
                raise
            return _through_ffmpeg(path, limits, channels)
    except DecodeError as error:
        known = (ffmpeg.missing(suffix), "there is no sound track in it")
        raise BadRecording(
            str(error) if str(error) in known else f"cannot be decoded: {error}"
        ) from None
    try:
        if decoder.format not in _FORMATS:
            raise BadRecording(
                f"its content is {decoder.format}, which is not taken: use wav or flac"
            )
        if decoder.format == "OGG" and lacks_last_page(path):
            raise BadRecording("is cut short: its last page is missing")
        _check(decoder, limits, channels)
    except BadRecording:
        decoder.close()
        raise
    return decoder


def _through_ffmpeg(path: Path, limits: Limits, channels: int | None) -> Decoder:
    probe = ffmpeg.probe(path)
    _check(probe, limits, channels)  # before a process is asked for 65,535 channels
    return FfmpegDecoder(path, probe)


def _check(sound: Decoder | ffmpeg.Probe, limits: Limits, channels: int | None) -> None:
    if not 1 <= sound.channels <= limits.max_channels:
        raise BadRecording(f"{sound.channels} channels, at most {limits.max_channels} are taken")
    if channels == 2 and sound.channels > 2:
        raise BadRecording(f"{sound.channels} channels cannot be mapped to 2: mix it down first")
    if not 1000 <= sound.sample_rate_hz <= limits.max_sample_rate_hz:
        raise BadRecording(f"a sample rate of {sound.sample_rate_hz} Hz is not taken")


def _reason(error: Exception) -> str:
    # libsndfile's own words, without soundfile's "Error opening '/long/path'".
    text = getattr(error, "error_string", "") or str(error)
    if "possibly a pipe" in text:  # what it says of noise that looks like mp3 at first
        return "Format not recognised"
    return " ".join(text.split()).rstrip(".")[:200] or type(error).__name__
