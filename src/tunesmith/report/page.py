"""The page of a report: a frozen description in, one HTML file without any outside part out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunesmith.atomic import write_bytes
from tunesmith.report import figures
from tunesmith.report import gap as gaps
from tunesmith.report._embed import Sound, embed_all
from tunesmith.report._template import code, fill
from tunesmith.report.contents import (
    Column,
    Compared,
    Comparison,
    Measure,
    Pitfall,
    Report,
    Rights,
    Row,
    Section,
    Track,
)
from tunesmith.report.figures import Curve
from tunesmith.report.gap import GapClosed
from tunesmith.report.memorised import copies
from tunesmith.report.spectrogram import LOWEST_HZ
from tunesmith.report.verdict import between, plain

__all__ = [
    "Column",
    "Compared",
    "Comparison",
    "Measure",
    "Pitfall",
    "Report",
    "Rights",
    "Row",
    "Section",
    "Track",
    "render",
    "write_report",
]

_LARGE, _SMALL = (520, 144), (320, 80)  # pictures, in pixels


def write_report(report: Report, path: Path, *, limit_mb: float = 48.0) -> Path:
    """Write the page, all or nothing: a temporary file beside it, flushed, then renamed.

    Args:
        report: what to say.
        path: the ``.html`` file; its folder must exist.
        limit_mb: size that sounds and pictures keep to, in 10⁶ bytes. Quality gives way first, then
            length, and the page says so; no clip is left out.

    Returns:
        ``path``.

    Raises:
        UserError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    html = render(report, limit_mb=limit_mb).encode("utf-8", errors="replace")
    write_bytes(path, html)
    return path


def render(report: Report, *, limit_mb: float = 48.0) -> str:
    """The page as a string."""
    copied = copies(report)
    pairs = [pair for part in copied for pair in part.pairs]
    groups = [[track.audio for track in row.tracks] for row in report.before_after]
    groups += [[track.audio for track in pair.tracks] for pair in pairs]
    sizes = [_LARGE] * len(groups)
    for section in report.sections:  # clips of a section are not compared: each its own scale
        groups += [[track.audio] for track in section.tracks]
        sizes += [_SMALL] * len(section.tracks)
    sounds = embed_all(groups, sizes, int(limit_mb * 1e6))
    heard = iter(sounds)
    rows = [
        list(zip(row.tracks, group, strict=True))
        for row, group in zip(
            report.before_after, islice(heard, len(report.before_after)), strict=True
        )
    ]
    matched = [
        [(pair, list(zip(pair.tracks, next(heard), strict=True))) for pair in part.pairs]
        for part in copied
    ]
    sections = [
        [(track, next(heard)[0]) for track in section.tracks] for section in report.sections
    ]
    cut = [s for group in sounds for s in group if s.played_s < s.duration_s - 0.05]
    return fill(
        "page.html.j2",
        ("page.css", "evaluation.css"),
        {
            "value": _value,
            "measured": _measured,
            "between": between,
            "seconds": _seconds,
            "hertz": _hertz,
            "code": code,
            "sentence": _sentence,
            "told": _told,
        },
        report=report,
        rows=rows,
        sections=sections,
        copied=list(zip(copied, matched, strict=True)),
        cut_s=max((sound.played_s for sound in cut), default=None),
        gap=_gap(report.gap) if report.gap else None,
        curves=[_curve(curve, index) for index, curve in enumerate(report.curves)],
        whiskers=_whiskers,
        spans=_spans,
        notes=_notes,
        lowest_hz=LOWEST_HZ,
        describe=_describe,
        is_mapping=lambda item: isinstance(item, Mapping),
    )


def _whiskers(readings: Sequence[tuple[float | None, tuple[float, float] | None]]) -> Markup | None:
    """Values with their intervals on one scale; None where no interval is known."""
    known = [(value, interval) for value, interval in readings if value is not None]
    if len(known) < 2 or not any(interval for _, interval in known):
        return None
    return Markup(figures.whiskers(readings))


def _spans(row: Compared) -> list[tuple[float | None, tuple[float, float] | None]]:
    return [(cell.value, cell.interval) if cell else (None, None) for cell in row.cells]


def _notes(row: Compared) -> list[str]:
    """What to know before trusting a row of a comparison, each once."""
    told = [note for cell in row.cells if cell for note in cell.warnings]
    told += [f"not measured: {cell.missing}" for cell in row.cells if cell and cell.missing]
    return list(dict.fromkeys(told))


def _told(text: str) -> Markup:
    """With code where there are backticks, and a p-value that is not torn at the end of a line."""
    return Markup(re.sub(r"\bp = [\d.e-]*\d", r'<span class="on">\g<0></span>', str(code(text))))


def _sentence(text: str) -> Markup:
    """With a capital and a full stop, and code where there are backticks."""
    text = text[:1].upper() + text[1:]
    return code(text if text.endswith((".", "!", "?")) or not text else f"{text}.")


def _curve(curve: Curve, index: int) -> dict[str, Any]:
    """Drawn twice: text in an SVG shrinks with it, so phones get a narrow drawing of their own."""
    return {
        "curve": curve,
        "empty": figures.is_empty(curve),
        "wide": Markup(figures.svg(curve, f"c{index}w", 880, 340)),
        "narrow": Markup(figures.svg(curve, f"c{index}n", 340, 260)),
        "legend": [(name, i % figures.STYLES) for i, name in enumerate(curve.series)],
    }


def _gap(shown: GapClosed) -> dict[str, Any]:
    clear = shown.gap.median is not None
    return {
        "sentence": gaps.sentences(shown.gap)[0],  # the verdict above has them all
        "explanations": gaps.explanations(shown) if clear else gaps.explanations(shown)[:1],
        "limits": gaps.limits(shown),
        "rows": gaps.rows(shown),
        "percent": gaps.percent,
        "wide": Markup(gaps.svg(shown, "gw", 880)) if clear else None,
        "narrow": Markup(gaps.svg(shown, "gn", 340)) if clear else None,
    }


def _describe(track: Track, sound: Sound) -> str:
    return (
        f"Spectrogram of {track.label}: {_seconds(sound.duration_s)}, "
        f"{_hertz(LOWEST_HZ)} to {_hertz(sound.highest_hz)}"
    )


def _value(item: Any) -> str:
    """A number or setting for reading."""
    if item is None or item == "":
        return "–"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, float):
        return f"{item:.4g}" if isfinite(item) else "not measured"
    if isinstance(item, int):
        return f"{item:,}" if abs(item) >= 10_000 else str(item)
    if isinstance(item, (list, tuple, set, frozenset)):
        return ", ".join(_value(part) for part in item) or "–"
    return str(item)


def _measured(item: float | None) -> str:
    """A measurement in the table, whose last column says in words that there is none."""
    return "–" if item is None or not isfinite(item) else plain(item)


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes}:{seconds:02d} min"


def _hertz(value: float) -> str:
    return f"{value / 1000:.3g} kHz" if value >= 1000 else f"{value:.0f} Hz"
