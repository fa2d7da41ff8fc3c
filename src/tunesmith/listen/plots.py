"""Intervals and counts as inline SVG, with every figure in words as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_SIDE, _ROW, _HEAD = 14, 50, 8


@dataclass(frozen=True, slots=True)
class Spot:
    """One line of a forest plot: ``value`` within its ``interval``; ``text`` says both."""

    name: str
    value: float
    interval: tuple[float, float]
    text: str


@dataclass(frozen=True, slots=True)
class Stack:
    """One bar of counts, in the order of the legend."""

    name: str
    counts: tuple[int, ...]


def forest(
    spots: Sequence[Spot],
    *,
    title: str,
    ends: tuple[float, float],
    ticks: Sequence[float],
    middle: float | None,
    shown: Callable[[float], str],
    ident: str,
    width: int,
) -> str:
    """Values with their intervals above one axis, as ``<svg>``.

    Args:
        spots: from top to bottom.
        title: of the drawing.
        ends: of the axis.
        ticks: on it.
        middle: where there is no difference, if anywhere.
        shown: a tick's text.
        ident: prefix of its ids, unique in the page.
        width: in CSS pixels at its natural size.
    """
    left, right = _SIDE, width - _SIDE
    bottom = _HEAD + _ROW * len(spots) + 6

    def at(value: float) -> float:
        inside = min(max(value, ends[0]), ends[1])
        return left + (inside - ends[0]) / (ends[1] - ends[0]) * (right - left)

    told = " ".join(f"{spot.name}: {spot.text}." for spot in spots)
    out = [_open(width, bottom + 26, ident, title, told)]
    for value in ticks:
        x = at(value)
        kind = "nought" if value == middle else "grid"
        out.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEAD}" y2="{bottom}"/>')
        anchor = "start" if value == ends[0] else "end" if value == ends[1] else "middle"
        out.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="{anchor}">'
            f"{escape(shown(value))}</text>"
        )
    out.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for index, spot in enumerate(spots):
        top = _HEAD + _ROW * index
        y = top + 36
        name = _cut(spot.name, max(12, (width - 30 - 7 * len(spot.text)) // 8))
        out.append(
            f'<text class="label" x="{left}" y="{top + 19}">{escape(name)}</text>'
            f'<text class="figure" x="{right}" y="{top + 19}" text-anchor="end">'
            f"{escape(spot.text)}</text>"
            f'<line class="reach" x1="{at(spot.interval[0]):.1f}" x2="{at(spot.interval[1]):.1f}" '
            f'y1="{y}" y2="{y}"/>'
            f'<circle class="spot" cx="{at(spot.value):.1f}" cy="{y}" r="6.5"/>'
        )
    return "\n".join([*out, "</svg>"])


def stacks(
    bars: Sequence[Stack],
    *,
    title: str,
    legend: Sequence[str],
    classes: Sequence[str],
    ident: str,
    width: int,
) -> str:
    """Counts as shares of bars of equal length, with each number in its part, as ``<svg>``."""
    left, right = _SIDE, width - _SIDE
    row = 46
    told = " ".join(
        f"{bar.name}: "
        + ", ".join(
            f"{count} {name}" for count, name in zip(bar.counts, legend, strict=True) if count
        )
        + "."
        for bar in bars
    )
    out = [_open(width, row * len(bars) + 6, ident, title, told)]
    for index, bar in enumerate(bars):
        top, total, x = row * index, sum(bar.counts), float(left)
        out.append(
            f'<text class="label" x="{left}" y="{top + 15}">'
            f"{escape(_cut(bar.name, (width - 30) // 8))}</text>"
        )
        for count, kind in zip(bar.counts, classes, strict=True):
            if not count:
                continue
            wide = (right - left) * count / total
            out.append(
                f'<rect class="part {kind}" x="{x:.1f}" y="{top + 21}" width="{max(wide - 1.5, 1):.1f}" '
                'height="18" rx="4"/>'
            )
            if wide > 18:
                out.append(
                    f'<text class="inside {kind}" x="{x + wide / 2:.1f}" y="{top + 34.5}" '
                    f'text-anchor="middle">{count}</text>'
                )
            x += wide
    return "\n".join([*out, "</svg>"])


def _open(width: int, height: int, ident: str, title: str, told: str) -> str:
    return (
        f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{ident}-t {ident}-d"><title id="{ident}-t">{_clean(title)}</title>'
        f'<desc id="{ident}-d">{_clean(told)}</desc>'
    )


def _cut(text: str, most: int) -> str:
    text = "".join(character for character in text if character >= " ")
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _clean(text: str) -> str:
    """Escaped, without the control characters that XML forbids even escaped."""
    return escape("".join(character for character in text if character >= " "))
