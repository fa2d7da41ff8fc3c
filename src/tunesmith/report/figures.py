"""Curves as inline SVG: axes with round ticks, colour *and* dash per series, words for all of it.

Colours come from the page's style sheet through classes (``s0`` ...), so one drawing serves light
and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import ArrayLike

STYLES = 6
"""Distinct looks of a series in the style sheet; a seventh series looks like the first."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment worth pointing at: a vertical line with a word.

    Attributes:
        x: where, in units of the x axis.
        label: a word or two ("kept", "resumed").
    """

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One diagram.

    Attributes:
        title: its heading.
        x_label: what the x axis counts, with its unit.
        y_label: likewise.
        series: name to (x values, y values) of equal length; NaN and infinity leave a gap.
        marks: moments to point at.
        explanation: what a lay reader should see in it.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[ArrayLike, ArrayLike]]
    marks: Sequence[Mark] = field(default_factory=tuple)
    explanation: str = ""


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) within [low, high], some ``about`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, about)
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
    first = np.ceil(low / step - 1e-9)
    last = np.floor(high / step + 1e-9)
    return [float(i * step) + 0.0 for i in np.arange(first, last + 1)]  # + 0.0: never −0


def number(value: float) -> str:
    """A short number for an axis: 1,500 and 0.25, never 1e+03 within reason."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2g}"
    return f"{value:,.10g}" if abs(value) >= 1000 else f"{value:.6g}"


def summary(curve: Curve) -> str:
    """The diagram in words, for those who do not see it."""
    parts = []
    for name, (x, y) in curve.series.items():
        xs, ys = _finite(x, y)
        if not xs.size:
            parts.append(f"{name}: no values.")
            continue
        low = int(np.argmin(ys))
        parts.append(
            f"{name}: from {ys[0]:.4g} to {ys[-1]:.4g}, lowest {ys[low]:.4g} "
            f"at {number(float(xs[low]))}."
        )
    parts += [f"Marked: {mark.label} at {number(mark.x)}." for mark in curve.marks]
    return f"{curve.y_label} over {curve.x_label}. " + " ".join(parts)


def is_empty(curve: Curve) -> bool:
    """No series has a single finite point."""
    return not any(_finite(x, y)[0].size for x, y in curve.series.values())


def svg(curve: Curve, ident: str, width: int = 800, height: int = 320) -> str:
    """The diagram as one ``<svg>`` element, well-formed XML, everything escaped.

    Args:
        curve: what to draw; empty ones give axes without lines.
        ident: prefix of its ids, unique in the page.
        width: of the drawing in CSS pixels at its natural size; narrow ones get fewer ticks.
        height: likewise.
    """
    points = [_finite(x, y) for x, y in curve.series.values()]
    xs = np.concatenate([p[0] for p in points]) if points else np.zeros(0)
    ys = np.concatenate([p[1] for p in points]) if points else np.zeros(0)
    x_low, x_high = _range(xs, 0.0)
    y_low, y_high = _range(ys, 0.06)
    right, bottom = width - _RIGHT, height - _BOTTOM

    def to_x(value: np.ndarray | float) -> np.ndarray | float:
        return _LEFT + (value - x_low) / (x_high - x_low) * (right - _LEFT)

    def to_y(value: np.ndarray | float) -> np.ndarray | float:
        return bottom - (value - y_low) / (y_high - y_low) * (bottom - _TOP)

    out = [
        f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{ident}-t {ident}-d">',
        f'<title id="{ident}-t">{_text(curve.title)}</title>',
        f'<desc id="{ident}-d">{_text(summary(curve))}</desc>',
    ]
    for value in ticks(y_low, y_high, height // 60):
        at = to_y(value)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">'
            f"{number(value)}</text>"
        )
    for value in ticks(x_low, x_high, width // 110):
        at = to_x(value)
        out.append(
            f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 5}"/>'
        )
        anchor = "end" if at > right - 16 else "middle"
        out.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 19}" text-anchor="{anchor}">'
            f"{number(value)}</text>"
        )
    out.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    out.append(
        f'<text class="label" x="{(_LEFT + right) / 2:.1f}" y="{height - 6}" '
        f'text-anchor="middle">{_text(curve.x_label)}</text>'
    )
    shown = [mark for mark in curve.marks if x_low <= mark.x <= x_high]
    for row, mark in enumerate(sorted(shown, key=lambda mark: mark.x)):
        at, level = float(to_x(mark.x)), _TOP + 11 + 16 * (row % 3)
        side, anchor = (-6, "end") if at > width * 0.6 else (6, "start")
        out.append(
            f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="marked" x="{at + side:.1f}" y="{level}" text-anchor="{anchor}">'
            f"{_text(mark.label)}</text>"
        )
    for index, (x, y) in enumerate(curve.series.values()):
        out += _lines(x, y, to_x, to_y, index % STYLES, width)
    out.append("</svg>")
    return "\n".join(out)


def whiskers(
    readings: Sequence[tuple[float | None, tuple[float, float] | None]],
    width: int = 132,
    row: int = 13,
) -> str:
    """Values as dots on one scale, each with its interval as a bar, from top to bottom.

    Hidden from screen readers: the numbers stand beside it as text.

    Args:
        readings: (value, interval) each; None and what is not finite leave their line empty.
        width: in CSS pixels.
        row: height of each line.
    """
    ends = [
        float(end)
        for value, interval in readings
        if value is not None
        for end in (value, *(interval or ()))
        if np.isfinite(end)
    ]
    low, high = _range(np.asarray(ends), 0.0)
    height, edge = row * len(readings) + 4, 6

    def at(value: float) -> float:
        return edge + (value - low) / (high - low) * (width - 2 * edge)

    out = [f'<svg class="whiskers" viewBox="0 0 {width} {height}" aria-hidden="true">']
    for index, (value, interval) in enumerate(readings):
        if value is None or not np.isfinite(value):
            continue
        y = 2 + row * (index + 0.5)
        look = "first" if index == 0 else "later"
        if interval and np.isfinite(interval).all():
            out.append(
                f'<line class="span {look}" x1="{at(interval[0]):.1f}" x2="{at(interval[1]):.1f}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        out.append(f'<circle class="spot {look}" cx="{at(value):.1f}" cy="{y:.1f}" r="3.6"/>')
    return "".join([*out, "</svg>"])


def _lines(x, y, to_x, to_y, style: int, width: int) -> list[str]:
    """One series as polylines, broken at gaps; a point that stands alone becomes a dot."""
    xs, ys = _arrays(x, y)
    good = np.isfinite(xs) & np.isfinite(ys)
    out = []
    for run in np.split(np.arange(len(xs)), np.flatnonzero(np.diff(good.astype(int))) + 1):
        if not run.size or not good[run[0]]:
            continue
        px, py = _thinned(to_x(xs[run]), to_y(ys[run]), width)
        if len(px) == 1:
            out.append(f'<circle class="dot s{style}" cx="{px[0]:.1f}" cy="{py[0]:.1f}" r="3.5"/>')
            continue
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
        out.append(f'<polyline class="line s{style}" points="{joined}"/>')
    return out


def _thinned(x: np.ndarray, y: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """At most two points per pixel column, its lowest and highest: no spike is lost."""
    if len(x) <= 2 * width:
        return x, y
    keep: set[int] = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), width):
        keep |= {int(part[np.argmin(y[part])]), int(part[np.argmax(y[part])])}
    chosen = np.array(sorted(keep))
    return x[chosen], y[chosen]


def _arrays(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    count = min(len(xs), len(ys))
    return xs[:count], ys[:count]


def _finite(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = _arrays(x, y)
    good = np.isfinite(xs) & np.isfinite(ys)
    return xs[good], ys[good]


def _range(values: np.ndarray, margin: float) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-12 * max(abs(low), abs(high)):  # one point, or a flat line
        pad = abs(high) * 0.1 or 0.5
        return low - pad, high + pad
    return low - margin * (high - low), high + margin * (high - low)


def _text(words: str) -> str:
    """Escaped for XML, without the control characters that XML forbids even escaped."""
    return escape("".join(c for c in words if c >= " "), quote=True)
