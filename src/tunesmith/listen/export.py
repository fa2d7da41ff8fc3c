"""Every answer as a row of CSV, and the figures as JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.atomic import write_bytes
from tunesmith.atomic import write_json as write_json_file
from tunesmith.errors import UserError
from tunesmith.listen.analysis import Judged, Results
from tunesmith.listen.session import LETTERS
from tunesmith.listen.words import headline, tone

COLUMNS = (
    *("listener", "place", "role", "item", "prompt", "seed", "a", "b", "x"),
    *("answer", "chosen", "correct", "rating", "elapsed_s", "heard_s", "answered_at"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def rows(results: Results) -> list[dict[str, Any]]:
    """One row an answer, practice and repeats included (see ``role``)."""
    return [_row(results, one) for one in results.judged]


def _row(results: Results, one: Judged) -> dict[str, Any]:
    test, trial = results.test, one.trial
    item = test.items[trial.item]
    sides = {LETTERS[slot].lower(): test.sides[side].name for slot, side in enumerate(trial.slots)}
    told: dict[str, Any] = {
        "listener": one.listener.ident,
        "place": one.answer.trial,
        "role": trial.role,
        "item": trial.item,
        "prompt": item.prompt,
        "seed": item.seed,
        **sides,
        "answer": one.answer.choice,
        "chosen": test.sides[one.chosen].name if one.chosen is not None else None,
        "correct": one.correct,
        "rating": one.rating,
        "elapsed_s": round(one.answer.elapsed_s, 3),
        "heard_s": " ".join(f"{key}:{value:g}" for key, value in one.answer.heard.items()),
        "answered_at": datetime.fromtimestamp(one.answer.at, UTC).isoformat(timespec="seconds"),
    }
    return {name: told.get(name) for name in COLUMNS}


def write_csv(results: Results, path: str | Path) -> Path:
    """Write ``rows`` as CSV, whole or not at all; text cells cannot be formulas.

    Raises:
        UserError: it cannot be written.
    """
    path = _place(path)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for row in rows(results):
        writer.writerow(
            {name: safe(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
        )
    write_bytes(path, out.getvalue().encode("utf-8"))
    return path


def plain(results: Results) -> dict[str, Any]:
    """The figures as JSON has them, without the single answers."""
    told = asdict(results)
    test = told.pop("test")
    told.pop("judged")
    kept = ("kind", "title", "question", "loudness_lufs", "notes")
    return {
        "headline": headline(results),
        "verdict": tone(results),
        "test": {name: test[name] for name in kept}
        | {"sides": test["sides"], "items": sum(not item["training"] for item in test["items"])},
        **told,
    }


def write_json(results: Results, path: str | Path) -> Path:
    """Write :func:`plain`, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    path = _place(path)
    write_json_file(path, plain(results))
    return path


def _place(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path}: cannot be written", "give a file in a folder that exists")
    return path
