"""The page of ``tunesmith check``: one HTML file without any outside part, sound included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from tunesmith.atomic import write_bytes
from tunesmith.data._histogram import Histogram, of_numbers
from tunesmith.data._sound import look, read_start
from tunesmith.data.needs import percent
from tunesmith.data.recording import BadRecording
from tunesmith.errors import UserError
from tunesmith.report import figures
from tunesmith.report._embed import Sound, embed_all
from tunesmith.report._template import code, fill
from tunesmith.report.spectrogram import LOWEST_HZ
from tunesmith.types import Audio

if TYPE_CHECKING:
    from tunesmith.data._caption_stats import Captioned
    from tunesmith.data.check import Check

_EXCERPT_S = 12.0
_FLAGGED, _CAPTIONS, _PAIRS = 24, 12, 6
"""Players of each kind; what is left out is counted on the page."""

_PICTURE = (320, 80)
_TONES = {"too little": "worse", "enough to try": "same", "good": "better", "best": "better"}
_ICONS = {"too little": "worse", "enough to try": "unknown", "good": "better", "best": "better"}
_HEADLINES = {
    "too little": "Too little for {}",
    "enough to try": "Enough to try {}",
    "good": "Good for {}",
    "best": "As good as it gets for {}",
}


@dataclass(frozen=True, slots=True)
class Card:
    """One player.

    Attributes:
        file: the clip.
        caption: its caption; empty to show none.
        says: what there is to say about it, one line each.
    """

    file: str
    caption: str = ""
    says: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """A sound as the page shows it, and how long its file is."""

    sound: Sound
    whole_s: float


def write_check(found: Check, path: Path, *, limit_mb: float = 16.0) -> Path:
    """Write the page, all or nothing.

    Args:
        found: what to say.
        path: the ``.html`` file; its folder must exist.
        limit_mb: size that sounds and pictures keep to, in 10⁶ bytes; quality gives way first, then
            length.

    Returns:
        ``path``.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path}: cannot be written", "give --out a file in a folder that exists")
    write_bytes(path, render(found, limit_mb=limit_mb).encode("utf-8", errors="replace"))
    return path


def render(found: Check, *, limit_mb: float = 16.0) -> str:
    """The page as a string."""
    flagged = [
        Card(clip.file, "", tuple(fault.reason for fault in clip.faults))
        for clip in found.screening.clips
    ]
    doubtful = _doubtful(found)
    pairs = _pairs(found)
    shown: list[list[Card]] = [[card] for card in flagged[:_FLAGGED]]
    shown += [[card] for card in doubtful[:_CAPTIONS]]
    shown += pairs[:_PAIRS]
    heard = iter(_listen(found.root, shown, int(limit_mb * 1e6)))
    flagged_shown = [(card, next(heard)[0]) for card in flagged[:_FLAGGED]]
    doubtful_shown = [(card, next(heard)[0]) for card in doubtful[:_CAPTIONS]]
    pairs_shown = [list(zip(pair, next(heard), strict=True)) for pair in pairs[:_PAIRS]]
    verdict = found.verdict
    nearest = of_numbers(
        "nearest", "dB", list(found.diversity.nearest_db) if found.diversity else []
    )
    return fill(
        "check.html.j2",
        ("page.css", "check.css"),
        {"seconds": seconds, "hertz": _hertz, "percent": percent, "plain": plain, "code": code},
        found=found,
        verdict=verdict,
        headline=_HEADLINES[verdict.word].format(verdict.method.replace("_", " ")),
        tones=_TONES,
        icons=_ICONS,
        flagged=flagged_shown,
        flagged_more=len(flagged) - len(flagged_shown),
        doubtful=doubtful_shown,
        doubtful_more=len(doubtful) - len(doubtful_shown),
        pairs=pairs_shown,
        histograms=[(one, _drawn(one, f"h{i}")) for i, one in enumerate(found.histograms)],
        nearest=_drawn(nearest, "near") if nearest.total else None,
        top=top_names,
        apart=apart,
        lowest_hz=LOWEST_HZ,
        excerpt_s=_EXCERPT_S,
    )


def _doubtful(found: Check) -> list[Card]:
    """Captions that contradict what was heard, then the emptiest, then the unsure; each once."""
    rows: dict[str, Captioned] = {}
    captions = found.captions
    for row in (*captions.contradicting, *captions.worst, *captions.low_confidence):
        rows.setdefault(row.file, row)
    return [Card(row.file, row.caption or "(no caption)", remarks(row)) for row in rows.values()]


def remarks(row: Captioned) -> tuple[str, ...]:
    """What there is to say about one caption, one line each."""
    out = [f"Contradiction: {text}." for text in row.contradictions]
    if row.add:
        out.append(f"Add {row.add}.")
    elif not row.contradictions:
        out.append("Says hardly anything.")
    if row.confidence < 0.5:
        out.append(f"Its source ({row.source}) was unsure: {percent(row.confidence)}.")
    if row.clips > 1:
        out.append(f"{row.clips:,} clips have this caption.")
    return tuple(out)


def _pairs(found: Check) -> list[list[Card]]:
    """Clips that repeat another first, by fingerprint or by ear; then the closest pairs."""
    out: dict[frozenset[str], list[Card]] = {}
    near = {frozenset((one.file, one.other)): one for one in _nearest(found)}
    for file, other in found.screening.repeats:
        pair = near.get(frozenset((file, other)))
        distance = f"{pair.distance_db:.1f} dB apart" if pair else "by its fingerprint"
        out[frozenset((file, other))] = [
            Card(other, "", ("The one that counts.",)),
            Card(file, "", (f"Repeats it, {distance}.",)),
        ]
    for key, one in near.items():
        text = f"{one.distance_db:.1f} dB apart" + ("." if one.same else ", not the same sound.")
        out.setdefault(key, [Card(one.file), Card(one.other, "", (text,))])
    return list(out.values())


def _nearest(found: Check) -> Sequence[Any]:
    return found.diversity.nearest if found.diversity else ()


def _listen(root: Path, groups: Sequence[Sequence[Card]], limit_bytes: int) -> list[list[Heard]]:
    lengths: list[list[float]] = []
    audio: list[list[Audio | Path]] = []
    for group in groups:
        parts = [_excerpt(root / card.file) for card in group]
        audio.append([part for part, _ in parts])
        lengths.append([length for _, length in parts])
    sounds = embed_all(audio, [_PICTURE] * len(groups), limit_bytes)
    return [
        [Heard(sound, whole_s) for sound, whole_s in zip(row, whole, strict=True)]
        for row, whole in zip(sounds, lengths, strict=True)
    ]


def _excerpt(path: Path) -> tuple[Audio | Path, float]:
    """The beginning of a clip and the length of all of it in s; a broken one stays a path, so that
    the page says why there is nothing to hear."""
    try:
        samples, rate = read_start(path, _EXCERPT_S)
        whole_s = look(path).seconds
    except BadRecording:
        return path, 0.0
    return Audio(np.ascontiguousarray(samples.T), rate), whole_s


def _drawn(histogram: Histogram, ident: str) -> Markup | None:
    """A histogram of numbers as one ``<svg>``; None for names, or without any value."""
    if not histogram.edges:
        return None
    width, height, left, right, top, bottom = 340, 180, 40, 12, 14, 142
    low, high = histogram.edges[0], histogram.edges[-1]
    most = max(histogram.counts)

    def to_x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    def to_y(count: float) -> float:
        return bottom - count / most * (bottom - top)

    words = (
        f"{histogram.total} clips, from {plain(histogram.low)} to {plain(histogram.high)} "
        f"{histogram.unit}, half of them below {plain(histogram.median)}."
        + (f" {apart(histogram)}, not to scale." if apart(histogram) else "")
    )
    out = [
        f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{ident}-t {ident}-d">',
        f'<title id="{ident}-t">{escape(histogram.name)}</title>',
        f'<desc id="{ident}-d">{escape(words)}</desc>',
    ]
    for count in _whole(figures.ticks(0, most, 3)):
        at = to_y(count)
        out.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{left - 7}" y="{at + 4:.1f}" text-anchor="end">'
            f"{figures.number(count)}</text>"
        )
    last = len(histogram.counts) - 1
    for index, count in enumerate(histogram.counts):
        if not count:
            continue
        x, y = to_x(histogram.edges[index]), to_y(count)
        wide = max(1.0, to_x(histogram.edges[index + 1]) - x - 1.5)
        far = (index == 0 and histogram.under) or (index == last and histogram.over)
        out.append(
            f'<rect class="bar{" far" if far else ""}" x="{x + 0.75:.1f}" y="{y:.1f}" width="{wide:.1f}" '
            f'height="{bottom - y:.1f}" rx="1.5"/>'
        )
    out.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{bottom}" y2="{bottom}"/>')
    inner = histogram.edges[bool(histogram.under)], histogram.edges[-2 if histogram.over else -1]
    for value in figures.ticks(*inner, 4):  # the bars beyond have no scale
        at = to_x(value)
        anchor = "end" if at > width - right - 14 else "middle"
        out.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 17}" text-anchor="{anchor}">'
            f"{figures.number(value)}</text>"
        )
    out.append(
        f'<text class="label" x="{(left + width - right) / 2:.0f}" y="{height - 4}" '
        f'text-anchor="middle">{escape(histogram.unit)}</text></svg>'
    )
    return Markup("\n".join(out))


def _whole(values: Sequence[float]) -> list[float]:
    return [value for value in values if value == int(value)]


def apart(histogram: Histogram) -> str:
    """``1 below -30, 2 from 0 up``: what is not drawn to scale; empty for most."""
    parts = []
    if histogram.under:
        parts.append(f"{histogram.under:,} below {plain(histogram.edges[1])}")
    if histogram.over:
        parts.append(f"{histogram.over:,} from {plain(histogram.edges[-2])} up")
    return ", ".join(parts)


def top_names(histogram: Histogram, most: int = 8) -> list[tuple[str, int, float]]:
    """The commonest names: (label, count, share of the commonest); the rest as one row."""
    rows = list(zip(histogram.labels, histogram.counts, strict=True))
    if len(rows) > most:
        rest = rows[most - 1 :]
        rows = rows[: most - 1]
        rows.append((f"{len(rest)} others", sum(count for _, count in rest)))
    highest = max((count for _, count in rows), default=1)
    return [(label, count, count / highest) for label, count in rows]


def plain(value: float | None) -> str:
    """A short number for reading."""
    if value is None or not isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def seconds(value: float) -> str:
    """A length: ``4.2 s``, ``12:40 min``, ``3 h 5 min``."""
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{round(value) // 60}:{round(value) % 60:02d} min"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def _hertz(value: float) -> str:
    return f"{value / 1000:.3g} kHz" if value >= 1000 else f"{value:.0f} Hz"
