"""Gap closed, for someone who has never heard of KAD: sentences, one line from 0 to 100 %, limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from tunesmith.metrics.gap import CLEAR, Gap
from tunesmith.report.figures import ticks

ALPHA = 0.05
"""P-value above which a difference counts as chance."""

_THIN = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True)
class GapClosed:
    """What the page says of a gap.

    Attributes:
        gap: what was measured.
        embedding: name of what heard the clips.
        names: of the trainings, as in "seed 0".
        cannot: further limits of this measurement, one sentence each.
    """

    gap: Gap
    embedding: str
    names: Sequence[str]
    cannot: Sequence[str] = ()


def percent(value: float) -> str:
    """``62 %``; −0 is 0."""
    return f"{round(100 * value) + 0:.0f}{_THIN}%".replace("-", "\N{MINUS SIGN}")


def direction(gap: Gap, alpha: float = ALPHA) -> int:
    """1 closer, −1 further, 0 where chance or the trainings themselves speak against either."""
    drops = [gap.base - one for one in gap.adapted]
    if not (isfinite(gap.p_value) and all(map(isfinite, drops))) or gap.p_value > alpha:
        return 0
    if all(drop > 0 for drop in drops):
        return 1
    return -1 if all(drop < 0 for drop in drops) else 0


def sentences(gap: Gap, alpha: float = ALPHA) -> tuple[str, ...]:
    """What was found in plain words, the chief thing first."""
    count = len(gap.adapted)
    subject = "The adapter" if count == 1 else f"The adapters of {count} trainings"
    chance = gap.p_value > alpha
    tested = f"p = {gap.p_value:.2g}"
    if gap.median is None:
        moved = {
            1: "The adapted model's clips lie nearer to them than the base's, beyond chance",
            -1: "The adapted model's clips lie further from them than the base's, beyond chance",
        }.get(direction(gap, alpha), "Adapting made no difference beyond chance")
        return (
            "By this measure the base already sounds about as near to the held-out recordings as those "
            "recordings do through its own codec: there is no clear gap, so no share of it is given.",
            f"{moved} ({tested}).",
        )
    spread = _spread(gap)
    if chance:
        return (
            "What it generates cannot be told from what the base generates: the measured "
            f"{percent(gap.median)} of the way to real recordings{spread} "
            f"{'is' if count == 1 else 'are'} within what chance alone would do ({tested}).",
        )
    verdict = direction(gap, alpha)
    if verdict == 0:
        towards = sum(gap.base > one for one in gap.adapted)
        return (
            f"The trainings disagree: {towards} of {count} moved towards real recordings, the others "
            f"away from them{spread}. No improvement is claimed.",
        )
    if verdict < 0:
        return (
            f"{subject} went away from real recordings, not towards them: {percent(gap.median)} of the "
            f"way{spread}. That is more than chance alone would do ({tested}).",
        )
    first = (
        f"{subject} went {percent(gap.median)} of the way from the base to what real recordings sound "
        f"like through this base's codec{spread}."
    )
    second = f"Chance alone would hardly do that ({tested})."
    if gap.median > 1:
        second += (
            " Above 100 % means nearer than real clips are: by chance, by sounding more alike than "
            "they do, or by something that the measure does not hear."
        )
    return first, second


def _spread(gap: Gap) -> str:
    known = sorted(share for share in gap.closed if share is not None)
    if len(known) < 2:
        return ""
    return f" (middle of {', '.join(percent(share) for share in known)})"


def explanations(shown: GapClosed) -> tuple[str, ...]:
    """How it was measured, one sentence or two each."""
    gap = shown.gap
    several = len(gap.adapted) > 1
    dots = (
        "Each dot is one training from a random start of its own; "
        if several
        else "The dot is this training; "
    )
    return (
        f"A listening program, {shown.embedding}, heard {gap.n_reference} real recordings that were kept "
        f"aside, {gap.n_takes} clips from the base, and {gap.n_takes} clips of the same prompts "
        f"and seeds from {'each adapter' if several else 'the adapter'}. How far two such crowds of clips "
        "are apart is a number, the kernel audio distance (KAD).",
        "0 % is the base as it was. 100 % is the real recordings after this base's codec has packed and "
        "unpacked them: whatever the base plays goes through that codec, so no adapter of it could be "
        "expected to do better.",
        dots
        + f"the bar through it is {CLEAR:.0f} standard errors to either side: how far other clips "
        "might have moved it.",
    )


def limits(shown: GapClosed) -> tuple[str, ...]:
    """What the figure cannot say."""
    return (
        "Whether you will like it. It compares crowds of clips, and no single clip. Listen below.",
        "Anything that the listening program does not hear: it describes one second at a time, so form, "
        "melody and harmony over longer stretches hardly count.",
        "Whether something was copied: a model that plays its training clips back would do well here.",
        "How it does on other kinds of prompts than those it was measured with.",
        *shown.cannot,
    )


def rows(shown: GapClosed) -> list[tuple[str, float, float | None, float | None]]:
    """Table of (what, KAD, share closed, its standard error)."""
    gap = shown.gap
    edge = (0.0, 1.0) if gap.median is not None else (None, None)
    return [
        ("base", gap.base, edge[0], None),
        *zip(shown.names, gap.adapted, gap.closed, gap.errors, strict=True),
        ("real recordings through the codec", gap.ceiling, edge[1], None),
    ]


def svg(shown: GapClosed, ident: str, width: int) -> str:
    """The line from the base to real recordings with a dot per training, as ``<svg>``.

    Args:
        shown: what to draw; there must be a clear gap.
        ident: prefix of its ids, unique in the page.
        width: in CSS pixels at its natural size.
    """
    known = [
        (name, 100 * share, 100 * CLEAR * error)
        for name, share, error in zip(shown.names, shown.gap.closed, shown.gap.errors, strict=True)
        if share is not None and error is not None
    ]
    middle = 100 * (shown.gap.median or 0.0)
    low = min(0.0, *(share for _, share, _ in known)) - 4
    high = max(100.0, *(share for _, share, _ in known)) + 4
    left, right, row = 16, width - 16, 22
    top = 44
    bottom = top + row * len(known) + 6

    def at(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    told = ", ".join(f"{name} {share:.0f} %" for name, share, _ in known)
    out = [
        f'<svg class="curve gap" viewBox="0 0 {width} {bottom + 48}" role="img" '
        f'aria-labelledby="{ident}-t {ident}-d">',
        f'<title id="{ident}-t">Share of the way from the base to real recordings</title>',
        f'<desc id="{ident}-d">Median {middle:.0f} %: {told}.</desc>',
    ]
    for value in ticks(low, high, width // 90):
        x = at(value)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        out.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{value:.0f} %</text>"
        )
    out.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    real = "real recordings through its codec" if width > 500 else "real recordings"
    for value, words, anchor in ((0, "the base", "start"), (100, real, "end")):
        x = at(value)
        out.append(
            f'<line class="end" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{bottom}"/>'
            f'<text class="label" x="{x:.1f}" y="{bottom + 40}" text-anchor="{anchor}">{words}</text>'
        )
    x = at(middle)
    word = "median" if len(known) > 1 else "adapted"
    anchor = "end" if x > width * 0.75 else "start" if x < width * 0.25 else "middle"
    out.append(
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="26" y2="{bottom}"/>'
        f'<text class="marked" x="{x:.1f}" y="18" text-anchor="{anchor}">{word} {middle:.0f} %</text>'
    )
    for index, (_, share, error) in enumerate(known):
        y = top + row * index + row / 2
        out.append(
            f'<line class="bar" x1="{at(share - error):.1f}" x2="{at(share + error):.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle class="spot" cx="{at(share):.1f}" cy="{y:.1f}" r="6"/>'
        )
    out.append("</svg>")
    return "\n".join(out)
