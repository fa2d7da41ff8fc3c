"""What a prepared data set comes to, in figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data import audiofolder
from tunesmith.data.sources import Rejection


@dataclass(frozen=True, slots=True)
class PreparedSummary:
    """What :func:`tunesmith.data.prepare` made.

    Attributes:
        dest: the data set.
        clips, train, valid: numbers of clips.
        seconds, train_s, valid_s: their lengths.
        recordings: how many of the recordings gave clips.
        variants: varied versions of the training clips, besides.
        rejected: recordings, and pieces of them, that became no clip (``rejected.jsonl``).
        faults: how many of these for which fault.
        first_rejections: the first ten of them, for a report.
        warnings: one line each.
        unchanged: the data set was there already, and nothing was done.
        voice: what was found of a voice, and whether it is enough; empty of music.
    """

    dest: Path
    clips: int
    train: int
    valid: int
    seconds: float
    train_s: float
    valid_s: float
    recordings: int
    variants: int
    rejected: int
    faults: Mapping[str, int]
    first_rejections: tuple[Rejection, ...]
    warnings: tuple[str, ...]
    unchanged: bool = False
    voice: Mapping[str, Any] = field(default_factory=dict)


def summarise(dest: Path, unchanged: bool = False) -> PreparedSummary:
    """What stands in a data set that :func:`tunesmith.data.prepare` made."""
    described = audiofolder.describe(dest) or {}
    counts, seconds = described["counts"], described["seconds"]
    with open(dest / "rejected.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(10), file, strict=False)]
    return PreparedSummary(
        dest=dest,
        clips=counts["clips"],
        train=counts["train"],
        valid=counts["valid"],
        seconds=seconds["clips"],
        train_s=seconds["train"],
        valid_s=seconds["valid"],
        recordings=counts["recordings"],
        variants=counts.get("variants", 0),
        rejected=counts["rejected"],
        faults=described.get("faults", {}),
        first_rejections=tuple(Rejection(**row) for row in rows),
        warnings=tuple(described["warnings"]),
        unchanged=unchanged,
        voice=described.get("voice", {}),
    )
