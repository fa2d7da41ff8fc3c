"""How long a sound file is by its own header.

libsndfile takes a wav, aiff or ogg file that ends too early for a shorter one. That is kind to
listeners; a data set wants to know.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

# Programs that write to a pipe cannot go back to fill the length in: 0, or about 2 or 4 GiB.
_UNKNOWN = 0x7FFF0000
_CHUNKS = 1000  # looked at
_PAGE = 65_307  # bytes an Ogg page may have


def declared_frames(path: Path) -> int | None:
    """Frames that the header of a wav, RF64 or aiff file tells of; ``None`` if it does not."""
    try:
        with open(path, "rb") as file:
            start = file.read(12)
            if start[:4] in (b"RIFF", b"RF64") and start[8:] == b"WAVE":
                return _wave(file, path.stat().st_size)
            if start[:4] == b"FORM" and start[8:] in (b"AIFF", b"AIFC"):
                return _aiff(file)
    except (OSError, struct.error):
        return None  # libsndfile says what is wrong
    return None


def _wave(file: BinaryIO, size_bytes: int) -> int | None:
    align = long = 0
    for _ in range(_CHUNKS):
        name, length = struct.unpack("<4sI", file.read(8))
        at = file.tell()
        if name == b"ds64":
            _, long = struct.unpack("<QQ", file.read(16))
        elif name == b"fmt ":
            tag, _, _, _, align = struct.unpack("<HHIIH", file.read(14))
            if tag not in (1, 3, 0xFFFE):
                return None  # compressed: bytes are no frames
        elif name == b"data":
            if length == 0xFFFFFFFF and long:
                length = long
            elif length >= _UNKNOWN and at + length > size_bytes:
                return None
            return length // align if align and length else None
        file.seek(at + length + length % 2)
    return None


def _aiff(file: BinaryIO) -> int | None:
    for _ in range(_CHUNKS):
        name, length = struct.unpack(">4sI", file.read(8))
        if name == b"COMM":
            _, frames = struct.unpack(">HI", file.read(6))
            return frames if 0 < frames < _UNKNOWN else None
        file.seek(length + length % 2, 1)
    return None


def lacks_last_page(path: Path) -> bool:
    """Whether an Ogg file (Vorbis, Opus) ends before the page that is marked as its last."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 2 * _PAGE))
            end = file.read()
    except OSError:
        return False
    at = end.rfind(b"OggS\0")
    if at < 0 or len(end) < at + 27:
        return True
    sizes = end[at + 27 : at + 27 + end[at + 26]]
    whole = len(sizes) == end[at + 26] and len(end) >= at + 27 + len(sizes) + sum(sizes)
    return not (whole and end[at + 5] & 4)
