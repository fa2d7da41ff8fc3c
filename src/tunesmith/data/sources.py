"""Recordings: finding them, and reading them in bounded blocks.

Nothing in a folder of recordings is trusted: a file may be cut short, mislabelled, a bomb of a few
kilobytes that decodes to hours, or no file at all. A bad one raises :class:`BadRecording` with one
line, and memory never depends on a file's length.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from tunesmith.errors import UserError

READABLE = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc"}
)
# Sound that libsndfile does not read: named in the rejections, so that nobody wonders.
UNREADABLE = frozenset(
    {".m4a", ".aac", ".wma", ".alac", ".ape", ".wv", ".mka", ".webm", ".amr", ".mp2", ".dsf"}
)
# libsndfile tells formats by content and knows two dozen; only these are wanted here.
_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF"})
_DEEP = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
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


@dataclass(frozen=True, slots=True)
class Source:
    """A file that looks like a recording.

    Attributes:
        path: where it is.
        name: path relative to the folder that was searched, with ``/``: its name in every report.
        size_bytes: length of the file.
    """

    path: Path
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """Something that did not become a clip.

    Attributes:
        file: name of the recording.
        start_s: where in it; 0 for the whole.
        reason: one line.
    """

    file: str
    start_s: float
    reason: str


def find_recordings(src: Path, skip: Collection[Path] = ()) -> tuple[list[Source], list[Rejection]]:
    """Every recording under a folder (or the one file), sorted by name.

    Hidden files and folders are passed over, and so is whatever is not sound. Symbolic links are
    followed; a folder is entered once, however many links lead to it.

    Args:
        src: file or folder.
        skip: resolved folders that are not entered.

    Returns:
        The recordings, and what looks like one but cannot be taken.

    Errors: :class:`UserError` if ``src`` does not exist or cannot be listed.
    """
    if not src.exists():
        raise UserError(f"{src} does not exist", "give a folder of recordings, or one file")
    found: list[Source] = []
    rejected: list[Rejection] = []
    if src.is_file():
        _take(src, src.name, found, rejected)
        if not found and not rejected:
            raise UserError(f"{src} is no recording by its name", f"known: {_known()}")
        return found, rejected
    seen: set[Path] = set()
    skipped = {Path(path).resolve() for path in skip}
    folders = [(src, "")]
    while folders:
        folder, prefix = folders.pop()
        real = folder.resolve()
        if real in seen or real in skipped:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == src:
                raise UserError(
                    f"cannot list {src}: {error.strerror}", "check its rights"
                ) from None
            rejected.append(Rejection(_shown(prefix), 0.0, f"cannot be listed: {error.strerror}"))
            continue
        linked: list[tuple[Path, str]] = []
        real_folders: list[tuple[Path, str]] = []
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            try:
                if entry.is_dir():
                    target = linked if entry.is_symlink() else real_folders
                    target.append((Path(entry.path), name + "/"))
                    continue
            except OSError as error:  # a symbolic link that leads to itself
                rejected.append(Rejection(_shown(name), 0.0, f"{error.strerror}"))
                continue
            _take(Path(entry.path), name, found, rejected)
        # Real folders come off the stack first: a link to one must not rename its recordings.
        folders = linked[::-1] + folders + real_folders[::-1]
    found.sort(key=lambda source: source.name)
    rejected.sort(key=lambda rejection: rejection.file)
    return found, rejected


def _take(path: Path, name: str, found: list[Source], rejected: list[Rejection]) -> None:
    suffix = path.suffix.lower()
    if suffix in UNREADABLE:
        reason = f"{suffix} cannot be read: convert it to flac or wav"
        rejected.append(Rejection(_shown(name), 0.0, reason))
        return
    if suffix not in READABLE:
        return
    if _shown(name) != name:
        rejected.append(Rejection(_shown(name), 0.0, "its name is not valid UTF-8: rename it"))
        return
    try:
        status = path.stat()
    except OSError as error:
        rejected.append(Rejection(name, 0.0, f"cannot be opened: {error.strerror}"))
        return
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        rejected.append(Rejection(name, 0.0, "is not a regular file"))
    elif status.st_size == 0:
        rejected.append(Rejection(name, 0.0, "is empty (0 bytes)"))
    else:
        found.append(Source(path, name, status.st_size))


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _known() -> str:
    return " ".join(sorted(READABLE))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks. Errors: OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Recording:
    """An open recording that gives its sound in blocks.

    Args:
        path: the file.
        sample_rate_hz: rate to resample to (soxr, HQ); ``None`` keeps the recording's own.
        channels: 1 (mean of all) or 2 (mono is doubled); ``None`` keeps the recording's own.
        limits: caps, held against what is decoded, not only against the header.

    Attributes:
        sample_rate_hz, channels: of the blocks.
        bits: 16 or 24: the depth that keeps what the source has.
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
        try:
            self._file = soundfile.SoundFile(path)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise BadRecording(f"cannot be decoded: {_reason(error)}") from None
        try:
            self._check(self._file, channels)
        except BadRecording:
            self._file.close()
            raise
        self._rate_in = int(self._file.samplerate)
        self.sample_rate_hz = sample_rate_hz or self._rate_in
        self.channels = channels or int(self._file.channels)
        self.bits = 24 if self._file.subtype in _DEEP else 16
        self.done = 0.0

    def _check(self, file: soundfile.SoundFile, channels: int | None) -> None:
        limits = self._limits
        if file.format not in _FORMATS:
            raise BadRecording(f"its content is {file.format}, which is not taken: use wav or flac")
        if not 1 <= file.channels <= limits.max_channels:
            raise BadRecording(f"{file.channels} channels, at most {limits.max_channels} are taken")
        if channels == 2 and file.channels > 2:
            raise BadRecording(f"{file.channels} channels cannot be mapped to 2: mix it down first")
        if not 1000 <= file.samplerate <= limits.max_sample_rate_hz:
            raise BadRecording(f"a sample rate of {file.samplerate} Hz is not taken")

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """The sound in order: float32 ``[T, C]`` blocks (time first, as libsndfile has it)."""
        if self.sample_rate_hz == self._rate_in:
            yield from self._mapped()
            return
        stream = soxr.ResampleStream(
            self._rate_in, self.sample_rate_hz, self.channels, dtype="float32", quality="HQ"
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
        declared = self._file.frames
        most = math.floor(self._limits.max_s * self._rate_in)
        frames = 0
        while True:
            try:
                block = self._file.read(_BLOCK, dtype="float32", always_2d=True)
            except (OSError, RuntimeError) as error:
                at = frames / self._rate_in
                raise BadRecording(f"breaks off at {at:.1f} s: {_reason(error)}") from None
            if not len(block):
                break
            if not np.isfinite(block).all():
                bad = frames + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise BadRecording(f"a sample at {bad / self._rate_in:.3f} s is not a number")
            frames += len(block)
            if frames > most:
                raise BadRecording(
                    f"decodes to more than {self._limits.max_s / 3600:g} hours: cut it first"
                )
            self.done = min(1.0, frames / max(declared, 1))
            yield block
        if frames == 0:
            raise BadRecording("holds no sound")
        # A quarter of a second: mp3 headers are off by a frame or two in sound files as well.
        missing = (declared - frames) / self._rate_in
        if missing > 0.25 and declared < 1 << 62:
            raise BadRecording(
                f"is cut short: {frames / self._rate_in:.1f} of "
                f"{declared / self._rate_in:.1f} s could be decoded"
            )


def _reason(error: Exception) -> str:
    # libsndfile's own words, without soundfile's "Error opening '/long/path'".
    text = getattr(error, "error_string", "") or str(error)
    return " ".join(text.split()).rstrip(".")[:200] or type(error).__name__
