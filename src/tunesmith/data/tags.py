"""Tags inside sound files, and what they say about the sound.

Read with `tinytag <https://github.com/tinytag/tinytag>`_, which is MIT. (mutagen reads more
formats, but is GPL-2.0-or-later, which this Apache-2.0 package cannot build on.)

A tag may be as hostile as any other input, so tinytag reads through a purse of bytes and calls, in
a thread that is ended when it takes too long. Names of artists never become part of a caption: a
style is not to be called up by the name of a person who was not asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tinytag import TinyTag

from tunesmith.data._caption_words import told
from tunesmith.data.tables import TEXT_BYTES, one_line

_BYTES = 16 << 20  # a cover of several megabytes may stand before the text
_CALLS = 20_000
_MOST_S = 2.0  # a thousand times what a real file takes
_FIELD = 500  # characters

_NO_GENRE = re.compile(
    r"(?i)\W*(other|unknown( genre)?|misc(ellaneous)?|undefined|none|n/?a|genre|default|\d*)\W*"
)
# What comments are full of: programs, shops, addresses, checksums, legal notes.
_NO_DESCRIPTION = re.compile(
    r"(?i)https?:|www\.|\.com\b|@|©|\(c\)|copyright|all rights|licen[sc]e|ripped|encoded|encoder"
    r"|download|visit |purchased|bandcamp|soundcloud|youtube|itunes|spotify|audacity|lame\b|lavf"
    r"|processed (by|with)|(created|made|exported) with|ffmpeg"
    r"|\bsox\b|exact audio|\beac\b|track \d|[0-9a-f]{8}\b|subscribe|release[d]? (by|on|date)|\bid ?3"
)
_KEY = re.compile(r"([A-Ga-g])\s*([#♯b♭]?)\s*(maj(?:or)?|min(?:or)?|m)?\.?")


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file says of itself; an empty text where it says nothing.

    Attributes:
        title, artist, album, composer, year: of the recording.
        genre, mood, instrument, key, bpm: of the sound.
        comment: a comment or description, as it stands.
        lyrics: with their lines.
    """

    title: str = ""
    artist: str = ""
    album: str = ""
    composer: str = ""
    year: str = ""
    genre: str = ""
    mood: str = ""
    instrument: str = ""
    key: str = ""
    bpm: str = ""
    comment: str = ""
    lyrics: str = ""


def read(path: Path) -> Tags:
    """A file's tags; empty ones where it has none, or none that can be read. Never fails."""
    fields: dict[str, list[str]] = {}

    def work() -> None:
        # Whatever tinytag stumbles over, a file without tags is all that it means.
        with contextlib.suppress(Exception), open(path, "rb", buffering=0) as file:
            purse = _Purse(file)
            tag = TinyTag.get(file_obj=purse, duration=False)  # type: ignore[arg-type]
            for name, values in tag.as_dict().items():
                if isinstance(values, list):
                    fields[name.lstrip("_")] = fields.get(name.lstrip("_"), []) + values[:20]

    _within(work, _MOST_S)
    return _tags(dict(fields))


def _tags(fields: Mapping[str, list[str]]) -> Tags:
    def first(*names: str) -> str:
        found = (one_line(value[:_FIELD]) for name in names for value in fields.get(name, ()))
        return next(filter(None, found), "")

    def several(*names: str) -> str:
        values = (
            part for name in names for value in fields.get(name, ()) for part in _split(value)
        )
        return ", ".join(dict.fromkeys(values))[:_FIELD]

    lyrics = "\n".join(max(fields.get("lyrics", ()), key=len, default="").splitlines()[:5000])
    return Tags(
        title=first("title"),
        artist=first("artist", "albumartist"),
        album=first("album"),
        composer=first("composer"),
        year=first("year"),
        genre=several("genre"),
        mood=several("mood", "tmoo"),
        instrument=several("instrument", "instruments", "instrumentation"),
        key=first("initial_key", "key", "tkey"),
        bpm=first("bpm", "tbpm", "tempo"),
        comment=first("description", "comment"),
        lyrics="\n".join(map(one_line, lyrics[: TEXT_BYTES // 4].splitlines())).strip(),
    )


def _split(value: str) -> Iterable[str]:
    return filter(None, (one_line(part) for part in re.split(r"[;/,\0]", value[:_FIELD])))


def caption(tags: Tags) -> str:
    """A caption out of the tags that describe sound; empty if they have neither genre nor text.

    Never the artist, the title or the album. A comment counts where it reads like a description.
    """
    names = [name.casefold() for name in (tags.artist, tags.composer, tags.title) if len(name) > 2]
    comment = tags.comment
    if not _describes(comment) or any(name in comment.casefold() for name in names):
        comment = ""
    genre = tags.genre if not any(name in tags.genre.casefold() for name in names) else ""
    return describe(
        {"genre": genre, "mood": tags.mood, "instrument": tags.instrument, "description": comment}
        | {"bpm": tags.bpm, "key": tags.key}
    )


def columns(tags: Tags) -> dict[str, str]:
    """``lyrics``, ``bpm`` and ``key``, as far as the tags say something that makes sense.

    Not the language: programs that write tags fill it in without being asked.
    """
    found = {"lyrics": tags.lyrics, "bpm": _tempo(tags.bpm), "key": _key(tags.key)}
    return {name: value for name, value in found.items() if value}


def describe(fields: Mapping[str, Any]) -> str:
    """``jazz, calm, piano, a slow walk, 90 bpm, A minor``; empty if the fields say too little.

    Args:
        fields: of them ``genre``, ``keywords``, ``mood``, ``moods``, ``instrument``,
            ``instruments``, ``description``, ``bpm`` and ``key`` are used: text, numbers, or
            lists of text.
    """
    parts: list[str] = []
    for name in ("genre", "keywords", "mood", "moods", "instrument", "instruments", "description"):
        value = fields.get(name) or ""
        values = value if isinstance(value, list) else [value]
        text = ", ".join(one_line(v[:_FIELD]) for v in values[:20] if isinstance(v, str))
        if text.strip(" ,") and not _NO_GENRE.fullmatch(text):
            parts.append(text.strip(" ,"))
    if not parts:
        return ""
    parts += filter(None, (_tempo(fields.get("bpm")), _key(fields.get("key"))))
    return ", ".join(dict.fromkeys(parts))


def _tempo(value: object) -> str:
    try:
        bpm = float(str(value)[:20])
    except ValueError:
        return ""
    return f"{bpm:.0f} bpm" if 30 <= bpm <= 300 else ""


def _key(value: object) -> str:
    found = _KEY.fullmatch(one_line(str(value or "")[:20]))
    if not found:
        return ""
    sign = {"#": " sharp", "♯": " sharp", "b": " flat", "♭": " flat"}.get(found[2], "")
    minor = (found[3] or "").startswith(("m", "M")) and not (found[3] or "").startswith("maj")
    return f"{found[1].upper()}{sign} {'minor' if minor else 'major'}"


def _describes(text: str) -> bool:
    """Whether a comment reads like words about a sound, not like what a program left there.

    A genre, an instrument, a mood or the like has to be in it: no list of programs is ever whole.
    """
    letters = sum(character.isalpha() for character in text)
    return (
        letters >= 0.6 * len(text)
        and len(re.findall(r"[^\W\d_]{2,}", text)) >= 2
        and len(text) < _FIELD
        and not _NO_DESCRIPTION.search(text)
        and bool(told(text).terms)
    )


class _Purse(io.RawIOBase):
    """A file that gives so many bytes in so many calls, and then no more."""

    def __init__(self, file: BinaryIO | io.FileIO) -> None:
        super().__init__()
        self._file = file
        self._bytes, self._calls = _BYTES, _CALLS

    def read(self, size: int = -1) -> bytes:
        self._bytes -= size if size > 0 else self._bytes + 1 if size < 0 else 0
        self._spend()
        return self._file.read(size) or b""

    def seek(self, offset: int, whence: int = 0) -> int:
        self._spend()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _spend(self) -> None:
        self._calls -= 1
        if self._bytes < 0 or self._calls < 0:
            raise OSError("its tags are too large")


class _TooLong(BaseException):
    """Thrown into a thread that has had its time."""


def _within(work: Any, most_s: float) -> None:
    """Runs ``work`` in a thread of its own, and ends that when it takes longer."""

    def run() -> None:
        with contextlib.suppress(_TooLong):
            work()

    # tinytag looks through a list of values for each further one: a megabyte of them takes hours,
    # in Python code that nothing but an exception thrown into its thread ends.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(most_s)
    while thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_TooLong)
        )
        thread.join(0.5)
