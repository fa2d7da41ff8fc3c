"""The report of a run: frozen descriptions in, one HTML file without any outside part out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from tunesmith.atomic import write_bytes
from tunesmith.report import figures
from tunesmith.report import gap as gaps
from tunesmith.report._embed import Sound, embed_all
from tunesmith.report._template import fill
from tunesmith.report.figures import Curve
from tunesmith.report.gap import GapClosed
from tunesmith.report.spectrogram import LOWEST_HZ
from tunesmith.report.verdict import Verdict, plain
from tunesmith.types import Audio

_LARGE, _SMALL = (520, 144), (320, 80)  # pictures, in pixels


@dataclass(frozen=True, slots=True)
class Track:
    """One thing to listen to.

    Attributes:
        label: what it is ("Before", "After", a file's name).
        audio: sound, or a file that soundfile reads; one that cannot be read is said so.
        caption: its text, shown as it stands.
    """

    label: str
    audio: Audio | Path
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The same prompt and seed through different models, to be heard side by side."""

    prompt: str
    seed: int | None
    tracks: Sequence[Track]


@dataclass(frozen=True, slots=True)
class Section:
    """Further tracks under one heading, such as every clip of the data set."""

    title: str
    tracks: Sequence[Track]
    intro: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the table of measurements.

    Attributes:
        name: of the metric.
        base: before; None or NaN shows as not measured.
        adapted: after.
        better: which way is good.
        explanation: for someone who never heard of it.
        n: how many clips stand behind it.
        embedding: model and checkpoint that heard them.
        p_value: of the difference of the two; above 0.05 the change is called chance.
    """

    name: str
    base: float | None
    adapted: float | None
    better: Literal["lower", "higher"]
    explanation: str
    n: int | None = None
    embedding: str = ""
    p_value: float | None = None

    @property
    def change(self) -> Literal["better", "worse", "same", "chance", "unknown"]:
        """Which way it went; ``chance`` where a test could not tell it from none."""
        if self.base is None or self.adapted is None:
            return "unknown"
        if not (isfinite(self.base) and isfinite(self.adapted)):
            return "unknown"
        if plain(self.base) == plain(self.adapted):  # what reads alike is called alike
            return "same"
        if self.p_value is not None and self.p_value > 0.05:
            return "chance"
        return "better" if (self.adapted < self.base) == (self.better == "lower") else "worse"


@dataclass(frozen=True, slots=True)
class Pitfall:
    """Something found wrong or doubtful, and what to do about it."""

    what: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Rights:
    """Who may do what: licence of the base model, rights in the recordings, what follows."""

    base_licence: str
    data_rights: str
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All that a page says. Text is shown as it stands and never as HTML.

    Attributes:
        title: name of the run.
        verdict: the answer, on top.
        subtitle: one line below the title: base, method, date.
        gap: how far it went from the base to real recordings.
        before_after: rows to listen to.
        sections: further tracks.
        curves: diagrams.
        metrics: measurements.
        pitfalls: warnings.
        data: summary of the data set, name to value.
        settings: the resolved configuration, nested as it is.
        recipe: the recipe's ``name``, ``summary``, usual ``steps`` and ``changes``: settings that are
            not what it says.
        rights: licence and rights.
        versions: package to version.
    """

    title: str
    verdict: Verdict
    subtitle: str = ""
    gap: GapClosed | None = None
    before_after: Sequence[Row] = ()
    sections: Sequence[Section] = ()
    curves: Sequence[Curve] = ()
    metrics: Sequence[Measure] = ()
    pitfalls: Sequence[Pitfall] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    rights: Rights | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


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
    groups = [[track.audio for track in row.tracks] for row in report.before_after]
    sizes = [_LARGE] * len(groups)
    for section in report.sections:  # clips of a section are not compared: each its own scale
        groups += [[track.audio] for track in section.tracks]
        sizes += [_SMALL] * len(section.tracks)
    sounds = embed_all(groups, sizes, int(limit_mb * 1e6))
    rows = [
        list(zip(row.tracks, heard, strict=True))
        for row, heard in zip(report.before_after, sounds, strict=False)
    ]
    rest = iter(sounds[len(rows) :])
    sections = [[(track, next(rest)[0]) for track in section.tracks] for section in report.sections]
    cut = [s for group in sounds for s in group if s.played_s < s.duration_s - 0.05]
    return fill(
        "page.html.j2",
        ("page.css",),
        {"value": _value, "measured": _measured, "seconds": _seconds, "hertz": _hertz},
        report=report,
        rows=rows,
        sections=sections,
        cut_s=max((sound.played_s for sound in cut), default=None),
        gap=_gap(report.gap) if report.gap else None,
        curves=[_curve(curve, index) for index, curve in enumerate(report.curves)],
        lowest_hz=LOWEST_HZ,
        describe=_describe,
        is_mapping=lambda item: isinstance(item, Mapping),
    )


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
