"""Columns beside the caption that some bases are conditioned on, for recordings and their clips.

``lyrics``, ``language``, ``bpm``, ``key``, ``time_signature``: said by whoever made the data, else
measured where that is sure, else blank. Blank stays blank: nothing here is guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tunesmith.analysis.facts import SURE_KEY, SURE_TEMPO, Facts
from tunesmith.analysis.tonality import KEYS
from tunesmith.data.tables import TEXT_BYTES, one_line

COLUMNS = ("lyrics", "language", "bpm", "key", "time_signature")

_ALSO = {
    "tempo": "bpm",
    "tempo_bpm": "bpm",
    "keyscale": "key",
    "key_scale": "key",
    "timesignature": "time_signature",
    "vocal_language": "language",
}
_USUAL = {
    "bpm": "beats a minute, such as 120",
    "key": "a key, such as A minor",
    "time_signature": "one such as 4/4",
    "language": "a code, such as en",
    "lyrics": "text",
}
_NOTHING = re.compile(r"(?i)\s*(none|null|nan|n/?a|unknown|-|\?)?\s*")
_LINE = 100  # characters of a language or a key
_KEY = re.compile(
    r"([A-G])\s*-?\s*(#|♯|b|♭|sharp|flat)?\s*-?\s*(major|minor|maj\.?|min\.?|m|M)?",
)


def said(columns: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns of a recording with ours under their own names, and as they should be.

    Args:
        columns: of a table or a sidecar, as they stand.

    Returns:
        All of them, blank ones of ours left out; and of ours those that say nothing that can be
        used, ``{column: the value, shortened}``.
    """
    known = {name.strip().lower(): name for name in columns}
    kept = dict(columns)
    bad: dict[str, str] = {}
    for name in (*COLUMNS, *_ALSO):
        column = _ALSO.get(name, name)
        if name not in known or (name != column and column in kept):
            continue
        value = kept.pop(known[name])
        found = _value(column, value)
        if found is not None:
            kept[column] = found
        elif name != column:  # "tempo: lively" is a column of somebody's own
            kept[known[name]] = value
        elif isinstance(value, (list, dict)) or not _NOTHING.fullmatch(str(value)[:200]):
            bad[column] = one_line(str(value)[:200])[:40]
    return kept, {column: value for column, value in bad.items() if column not in kept}


def usual(column: str) -> str:
    """What a column should hold, in words."""
    return _USUAL[column]


def _value(column: str, value: Any) -> Any:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return None
    text = str(value)[:TEXT_BYTES]
    if column == "lyrics":
        lines = "\n".join(map(one_line, text.splitlines())).strip()
        return (lines or None) if isinstance(value, str) else None
    if _NOTHING.fullmatch(text[:200]):
        return None
    if column == "bpm":
        return _beats(text)
    text = one_line(text)[:_LINE]
    if column == "time_signature":
        metre = re.fullmatch(r"(\d{1,2})(?:\.0+)?(\s*/\s*\d{1,2})?", text)
        return metre[1] + re.sub(r"\s", "", metre[2] or "") if metre and int(metre[1]) else None
    if not re.search(r"[^\W\d_]", text):
        return None
    return (key_name(text) or text) if column == "key" else text


def _beats(text: str) -> int | float | None:
    found = re.fullmatch(r"(?i)\s*(\d{1,3}(?:\.\d{1,6})?)\s*(?:bpm)?\s*", text)
    beats = float(found[1]) if found else 0.0
    return _number(beats) if 20 <= beats <= 400 else None


def _number(beats: float) -> int | float:
    rounded = round(beats, 2)
    return int(rounded) if rounded == int(rounded) else rounded


def key_name(text: str) -> str:
    """``F# minor`` for ``F#m`` and ``F sharp minor``; empty where major or minor is not told."""
    found = _KEY.fullmatch(text.strip())
    if found is None or found[3] is None:
        return ""
    sign = {"sharp": "#", "♯": "#", "flat": "b", "♭": "b"}.get(found[2] or "", found[2] or "")
    minor = found[3] != "M" and not found[3].startswith("maj")
    return f"{found[1]}{sign} {'minor' if minor else 'major'}"


def of_clip(
    extra: Mapping[str, Any],
    facts: Facts,
    operations: Mapping[str, float],
) -> dict[str, Any]:
    """``bpm`` and ``key`` of one clip: what was said of its recording, changed as a variant's sound was.

    Where nothing was said, what was measured: a tempo or a key whose confidence is at least that from
    which on a caption would tell it.

    Args:
        extra: the recording's columns.
        facts: of the clip, with the recording's common tempo; they follow a variant by themselves.
        operations: what was done to a varied version.
    """
    found: dict[str, Any] = {}
    steps = operations.get("pitch_semitones", 0.0)
    stretch = operations.get("tempo_factor", 1.0)
    bpm, key = extra.get("bpm"), extra.get("key")
    if isinstance(bpm, (int, float)):
        found["bpm"] = _number(bpm * stretch)
    elif facts.tempo_bpm is not None and facts.tempo_confidence >= SURE_TEMPO:
        found["bpm"] = round(facts.tempo_bpm)
    if isinstance(key, str):
        moved = _moved(key, steps)
        if moved:
            found["key"] = moved
    elif facts.key is not None and facts.key_confidence >= SURE_KEY:
        found["key"] = facts.key
    return found


def _moved(key: str, steps: float) -> str:
    """A key so many semitones higher; empty where what was said is no name of a key."""
    if not steps or not math.isfinite(steps):
        return key
    if not key_name(key) or abs(steps - round(steps)) > 1e-6:
        return ""
    root, mode = key_name(key).split()
    tonic = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[root[0]]
    tonic += root.endswith("#") - root.endswith("b")
    return KEYS[12 * (mode == "minor") + (tonic + round(steps)) % 12]


__all__ = ["COLUMNS", "key_name", "of_clip", "said", "usual"]
