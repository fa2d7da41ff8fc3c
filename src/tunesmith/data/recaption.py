"""Captions of a prepared data set, corrected by hand: what training reads is what was written here.

A clip's caption stands in ``<side>/metadata.jsonl`` and nowhere else; the sound is not touched, so
neither are its hash and what was encoded of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.analysis.facts import Facts
from tunesmith.atomic import write_json_lines
from tunesmith.data.audiofolder import SPLITS, describe
from tunesmith.data.tables import TEXT_BYTES, one_line, read_table
from tunesmith.data.words import retold
from tunesmith.errors import UserError

EDITED = "edited"
"""Source of a caption that somebody wrote into the data set itself."""

_LONGEST = TEXT_BYTES // 4
_UNKNOWN = Facts(0.0, None, None, 0.0, None, 0.0, None, 0.0, 0.0, 0.0)


def recaption(folder: str | Path, captions: Mapping[str, str]) -> int:
    """Give clips other captions.

    Further captions of a clip go: they tell what the old one told. Its varied versions follow, with
    tempo and key changed as their sound was. All is checked before anything is written.

    Args:
        folder: a data set that ``prepare`` made.
        captions: the new text of each clip, by its name in the set (``train/x.flac``).

    Returns:
        How many clips have another caption now, varied versions not counted.

    Raises:
        UserError: no such data set or clip, a caption that is empty or endless, or a table that
            cannot be read or written.
    """
    root = Path(folder)
    if describe(root) is None:
        raise UserError(
            f"{root} is no data set of `tunesmith prepare`", "edit its own metadata, or prepare it"
        )
    wanted = {name: _checked(name, text) for name, text in captions.items()}
    tables = {side: _rows(root, side) for side in SPLITS}
    known = {f"{side}/{row['file_name']}" for side, rows in tables.items() for row in rows}
    if strange := sorted(wanted.keys() - known):
        raise UserError(f"{root} has no clip {strange[0]}", "give names such as train/x.flac")
    changed = 0
    for side, rows in tables.items():
        mine = {
            row["file_name"]: wanted[name]
            for row in rows
            if (name := f"{side}/{row['file_name']}") in wanted and wanted[name] != row["caption"]
        }
        if not mine:
            continue
        for row in rows:
            if row["file_name"] in mine:
                _put(row, mine[row["file_name"]])
            elif (original := row.get("variant_of")) in mine:
                _put(row, _followed(row, mine[original]))
        write_json_lines(root / side / "metadata.jsonl", rows)
        changed += len(mine)
    return changed


def edited(folder: str | Path) -> dict[str, str]:
    """Captions that :func:`recaption` wrote, varied versions left out, by the hash of their sound.

    Args:
        folder: any; one that is no data set has none.
    """
    return {
        str(row["sha256"]): str(row["caption"])
        for side in SPLITS
        for row in _rows(Path(folder), side)
        if row.get("caption_source") == EDITED and not row.get("variant_of")
    }


def restore(folder: str | Path, before: Mapping[str, str]) -> int:
    """Write captions of an earlier making of a data set onto the clips that have the same sound.

    Args:
        folder: the data set, made again.
        before: what :func:`edited` gave of it.

    Returns:
        How many clips took theirs.

    Raises:
        UserError: as :func:`recaption`.
    """
    if not before:
        return 0
    root = Path(folder)
    return recaption(
        root,
        {
            f"{side}/{row['file_name']}": before[row["sha256"]]
            for side in SPLITS
            for row in _rows(root, side)
            if row["sha256"] in before
        },
    )


def _checked(name: str, text: str) -> str:
    text = one_line(text)
    if not text:
        raise UserError(f"{name}: an empty caption tells training nothing", "say what is heard")
    if len(text) > _LONGEST:
        raise UserError(f"{name}: a caption of {len(text):,} letters", f"give at most {_LONGEST:,}")
    return text


def _rows(root: Path, side: str) -> list[dict[str, Any]]:
    table = root / side / "metadata.jsonl"
    if not table.is_file():
        return []
    rows = list(read_table(table))
    if broken := next((row for row in rows if isinstance(row, str)), None):
        raise UserError(f"{root}/{side}/{broken}", "run `tunesmith prepare` again")
    return [dict(row.columns) for row in rows if not isinstance(row, str)]


def _put(row: dict[str, Any], text: str) -> None:
    row |= {"caption": text, "caption_source": EDITED, "caption_confidence": 1.0}
    if "captions" in row:
        row["captions"] = [text]


def _followed(row: Mapping[str, Any], text: str) -> str:
    """The text as it is true of a varied version."""
    try:
        done = json.loads(row.get("augmentation") or "{}")
    except ValueError:
        done = {}
    return retold(
        text,
        _UNKNOWN,
        _UNKNOWN,
        pitch_semitones=float(done.get("pitch_semitones", 0.0)),
        stretch=float(done.get("tempo_factor", 1.0)),
    )


__all__ = ["EDITED", "edited", "recaption", "restore"]
