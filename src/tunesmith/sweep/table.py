"""What came of a sweep: a row a trial, the best, and whether it is better by more than chance."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from tunesmith.atomic import write_bytes, write_json
from tunesmith.embeddings import open_embedder
from tunesmith.evaluation.hearing import embed
from tunesmith.metrics.gap import paired_p_value

JSON, CSV, HTML = "sweep.json", "sweep.csv", "sweep.html"
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One trial.

    Attributes:
        words: the settings that set it apart.
        values: the same by key.
        folder: its run.
        state: ``finished``, ``stopped at step N`` or ``failed``.
        steps: that it was trained for, or was to be.
        rungs: KAD of the previews, by step.
        kad, interval: of the takes of the saved adapter; None of what did not come to its end.
        loss: lowest validation loss.
        train_s: seconds of training.
        takes: their files in the run's folder.
        failed: why it came to nothing.
        p_best: how likely chance makes takes of equal trials differ so much from the best one's, all
            such comparisons allowed for (Holm 1979); None of the best itself.
    """

    words: tuple[str, ...]
    values: Mapping[str, Any]
    folder: Path
    state: str
    steps: int
    rungs: Mapping[int, float] = field(default_factory=dict)
    kad: float | None = None
    interval: Sequence[float] | None = None
    loss: float | None = None
    train_s: float | None = None
    takes: tuple[str, ...] = ()
    failed: str = ""
    p_best: float | None = None

    @property
    def name(self) -> str:
        return " ".join(self.words) or "as configured"


@dataclass(frozen=True, slots=True)
class Table:
    """All trials, the nearest first.

    Attributes:
        rows: finished ones by KAD, then stopped ones, then failed ones.
        embedding: what the takes were heard with.
        held_out: how many clips they were compared with.
        facts: of the takes: how many, how long, from which seed.
        verdict: sentences.
    """

    rows: tuple[Row, ...]
    embedding: str
    held_out: int
    facts: Mapping[str, Any]
    verdict: tuple[str, ...]

    @property
    def best(self) -> Row | None:
        """The trial with the lowest KAD; None if none came to its end."""
        return next((row for row in self.rows if row.kad is not None), None)

    def write(self, out: Path) -> None:
        """Writes ``sweep.json``, ``sweep.csv`` and ``sweep.html``."""
        out.mkdir(parents=True, exist_ok=True)
        rows = []
        for row in self.rows:
            value = asdict(row) | {"folder": _inside(row.folder, out), "name": row.name}
            rows.append({k: v for k, v in value.items() if k != "takes"})
        best = self.best
        whole = {
            "metric": "kad",
            "embedding": self.embedding,
            "held_out_clips": self.held_out,
            **self.facts,
            "best": None if best is None else _inside(best.folder, out),
            "verdict": list(self.verdict),
            "trials": rows,
        }
        write_json(out / JSON, whole)
        heads, cells = self.cells(out)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([heads, *cells])
        write_bytes(out / CSV, text.getvalue().encode())
        write_bytes(out / HTML, self._page(heads, cells).encode())

    def cells(self, out: Path) -> tuple[list[str], list[list[str]]]:
        """The heads and the cells of the table, as text."""
        keys = list(dict.fromkeys(key for row in self.rows for key in row.values))
        heads = [*keys, "state", "KAD", "95 % interval", "p against best", "validation loss"]
        heads += ["training s", "folder"]
        return heads, [
            [
                *(_shown(row.values.get(key)) for key in keys),
                f"{row.state}: {row.failed}" if row.failed else row.state,
                _number(row.kad if row.kad is not None else _last(row.rungs)),
                "" if row.interval is None else " to ".join(map(_number, row.interval)),
                "" if row.p_best is None else f"{row.p_best:.3f}",
                _number(row.loss),
                "" if row.train_s is None else f"{row.train_s:.0f}",
                _inside(row.folder, out),
            ]
            for row in self.rows
        ]

    def _page(self, heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
        best = self.best
        head = "".join(f'<th scope="col">{escape(one)}</th>' for one in heads)
        body = "".join(
            f"<tr{' class=best' if row is best else ''}>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in line)
            + "</tr>\n"
            for row, line in zip(self.rows, cells, strict=True)
        )
        verdict = "".join(f"<p>{escape(sentence)}</p>\n" for sentence in self.verdict)
        return _PAGE.format(verdict=verdict, head=head, body=body, note=escape(self.note()))

    def note(self) -> str:
        """What the figures are."""
        return (
            f"KAD of {self.facts['takes']} takes of {self.facts['seconds']:g} s to {self.held_out} "
            f"held-out clips, heard with {self.embedding}; lower is nearer. Of a trial that was stopped "
            "it is that of the previews at its last rung."
        )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sweep</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; padding-bottom: .5rem; }}
th, td {{ text-align: left; padding: .35rem .8rem; border-bottom: 1px solid #8885; white-space: nowrap; }}
tr.best td {{ font-weight: 600; }}
</style></head><body>
<h1>Sweep</h1>
{verdict}
<div class="scroll"><table><caption>{note}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody></table></div>
</body></html>
"""


def tabled(
    rows: Sequence[Row], embedding: str, reference: Sequence[str], facts: Mapping[str, Any]
) -> Table:
    """Sorts the trials, and tests each finished one against the best.

    Args:
        rows: of the trials.
        embedding: what hears.
        reference: files of the held-out clips.
        facts: of the takes.
    """
    order = {"finished": 0, "failed": 2}
    rows = sorted(
        rows,
        key=lambda row: (
            order.get(row.state, 1),
            row.kad if row.kad is not None else 0.0,
            -max(row.rungs, default=0),
            _last(row.rungs) or 0.0,
            row.name,
        ),
    )
    finished = [row for row in rows if row.kad is not None]
    if len(finished) > 1:
        ear = open_embedder(embedding)
        held_out = embed(reference, ear)
        best, *others = ([row.folder / take for take in row.takes] for row in finished)
        heard = embed(best, ear)
        raw = [paired_p_value(held_out, heard, embed(files, ear)) for files in others]
        tested = dict(zip((row.folder for row in finished[1:]), _holm(raw), strict=True))
        rows = [replace(row, p_best=tested.get(row.folder)) for row in rows]
    return Table(tuple(rows), embedding, len(reference), facts, tuple(_verdict(rows)))


def _holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979)."""
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def _verdict(rows: Sequence[Row]) -> list[str]:
    finished = [row for row in rows if row.kad is not None]
    failed = [row for row in rows if row.failed]
    said = []
    if not finished:
        said.append("No trial came to its end.")
    else:
        best, *others = finished
        said.append(f"Nearest to the held-out clips: {best.name} (KAD {_number(best.kad)}).")
        alike = [row for row in others if row.p_best is not None and row.p_best >= LEVEL]
        if not others:
            said.append(
                "It is the only one that came to its end: nothing says that it is the best."
            )
        elif not alike:
            highest = max(row.p_best or 0.0 for row in others)
            said.append(
                "Its lead over every other that came to its end is more than the chance of takes "
                f"(p ≤ {highest:.3f}, paired permutation test). Another seed of training can still "
                "turn it round: add seed=0,1,2 to see."
            )
        else:
            names = "; ".join(row.name for row in alike[:3])
            more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
            said.append(
                f"That is no more than noise against {names}{more} (p ≥ "
                f"{min(row.p_best or 1.0 for row in alike):.2f}): take the cheapest of them, or look "
                "closer with more --takes and held-out clips."
            )
    if failed:
        said.append(f"{len(failed)} failed, {failed[0].name} first: {failed[0].failed}")
    return said


def _inside(folder: Path, out: Path) -> str:
    try:
        return folder.resolve().relative_to(out.resolve()).as_posix()
    except ValueError:
        return str(folder)


def _last(rungs: Mapping[int, float]) -> float | None:
    return rungs[max(rungs)] if rungs else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


__all__ = ["CSV", "HTML", "JSON", "Row", "Table", "tabled"]
