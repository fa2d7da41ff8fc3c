"""What a run's own files say: curves, pitfalls that were noted, the recordings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.report.contents import Pitfall
from tunesmith.report.figures import Curve, Mark


def pitfalls_of(facts: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> list[Pitfall]:
    """What was noted before training (``pitfalls`` of run.json) and while it ran, each once.

    A pitfall has a ``name``, a ``message``, a ``mend``, perhaps an ``action`` that was taken, and the
    ``values`` that were measured; lines of metrics.jsonl have a ``step``, too.
    """
    noted = [one for one in facts.get("pitfalls") or () if isinstance(one, Mapping)]
    noted += [one for one in lines if one.get("kind") == "pitfall"]
    found: dict[tuple[str, str], Pitfall] = {}
    for one in noted:
        what = str(one.get("message") or one.get("name") or "")
        step, values = one.get("step"), one.get("values")
        pitfall = Pitfall(
            what,
            str(one.get("mend") or ""),
            name=str(one.get("name") or ""),
            action=str(one.get("action") or ""),
            step=step if isinstance(step, int) else None,
            values=values if isinstance(values, Mapping) else {},
        )
        if what:
            found.setdefault((pitfall.name, what), pitfall)
    return list(found.values())


def losses(lines: Sequence[dict[str, Any]], used: int, unit: str) -> Curve | None:
    """The losses that a run measured, in a unit; ``used`` is the step whose weights were kept."""
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
        unit,
        series,
        marks=[Mark(used, "kept")],
        explanation="Lower is better. The weights at the mark were kept: "
        + ("takes were best there." if _was_heard(lines) else "validation was lowest there."),
    )


def _was_heard(lines: Sequence[Mapping[str, Any]]) -> bool:
    return any(one["kind"] == "judged" for one in lines)


def heard(lines: Sequence[Mapping[str, Any]], used: int) -> Curve | None:
    """What the takes of a voice were like while it trained; ``used`` is the step whose weights were kept."""
    rows = [one for one in lines if one["kind"] == "judged"]
    if not rows:
        return None
    steps = [float(one["step"]) for one in rows]
    return Curve(
        "Voice",
        "step",
        "0 to 1",
        {
            name: (steps, [float(one[name]) for one in rows])
            for name in ("similarity", "intelligibility", "score")
        },
        marks=[Mark(used, "kept")],
        explanation="Higher is better. Step 0 is the base with the voice's vector (zero-shot); the score is "
        "similarity × intelligibility, and was highest at the mark.",
    )


def rates(lines: Sequence[dict[str, Any]]) -> Curve | None:
    points = [(x["step"], x["lr"]) for x in lines if x["kind"] == "train"]
    if not points:
        return None
    series = {"learning rate": ([float(x) for x, _ in points], [float(y) for _, y in points])}
    return Curve("Learning rate", "step", "rate", series)


def data_facts(facts: dict[str, Any]) -> dict[str, Any]:
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
    return told | _of_data_set(facts)


def _of_data_set(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the data set says of itself, and ``tunesmith check --json`` of it, if either is there."""
    path = (facts["config"].get("data") or {}).get("path")
    if not path:
        return {}
    root, told = Path(path).expanduser(), {}
    described, checked = _read(root / "dataset.json"), _read(root / "check.json")
    faults = described.get("faults")
    if isinstance(faults, Mapping) and faults:
        told["faults"] = ", ".join(
            f"{str(name).replace('_', ' ')} {n}" for name, n in faults.items()
        )
    if warnings := described.get("warnings"):
        told["warnings"] = "; ".join(map(str, warnings))
    verdicts = checked.get("verdicts") or []
    if verdicts and isinstance(verdicts[0], Mapping):
        first = verdicts[0]
        sentences = " ".join(map(str, first.get("sentences") or ()))
        told["check"] = f"{first.get('word')} for {first.get('method')}. {sentences}".strip()
    findings = [one for one in checked.get("findings") or () if isinstance(one, Mapping)]
    if findings:
        told["doubtful"] = " ".join(str(one.get("what", "")) for one in findings)
    return told


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
