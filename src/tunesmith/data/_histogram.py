"""Histograms with round edges, and counts of names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_BINS = 14
_FAR = 3.0  # quartile ranges beyond the quartiles: what lies there would squeeze all the rest


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often what was measured.

    Attributes:
        name: ``length``, ``loudness`` ...
        unit: of the edges; empty for names.
        labels: of the bars: lower edges, or names.
        counts: one per bar.
        edges: one more than bars; empty for names.
        low, median, high: of the values; None for names or without any.
        missing: clips without this figure.
        under, over: values that lie far from all others: they alone make up the first bar, or the
            last, whose outer edge they are beyond.
    """

    name: str
    unit: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    edges: tuple[float, ...]
    low: float | None
    median: float | None
    high: float | None
    missing: int
    under: int = 0
    over: int = 0

    @property
    def total(self) -> int:
        return sum(self.counts)


def of_numbers(name: str, unit: str, values: Sequence[float | None]) -> Histogram:
    """A histogram of numbers; None and what is not finite counts as missing."""
    known = sorted(value for value in values if value is not None and math.isfinite(value))
    missing = len(values) - len(known)
    if not known:
        return Histogram(name, unit, (), (), (), None, None, None, missing)
    low, high = _range(known)
    step = _step(high - low or abs(low) / 10 or 1.0)
    first, last = (math.floor(value / step + 1e-9) for value in (low, high))
    under, over = sum(value < low for value in known), sum(value > high for value in known)
    counts = Counter(math.floor(value / step + 1e-9) for value in known[under : len(known) - over])
    counts[first - 1] += under
    counts[last + 1] += over
    first, last = first - bool(under), last + bool(over)
    bars = range(first, last + 1)
    edges = tuple(round(i * step, 6) for i in range(first, last + 2))
    middle = len(known) // 2
    median = known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2
    return Histogram(
        name,
        unit,
        tuple(f"{edge:g}" for edge in edges[:-1]),
        tuple(counts[i] for i in bars),
        edges,
        round(known[0], 3),
        round(median, 3),
        round(known[-1], 3),
        missing,
        under,
        over,
    )


def of_names(name: str, values: Sequence[str | None]) -> Histogram:
    """How often each name stands, the most frequent first."""
    known = Counter(value for value in values if value)
    rows = sorted(known.items(), key=lambda row: (-row[1], row[0]))
    return Histogram(
        name,
        "",
        tuple(label for label, _ in rows),
        tuple(count for _, count in rows),
        (),
        None,
        None,
        None,
        len(values) - sum(known.values()),
    )


def _range(known: Sequence[float]) -> tuple[float, float]:
    """The lowest and highest of sorted values that are drawn to scale.

    One silent clip among loud ones, or one hour among loops, would leave the others a single bar.
    So what is far out is set apart, where that halves the range at least.
    """
    first, third = known[len(known) // 4], known[(3 * len(known)) // 4]
    reach, few = _FAR * (third - first), max(1, len(known) // 20)
    under = sum(value < first - reach for value in known)
    over = sum(value > third + reach for value in known)
    # More than a few are a group of their own, and no exception.
    low = known[under if under <= few else 0]
    high = known[-1 - (over if over <= few else 0)]
    if reach > 0 and high - low <= 0.5 * (known[-1] - known[0]):
        return low, high
    return known[0], known[-1]


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that at most 14 bars cover the span."""
    raw = span / (_BINS - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
