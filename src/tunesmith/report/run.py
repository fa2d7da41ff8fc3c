"""The page of a run: what its folder holds, laid out for a listener."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.formats.adapter import read_card
from tunesmith.formats.sound import read_made_of
from tunesmith.report.figures import Curve, Mark
from tunesmith.report.gap import GapClosed
from tunesmith.report.page import (
    Measure,
    Pitfall,
    Report,
    Rights,
    Row,
    Section,
    Track,
    write_report,
)
from tunesmith.report.verdict import Pair, judge
from tunesmith.training.log import read_metrics


def report_on_run(folder: Path) -> Path:
    """Write ``report.html`` into a finished run's folder."""
    return write_report(run_report(folder, rows=preview_rows(folder)), folder / "report.html")


def run_report(
    folder: Path,
    *,
    title: str = "",
    rows: Sequence[Row] = (),
    sections: Sequence[Section] = (),
    measures: Sequence[Measure] = (),
    kad: Pair | None = None,
    kad_p: float | None = None,
    pitfalls: Sequence[Pitfall] = (),
    gap: GapClosed | None = None,
) -> Report:
    """A report from a run's folder, and what else was measured or is to be heard."""
    card, facts = read_card(folder), json.loads((folder / "run.json").read_text(encoding="utf-8"))
    lines = read_metrics(folder / "metrics.jsonl")
    losses = card["metrics"]["validation_loss"]
    general = card["metrics"]["general_loss"]
    # Both of the same weights: those that were kept, not those that came last.
    kept = next((x for x in lines if x["kind"] == "valid" and x["step"] == card["step"]), {})
    general_after = kept.get("general_loss", general["last"])
    valid = Pair(losses["base"], losses["adapted"])
    verdict = judge(
        valid=valid,
        general=Pair(general["base"], general_after) if general["base"] is not None else None,
        kad=kad,
        kad_p=kad_p,
        gap=gap.gap if gap else None,
        n_valid=facts["data"]["valid"]["clips"],
    )
    table = [
        Measure(
            "validation loss",
            losses["base"],
            losses["adapted"],
            "lower",
            "How surprised the model is by recordings of yours that it was not trained on, in nats a code.",
            n=facts["data"]["valid"]["clips"],
        )
    ]
    if general["base"] is not None:
        table.append(
            Measure(
                "general loss",
                general["base"],
                general_after,
                "lower",
                "The same for other music. If it rises, the model is forgetting what it knew.",
                n=facts["data"]["general"]["clips"],
            )
        )
    base, method = card["base"], card["method"]["name"]
    notes = [f"The adapter works on {base['name']} with the fingerprint {base['hash'][:16]} only."]
    if "NC" in base["licence"].upper().split("-"):
        notes.append("The base's weights exclude commercial use; so does what is made with them.")
    return Report(
        title=title or folder.resolve().name,
        subtitle=f"{method} on {base['name']}, step {card['step']} of {card['steps']}",
        verdict=verdict,
        gap=gap,
        before_after=rows,
        sections=sections,
        curves=[curve for curve in (_losses(lines, card["step"]), _rates(lines)) if curve],
        metrics=[*table, *measures],
        pitfalls=pitfalls,
        data=_data(facts),
        settings=facts["config"],
        recipe=facts.get("recipe"),
        rights=Rights(base["licence"], card["rights"], notes),
        versions=facts["versions"],
    )


def preview_rows(folder: Path) -> list[Row]:
    """Each preview prompt before (step 0) and after (the last preview)."""
    steps = sorted((folder / "previews").glob("step-*"))
    if len(steps) < 2:
        return []
    rows = []
    for first in sorted(steps[0].glob("*.flac")):
        last = steps[-1] / first.name
        if last.is_file():
            made_of = read_made_of(first)
            after = f"after ({int(steps[-1].name.removeprefix('step-'))} steps)"
            asked = str(read_made_of(last).get("asked", ""))
            said = f"asked as: {asked}" if asked not in ("", made_of.get("prompt")) else ""
            rows.append(
                Row(
                    str(made_of.get("prompt", "")),
                    made_of.get("seed"),
                    [Track("base", first), Track(after, last, said)],
                )
            )
    return rows


def _losses(lines: Sequence[dict[str, Any]], used: int) -> Curve | None:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for name, kind, key in (
        ("training", "train", "loss"),
        ("validation", "valid", "loss"),
        ("general", "valid", "general_loss"),
    ):
        points = [(x["step"], x[key]) for x in lines if x["kind"] == kind and key in x]
        if points:
            series[name] = ([float(x) for x, _ in points], [float(y) for _, y in points])
    if not series:
        return None
    return Curve(
        "Loss",
        "step",
        "nats per code",
        series,
        marks=[Mark(used, "kept")],
        explanation="Lower is better. The weights at the mark were kept: validation was lowest there.",
    )


def _rates(lines: Sequence[dict[str, Any]]) -> Curve | None:
    points = [(x["step"], x["lr"]) for x in lines if x["kind"] == "train"]
    if not points:
        return None
    series = {"learning rate": ([float(x) for x, _ in points], [float(y) for _, y in points])}
    return Curve("Learning rate", "step", "rate", series)


def _data(facts: dict[str, Any]) -> dict[str, Any]:
    told = {}
    for side, name in (("train", "training"), ("valid", "validation"), ("general", "general")):
        part = facts["data"][side]
        if part["clips"]:
            told[name] = (
                f"{part['clips']} clips, {part['seconds'] / 60:.1f} min, {part['recordings']} recordings"
            )
    for side, name in (("train", "training"), ("valid", "validation")):
        if one := (facts.get("chosen") or {}).get(side):
            told[f"best of {name}"] = (
                f"{one['kept']} of {one['of']} clips, with {one['lowest_kept']:g} points or more of 100"
            )
    return told
