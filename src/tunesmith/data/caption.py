"""What each recording sounds like: from sidecar files, metadata tables, tags, or its name.

First found, first taken: ``x.caption.txt``, ``x.txt``, ``x.json`` (as MusicGen's data sets have
it), a row of ``metadata.csv`` or ``metadata.jsonl`` (Hugging Face AudioFolder), the text given for
the whole folder, the tags in the file, the file's name turned into words. ``x.lrc`` and
``x.lyrics.txt`` are lyrics, and never a caption. What cannot be used is said in one line, and the next
source is asked.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.data import tags
from tunesmith.data._orphans import orphans
from tunesmith.data.columns import COLUMNS, said, usual
from tunesmith.data.lyrics import Line, is_timed, parse, plain
from tunesmith.data.sources import Source, shown
from tunesmith.data.tables import (
    CAPTION_COLUMNS,
    TABLES,
    TEXT_BYTES,
    Row,
    caption_column,
    extras,
    one_line,
    read_table,
)

CONFIDENCE = {"sidecar": 1.0, "metadata": 1.0, "given": 1.0, "tags": 0.7, "name": 0.2}
"""How far each source is to be believed."""

_VARIANTS = 20  # captions of one recording that are kept besides the first
_FAULTS = 5  # rows of one table that are named
# Of the file that the sidecar was written for, not of its sound, and wrong once it is cut.
_OF_THE_FILE = frozenset({"sample_rate", "file_extension", "duration", "captions", "lyrics"})


class _Unusable(Exception):
    """One line why a text cannot be taken."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A recording's text.

    Attributes:
        text: one line.
        source: ``sidecar``, ``metadata``, ``given``, ``tags`` or ``name``.
        extra: lyrics, and further columns of the metadata; see :mod:`tunesmith.data.columns`.
        confidence: 0 to 1: 1 for what somebody wrote about this sound, 0.7 for tags, 0.2 for a name.
        variants: further texts for the same sound.
        timed: the lyrics with the times of their lines; empty where those are not known.
    """

    text: str
    source: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    confidence: float = 1.0
    variants: tuple[str, ...] = ()
    timed: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class _Json:
    """What ``x.json`` says: captions (none, one or more), lyrics, other columns."""

    captions: tuple[str, ...] = ()
    lyrics: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


class Captions:
    """Finds the captions of one folder's recordings.

    Args:
        root: the folder that is prepared; tables above it are not read.
        given: text for every recording that has none of its own.
        trigger: put before every caption, with a comma, or where it says ``{trigger}``, unless the
            caption has it already.

    Attributes:
        warnings: one line each, growing with every :meth:`of`.
    """

    def __init__(self, root: Path, given: str | None = None, trigger: str | None = None) -> None:
        self._root = root if root.is_dir() else root.parent
        self._whole = root.is_dir()
        self._given = one_line(given or "")
        self._trigger = one_line(trigger or "")
        self._tables: dict[Path, dict[Path, Row]] = {}
        self._odd: dict[str, list[str]] = defaultdict(list)  # by column: what says nothing
        self.warnings: list[str] = []

    def of(self, source: Source, inside: tags.Tags | None = None) -> Caption:
        """The caption of one recording; never fails. ``inside`` are its tags, if they are known."""
        row = self._row(source)
        inside = tags.read(source.path) if inside is None else inside
        beside = self._json(source)
        extra: dict[str, Any] = {}
        given = {} if row is None else extras(row.columns)
        for columns in (tags.columns(inside), given, beside.extra):
            known, odd = said(columns)
            extra.update(known)
            for column, value in odd.items():
                self._odd[column].append(f"{source.name}: '{value}'")
        timed = self._lyrics(source, beside, extra)
        texts, kind = self._texts(source, beside, row, inside)
        first, *others = map(self.triggered, dict.fromkeys(texts))
        return Caption(first, kind, extra, CONFIDENCE[kind], tuple(others[:_VARIANTS]), timed)

    def _lyrics(self, source: Source, beside: _Json, extra: dict[str, Any]) -> tuple[Line, ...]:
        """Puts a recording's lyrics among its columns; the lines with their times, if they have any."""
        if (text := self._beside(source, ".lrc")) is not None:
            found = parse(text)
            if found.lines:
                if found.fault:
                    self._warn(source, ".lrc", found.fault)
                extra["lyrics"] = plain(found.lines)
                return found.lines
            self._pass_over(source, ".lrc", "holds no line with a time such as [01:23.45]")
        lyrics = self._sidecar(source, ".lyrics.txt", lines=True) or beside.lyrics
        lyrics = lyrics or extra.get("lyrics", "")
        if not lyrics:
            return ()
        lines: tuple[Line, ...] = ()
        if is_timed(lyrics):  # tags and tables hold them too
            lines = parse(lyrics).lines
        extra["lyrics"] = plain(lines) or lyrics
        return lines

    def columns(self, source: Source) -> Mapping[str, Any]:
        """The row of a recording in its table, as it stands; empty without one."""
        row = self._row(source)
        return {} if row is None else row.columns

    def unused(self, sources: Sequence[Source]) -> list[str]:
        """One line for what nobody can use, by kind: values of columns, rows, sidecars.

        Args:
            sources: all recordings, each of which has been asked :meth:`of` for.
        """
        odd = [
            f"a {column} that says nothing is left blank ({found[0]}"
            f"{f', and {len(found) - 1:,} more' if len(found) > 1 else ''}): give {usual(column)}"
            for column, found in sorted(self._odd.items())
        ]
        return [*odd, *self._rows_alone(sources), *self.orphans(sources)]

    def orphans(self, sources: Sequence[Source]) -> list[str]:
        """One line for the sidecars that belong to no recording, if there are any."""
        # Of one recording alone nobody knows what else should lie beside it.
        alone = orphans(sources) if self._whole else []
        if not alone:
            return []
        if len(alone) == 1:
            return [f"{alone[0]} belongs to no recording, so nothing reads it"]
        return [
            f"{len(alone):,} text files belong to no recording, so nothing reads them: "
            f"{alone[0]} and more"
        ]

    def _rows_alone(self, sources: Sequence[Source]) -> list[str]:
        if not self._whole:
            return []
        there = {source.path.resolve() for source in sources}
        alone = [
            self._placed(folder, f"{row.where} names {shown(one_line(row.columns['file_name']))}")
            for folder, rows in self._tables.items()
            for file, row in rows.items()
            if file not in there and not os.path.exists(file)
        ]
        if not alone:
            return []
        if len(alone) == 1:
            return [f"{alone[0]}, which is not there"]
        return [f"{len(alone):,} rows of metadata name files that are not there: {alone[0]} ..."]

    def _texts(
        self, source: Source, beside: _Json, row: Row | None, inside: tags.Tags
    ) -> tuple[Sequence[str], str]:
        """The captions of the first source that has any, and what source that is."""
        for suffix in (".caption.txt", ".txt"):
            # A recording called x.lyrics.wav must not take x's lyrics for its caption.
            if (source.path.stem + suffix).endswith(".lyrics.txt"):
                continue
            if text := self._sidecar(source, suffix):
                return [text], "sidecar"
        if beside.captions:
            return beside.captions, "sidecar"
        if row is not None:
            if text := caption_column(row.columns):
                return [text, *_texts(row.columns.get("captions"))], "metadata"
            self.warnings.append(f"{row.where}: no caption for {source.name}")
        if self._given:
            return [self._given], "given"
        if text := tags.caption(inside):
            return [text], "tags"
        return [words(source.path.stem)], "name"

    def triggered(self, text: str) -> str:
        """A text with the trigger before it, or for ``{trigger}``, unless it has it already."""
        trigger = self._trigger
        if "{trigger}" in text:
            gone = text if trigger else re.sub(r"\{trigger\}\s*,?", "", text)
            text = one_line(gone.replace("{trigger}", trigger)) or text
        if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text):
            return text
        return f"{trigger}, {text}"

    def _sidecar(self, source: Source, suffix: str, lines: bool = False) -> str:
        """The text beside a recording, on one line or with its own; empty if there is none."""
        text = self._beside(source, suffix)
        if text is None:
            return ""
        text = "\n".join(map(one_line, text.splitlines())).strip() if lines else one_line(text)
        if not text:
            self._pass_over(source, suffix, "is empty")
        return text

    def _json(self, source: Source) -> _Json:
        text = self._beside(source, ".json")
        if text is None:
            return _Json()
        try:
            return _parsed(json.loads(text))
        except (ValueError, RecursionError):
            self._pass_over(source, ".json", "is no JSON")
        except _Unusable as error:
            self._pass_over(source, ".json", str(error))
        return _Json()

    def _beside(self, source: Source, suffix: str) -> str | None:
        path = source.path.with_name(source.path.stem + suffix)
        try:
            return _read(path)
        except FileNotFoundError:
            return None
        except (_Unusable, OSError) as error:
            # The recording's own name fills what a name may be: there can be nothing beside it.
            if not (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG):
                reason = error.strerror if isinstance(error, OSError) else str(error)
                self._pass_over(source, suffix, reason or "cannot be read")
            return None

    def _pass_over(self, source: Source, suffix: str, reason: str) -> None:
        self._warn(source, suffix, f"{reason}; passed over")

    def _warn(self, source: Source, suffix: str, what: str) -> None:
        folder = PurePosixPath(source.name).parent
        name = folder / shown(source.path.stem + suffix)
        line = f"{name}: {what}"
        if line not in self.warnings:  # x.wav and x.mp3 have the same sidecars
            self.warnings.append(line)

    def _row(self, source: Source) -> Row | None:
        """The row of the nearest table above a recording, as `datasets` chooses it."""
        folder = source.path.parent
        while True:
            if folder not in self._tables:
                self._tables[folder] = self._table(folder)
            if self._tables[folder]:
                return self._tables[folder].get(source.path.resolve())
            if folder == self._root or folder == folder.parent:
                return None
            folder = folder.parent

    def _table(self, folder: Path) -> dict[Path, Row]:
        rows: dict[Path, Row] = {}
        for name in TABLES:
            path = folder / name
            if not path.is_file():
                continue
            faults = 0
            for item in read_table(path):
                if isinstance(item, str):
                    faults += 1
                    if faults <= _FAULTS:
                        self.warnings.append(self._placed(folder, item))
                else:
                    rows.setdefault(item.file, item)
            if faults > _FAULTS:
                more = f"{name}: {faults - _FAULTS} more faulty rows; passed over"
                self.warnings.append(self._placed(folder, more))
        return rows

    def _placed(self, folder: Path, line: str) -> str:
        """A line about a table, with the table's place in the folder that is prepared."""
        try:
            place = folder.relative_to(self._root)
        except ValueError:
            return line
        return line if place == Path() else f"{shown(place.as_posix())}/{line}"


def _read(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise _Unusable("is no file")
    with open(path, "rb") as file:
        data = file.read(TEXT_BYTES + 1)
    if len(data) > TEXT_BYTES:
        raise _Unusable(f"is larger than {TEXT_BYTES // 1024} KiB")
    bom16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if bom16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise _Unusable("is not UTF-8 text") from None
    if "\0" in text:
        raise _Unusable("is not text")
    return text


def _parsed(value: Any) -> _Json:
    """What a JSON sidecar says.

    A text is a caption, a list of texts several. In an object the first of ``caption``, ``text``,
    ``prompt`` and ``description`` that holds text is the caption, and what ``captions`` lists are
    further ones; without any, genre, keywords, mood and instrument make one.

    Errors: :class:`_Unusable`.
    """
    if isinstance(value, (str, list)):
        captions = _texts(value)
        if not captions:
            raise _Unusable("no caption in it")
        return _Json(captions)
    if not isinstance(value, dict):
        raise _Unusable("holds neither text nor an object")
    columns = {key.strip().lower(): one for key, one in value.items()}
    named = (_texts(columns.get(name)) for name in CAPTION_COLUMNS)
    captions = next(filter(None, named), ()) + _texts(columns.get("captions"))
    if not captions and (text := tags.describe(columns)):
        captions = (text,)
    lyrics = columns.get("lyrics")
    lines = lyrics.splitlines() if isinstance(lyrics, str) else []
    rest = {
        key: ", ".join(_texts(one)) if isinstance(one, list) else one
        for key, one in extras(value).items()
        if key.lower() not in (*_OF_THE_FILE, *CAPTION_COLUMNS) and not isinstance(one, dict)
    }
    found = _Json(
        captions,
        "\n".join(map(one_line, lines)).strip(),
        {key: one for key, one in rest.items() if one != ""},
    )
    if not captions and not found.lyrics and not said(found.extra)[0].keys() & set(COLUMNS):
        raise _Unusable("no caption in it")
    return found


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(filter(None, (one_line(one) for one in values if isinstance(one, str))))


def words(stem: str) -> str:
    """A file's name as words: ``03 - solo_trumpetTake2`` becomes ``solo trumpet Take2``."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    text = one_line(re.sub(r"[_\-.+~()\[\]]+", " ", text))
    untracked = re.sub(r"^\d{1,3}\s+(?=\D)", "", text)
    return untracked or text or "recording"
