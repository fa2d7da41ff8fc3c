"""Finding recordings in a folder that nobody has tidied.

Whatever has the name of a sound file is either found or named among the rejections, with the
reason; names are shown so that they cannot break a line, a report or a terminal.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data import ffmpeg
from tunesmith.errors import UserError

READABLE = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc"}
)
# Sound, or close to it, that is not taken: named in the rejections, so that nobody wonders.
_NOTES = "holds notes, no sound: render it to wav"
_PROTECTED = "is protected against copying"
_FOREIGN = "cannot be read: convert it to flac or wav"
NOT_TAKEN = {
    **dict.fromkeys((".mid", ".midi", ".kar", ".mod", ".xm", ".it", ".s3m", ".sid"), _NOTES),
    **dict.fromkeys((".m4p", ".aax", ".aa"), _PROTECTED),
    **dict.fromkeys((".au", ".snd", ".w64", ".rf64", ".voc", ".ra", ".rm", ".mpc"), _FOREIGN),
    **dict.fromkeys((".dts", ".gsm", ".ofr", ".shn", ".sd2", ".sf2", ".cda"), _FOREIGN),
}
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a recording is that has to be fetched (:mod:`tunesmith.data.remote`).

    Attributes:
        url: of the folder that is prepared; opens the file system.
        path: of the recording in that file system.
        version: changes when its content does; empty where nobody tells.
    """

    url: str
    path: str
    version: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file that looks like a recording.

    Attributes:
        path: where it is; of one that has to be fetched, where its sidecars are.
        name: path relative to the folder that was searched, with ``/``, control characters
            escaped: its name in every report.
        size_bytes: length of the file.
        remote: where to fetch it; ``None`` if it is on a disk here.
    """

    path: Path
    name: str
    size_bytes: int
    remote: Remote | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Something that did not become a clip.

    Attributes:
        file: name of the recording.
        start_s: where in it; 0 for the whole.
        reason: one line.
        fault: its short name, where the sound itself is at fault (``clipping``, ``hum`` ...).
        figure, unit: what was measured; ``None`` where nothing was.
    """

    file: str
    start_s: float
    reason: str
    fault: str = ""
    figure: float | None = None
    unit: str = ""


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
            raise UserError(f"{src} is no recording by its name", f"known: {known()}")
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
            rejected.append(Rejection(shown(prefix), 0.0, f"cannot be listed: {error.strerror}"))
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
                rejected.append(Rejection(shown(name), 0.0, _unopened(error)))
                continue
            _take(Path(entry.path), name, found, rejected)
        # Real folders come off the stack first: a link to one must not rename its recordings.
        folders = linked[::-1] + folders + real_folders[::-1]
    found.sort(key=lambda source: source.name)
    rejected.sort(key=lambda rejection: rejection.file)
    return found, rejected


def _take(path: Path, name: str, found: list[Source], rejected: list[Rejection]) -> None:
    if not looks_like_one(path):
        return
    size_bytes = 0
    try:
        status = path.stat()
        size_bytes = status.st_size
        reason = _against(path, status)
    except OSError as error:
        broken = path.is_symlink() and isinstance(error, FileNotFoundError)
        reason = "is a link that leads nowhere" if broken else _unopened(error)
    if reason:
        rejected.append(Rejection(shown(name), 0.0, reason))
    else:
        found.append(Source(path, shown(name), size_bytes))


def looks_like_one(path: Path) -> bool:
    """Whether a file has the name of a recording, taken or not."""
    suffix = path.suffix.lower()
    return suffix in READABLE or suffix in ffmpeg.SUFFIXES or suffix in NOT_TAKEN


def unfit(path: Path, size_bytes: int) -> str:
    """Why a file cannot be taken, by its name and length; empty if it can."""
    suffix = path.suffix.lower()
    if size_bytes == 0:
        return "is empty (0 bytes)"
    if suffix in NOT_TAKEN:
        return f"{suffix} {NOT_TAKEN[suffix]}"
    if suffix in ffmpeg.SUFFIXES and not ffmpeg.is_there():
        return ffmpeg.missing(suffix)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8: rename it"
    return ""


def _against(path: Path, status: os.stat_result) -> str:
    """Why a file cannot be taken, as far as that shows before it is decoded; empty if it can."""
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        kind = next((what for is_kind, what in _KINDS if is_kind(status.st_mode)), "something else")
        return f"is {kind}, not a regular file"
    if reason := unfit(path, status.st_size):
        return reason
    with open(path, "rb"):  # whether its rights allow that, only trying tells
        return ""


def _unopened(error: OSError) -> str:
    return f"cannot be opened: {error.strerror}"


def shown(name: str) -> str:
    """A file's name on one line: what is no UTF-8, ends a line or turns its direction, escaped."""
    return "".join(
        character.encode("unicode_escape").decode() if _breaks(character) else character
        for character in name.encode("utf-8", "backslashreplace").decode()
    )


def _breaks(character: str) -> bool:
    turns = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return turns or unicodedata.category(character) in ("Cc", "Zl", "Zp")


def known() -> str:
    """The endings of names that are taken."""
    return " ".join(sorted(READABLE | ffmpeg.SUFFIXES))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks. Errors: OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
