"""Metadata tables (``metadata.jsonl``, ``metadata.csv``), and text as it is kept."""

from __future__ import annotations

import csv
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

TEXT_BYTES = 64 * 1024
TABLE_BYTES = 64 * 1024 * 1024
TABLES = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
# Columns that a data set of ours writes itself, and what `datasets` makes of file_name.
OWN_COLUMNS = (
    "file_name",
    "caption",
    "recording",
    "start_s",
    "duration_s",
    "sha256",
    "caption_source",
    "caption_confidence",
    "captions",
    "variant_of",
)
_RESERVED = frozenset({*OWN_COLUMNS, "audio"})
_COLUMNS = 100  # further columns of a row that are kept
_DEPTH = 4  # of lists in a column


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a metadata table.

    Attributes:
        file: resolved path of the sound it speaks of.
        where: ``metadata.csv:3``.
        columns: all of them, as they stand.
    """

    file: Path
    where: str
    columns: Mapping[str, Any]


def read_table(path: Path) -> Iterator[Row | str]:
    """Rows of a ``metadata.jsonl`` or ``metadata.csv``; a faulty one gives a line of text instead.

    A ``file_name`` that leads out of the table's folder is such a fault.
    """
    name = path.name
    try:
        if path.stat().st_size > TABLE_BYTES:
            yield f"{name}: is larger than {TABLE_BYTES >> 20} MiB; passed over"
            return
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        yield f"{name}: {reason}; passed over"
        return
    folder = path.parent.resolve()
    for number, columns in _csv(text) if path.suffix == ".csv" else _jsonl(text):
        where = f"{name}:{number}"
        if isinstance(columns, str):
            yield f"{where}: {columns}; passed over"
            continue
        file_name = columns.get("file_name")
        if not isinstance(file_name, str) or not file_name or "\0" in file_name:
            yield f"{where}: no file_name; passed over"
            continue
        file = inside(folder, file_name)
        if file is None:
            yield f"{where}: file_name leads out of the folder; passed over"
            continue
        yield Row(file, where, columns)


def inside(folder: Path, name: str) -> Path | None:
    """``folder/name``, resolved; ``None`` if that is not under the (resolved) folder.

    The name itself may not climb; a symbolic link in the folder may, since its owner made it.
    """
    relative = PurePosixPath(name.replace("\\", "/"))
    drive = bool(re.match(r"[A-Za-z]:", name))
    if relative.is_absolute() or drive or ".." in relative.parts or not relative.parts:
        return None
    try:
        return (folder / relative).resolve()
    except (OSError, RuntimeError, ValueError):  # ValueError: half a surrogate pair, from JSON
        return None


def _jsonl(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    # Not splitlines(): a caption may hold a line separator that JSON leaves as it is.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield number, "is no JSON"
            continue
        yield number, value if isinstance(value, dict) else "is no JSON object"


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.DictReader(text.splitlines(keepends=True))
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, str(error)
            return
        yield reader.line_num, {key: value for key, value in row.items() if key is not None}


def caption_column(columns: Mapping[str, Any]) -> str:
    """The caption of a row: the first of caption, text, prompt, description that holds text."""
    lowered = {key.strip().lower(): value for key, value in columns.items()}
    for name in CAPTION_COLUMNS:
        value = lowered.get(name)
        if isinstance(value, str) and one_line(value):
            return one_line(value)[: TEXT_BYTES // 4]
    return ""


def extras(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that are neither the caption nor our own; empty ones left out."""
    used = next(
        (
            key
            for name in CAPTION_COLUMNS
            for key, value in columns.items()
            if key.strip().lower() == name and isinstance(value, str) and one_line(value)
        ),
        None,
    )
    kept: dict[str, Any] = {}
    for key, value in columns.items():
        name = one_line(key[:100])
        # `datasets` opens every column that ends so as a file.
        of_file = name.endswith(("file_name", "file_names"))
        if key == used or name in _RESERVED or of_file or not name:
            continue
        if value is None or value == "":
            continue
        if len(kept) < _COLUMNS and _plain(value):
            kept[name] = _text(value) if isinstance(value, str) else value
    return kept


def _plain(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value can be written again: no NaN, no half characters, not nested without end."""
    if isinstance(value, str):
        return len(value) <= TEXT_BYTES
    if isinstance(value, (list, dict)):
        inner = list(value) + (list(value.values()) if isinstance(value, dict) else [])
        # Text inside a list is not cleaned, so it has to be clean.
        return (
            depth > 0
            and len(inner) <= 1000
            and all(_plain(one, depth - 1) for one in inner)
            and all(_text(one) == one for one in inner if isinstance(one, str))
        )
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    return value is None


def _text(value: str) -> str:
    kept = (c for c in value if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    return "".join(kept)


def one_line(text: str) -> str:
    """Text without control characters, composed (NFC), every run of white space a single space."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace() or unicodedata.category(character) not in ("Cc", "Cs")
    )
    return " ".join(text.split())
