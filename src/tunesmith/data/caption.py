"""What each recording sounds like: from sidecar files, metadata tables, or its name.

First found, first taken: ``x.caption.txt``, ``x.txt``, a row of ``metadata.csv`` or
``metadata.jsonl`` (Hugging Face AudioFolder), the text given for the whole folder, the file's name
turned into words. ``x.lyrics.txt`` is lyrics, and never a caption. What cannot be used is said in
one line, and the next source is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.data.sources import Source
from tunesmith.data.tables import (
    TABLES,
    TEXT_BYTES,
    Row,
    caption_column,
    extras,
    one_line,
    read_table,
)


class _Unusable(Exception):
    """One line why a text cannot be taken."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A recording's text.

    Attributes:
        text: one line.
        source: ``sidecar``, ``metadata``, ``given`` or ``name``.
        extra: lyrics, and further columns of the metadata.
    """

    text: str
    source: str
    extra: Mapping[str, Any] = field(default_factory=dict)


class Captions:
    """Finds the captions of one folder's recordings.

    Args:
        root: the folder that is prepared; tables above it are not read.
        given: text for every recording that has none of its own.
        trigger: put before every caption, with a comma, unless the caption has it already.

    Attributes:
        warnings: one line each, growing with every :meth:`of`.
    """

    def __init__(self, root: Path, given: str | None = None, trigger: str | None = None) -> None:
        self._root = root if root.is_dir() else root.parent
        self._given = one_line(given or "")
        self._trigger = one_line(trigger or "")
        self._tables: dict[Path, dict[Path, Row]] = {}
        self.warnings: list[str] = []

    def of(self, source: Source) -> Caption:
        """The caption of one recording; never fails."""
        extra: dict[str, Any] = {}
        row = self._row(source)
        if row is not None:
            extra.update(extras(row.columns))
        folder = PurePosixPath(source.name).parent
        lyrics = self._sidecar(source, folder, ".lyrics.txt", lines=True)
        if lyrics:
            extra["lyrics"] = lyrics
        text, kind = "", ""
        for suffix in (".caption.txt", ".txt"):
            # A recording called x.lyrics.wav must not take x's lyrics for its caption.
            if not text and not (source.path.stem + suffix).endswith(".lyrics.txt"):
                text, kind = self._sidecar(source, folder, suffix), "sidecar"
        if not text and row is not None:
            text, kind = caption_column(row.columns), "metadata"
            if not text:
                self.warnings.append(f"{row.where}: no caption for {source.name}")
        if not text and self._given:
            text, kind = self._given, "given"
        if not text:
            text, kind = words(source.path.stem), "name"
        return Caption(self._triggered(text), kind, extra)

    def _triggered(self, text: str) -> str:
        trigger = self._trigger
        if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text):
            return text
        return f"{trigger}, {text}"

    def _sidecar(
        self, source: Source, folder: PurePosixPath, suffix: str, lines: bool = False
    ) -> str:
        path = source.path.with_name(source.path.stem + suffix)
        try:
            return _read(path, lines)
        except FileNotFoundError:
            return ""
        except (_Unusable, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.warnings.append(f"{folder / path.name}: {reason}; passed over")
            return ""

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
            for item in read_table(path):
                if isinstance(item, str):
                    self.warnings.append(item)
                else:
                    rows.setdefault(item.file, item)
        return rows


def _read(path: Path, lines: bool) -> str:
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
    text = "\n".join(map(one_line, text.splitlines())).strip() if lines else one_line(text)
    if not text:
        raise _Unusable("is empty")
    return text


def words(stem: str) -> str:
    """A file's name as words: ``03 - solo_trumpetTake2`` becomes ``solo trumpet Take2``."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    text = one_line(re.sub(r"[_\-.+~()\[\]]+", " ", text))
    untracked = re.sub(r"^\d{1,3}\s+(?=\D)", "", text)
    return untracked or text or "recording"
