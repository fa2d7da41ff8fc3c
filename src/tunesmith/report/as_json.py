"""``report.json``: what the page says, for programs. Made of the same description as the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from tunesmith.atomic import write_bytes
from tunesmith.evaluation.findings import NOT_FINITE, Finding, Memorisation
from tunesmith.report.contents import Comparison, Measure, Pitfall, Report
from tunesmith.report.gap import GapClosed


def report_json(report: Report) -> dict[str, Any]:
    """The report as JSON has it: no NaN, no tuples, every key always there.

    ``metrics`` has ``value``, ``interval``, ``n`` and ``embedding`` of each (null where there is
    none), with ``better``, ``p_value``, ``warnings``, ``missing``, ``explanation`` and ``base``, the
    same of the base. A comparison has ``subjects`` besides, and its ``metrics`` are those of the
    subject that its verdict is about.
    """
    comparison = report.comparison
    told: dict[str, Any] = {
        "verdict": report.verdict.word,
        "headline": report.verdict.headline,
        "caution": report.verdict.caution,
        "evidence": report.verdict.sentences,
        "metrics": _of_subject(comparison, comparison.lead) if comparison else _metrics(report),
        "memorisation": _memorisation(report.memorised, report.memorisation_missing),
        "pitfalls": [_pitfall(one) for one in report.pitfalls],
        "data": report.data,
        "settings": report.settings,
        "rights": asdict(report.rights) if report.rights else None,
        "versions": report.versions,
        "run": {"name": report.title} | dict(report.run),
        "base": report.base,
    }
    if comparison:
        told["subjects"] = {
            column.key: {
                "name": column.name,
                "metrics": _of_subject(comparison, column.key),
                "memorisation": _memorisation(
                    report.memorisation.get(column.key), report.memorisation_missing
                ),
            }
            for column in comparison.columns
        }
    return plain_values(told)


def write_json(report: Report, path: Path, more: Mapping[str, Any] | None = None) -> Path:
    """Write :func:`report_json`, all or nothing.

    Args:
        report: what to say.
        path: the file; its folder must exist.
        more: further keys, see :func:`joined`.

    Raises:
        UserError: it cannot be written.
    """
    write_bytes(path, dumps(joined(report_json(report), more or {})).encode())
    return path


def joined(told: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both, ``more`` taking precedence; a mapping that both have is joined key by key."""
    out = dict(told)
    for key, value in plain_values(dict(more)).items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = {**out[key], **value} if both else value
    return out


def dumps(told: Mapping[str, Any]) -> str:
    """Strict JSON with a newline at its end."""
    return json.dumps(told, indent=2, allow_nan=False) + "\n"


def plain_values(value: Any) -> Any:
    """As JSON can hold it: NaN and infinity become null, what JSON has no form for its text."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_values(one) for key, one in value.items()}
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if isfinite(value) else None
    if isinstance(value, Iterable):
        return [plain_values(one) for one in value]
    return str(value)


def unique(keys: Sequence[tuple[str, str]]) -> list[str]:
    """Keys of (metric, embedding): the metric, and the embedding with it from the second on."""
    out: list[str] = []
    for metric, embedding in keys:
        name, count = metric, 1
        if name in out and embedding:
            name = f"{metric} ({embedding})"
        while name in out:
            count += 1
            name = f"{metric} {count}"
        out.append(name)
    return out


def key_of(measure: Measure) -> str:
    """``validation_loss`` for "validation loss"."""
    return measure.key or measure.name.lower().replace(" ", "_")


def _metrics(report: Report) -> dict[str, Any]:
    keys = unique([(key_of(one), one.embedding) for one in report.metrics])
    told = {key: _measure(one) for key, one in zip(keys, report.metrics, strict=True)}
    if report.gap and "gap_closed" not in told:
        told["gap_closed"] = _gap(report.gap)
    return told


def _measure(one: Measure) -> dict[str, Any]:
    about = {"embedding": one.embedding, "better": one.better, "explanation": one.explanation}
    after = _reading(
        one.adapted,
        one.interval,
        one.n,
        n_reference=one.n_reference,
        p_value=one.p_value,
        warnings=one.warnings,
        missing=one.missing,
        **about,
    )
    before = _reading(
        one.base,
        one.base_interval,
        one.n if one.base_n is None else one.base_n,
        n_reference=one.n_reference,
        p_value=None,
        warnings=one.base_warnings,
        missing=one.base_missing,
        **about,
    )
    return after | {"base": before}


def _reading(
    value: float | None, interval: Any, n: int | None, *, missing: str, embedding: str, **rest: Any
) -> dict[str, Any]:
    sound = value is not None and isfinite(value)
    return {
        "value": value if sound else None,
        "interval": interval if sound and interval and all(map(isfinite, interval)) else None,
        "n": n,
        "embedding": embedding or None,
        "missing": None if sound else missing or ("not measured" if value is None else NOT_FINITE),
        **rest,
    }


def _finding(one: Finding) -> dict[str, Any]:
    return _reading(
        one.value,
        one.interval,
        one.n,
        missing=one.missing,
        embedding=one.embedding,
        n_reference=one.n_reference,
        better=one.better,
        explanation=one.explanation,
        p_value=one.p_value,
        warnings=one.warnings,
    )


def _of_subject(comparison: Comparison, key: str) -> dict[str, Any]:
    places = {column.key: index for index, column in enumerate(comparison.columns)}
    index, against = places[key], places.get(comparison.columns[places[key]].against)
    told = {}
    for row in comparison.rows:
        if (own := row.cells[index]) is not None:
            before = row.cells[against] if against is not None else None
            told[row.key] = _finding(own) | {"base": _finding(before) if before else None}
    return told


def _gap(shown: GapClosed) -> dict[str, Any]:
    """The share closed has a standard error a training, but no honest interval over trainings."""
    reading = _reading(
        shown.gap.median,
        None,
        shown.gap.n_takes,
        missing="there is no clear gap to close",
        embedding=shown.embedding,
        n_reference=shown.gap.n_reference,
        better="higher",
        explanation="Share of the way from the base to real recordings through its codec; 1 is all.",
        p_value=shown.gap.p_value,
        warnings=shown.gap.warnings,
    )
    base = reading | {"value": 0.0, "missing": None, "p_value": None, "warnings": ()}
    return reading | {"base": base}


def _memorisation(found: Memorisation | None, missing: str) -> dict[str, Any]:
    if found is None:
        names = ("flagged", "copies", "takes", "expected", "p_value", "embedding")
        return dict.fromkeys(names) | {"matches": [], "missing": missing or "not looked for"}
    return asdict(found) | {"embedding": found.embedding or None, "missing": None}


def _pitfall(one: Pitfall) -> dict[str, Any]:
    return {
        "name": one.name,
        "message": one.what,
        "mend": one.mend,
        "action": one.action or None,
        "step": one.step,
        "values": one.values,
    }
