"""Copies of training clips for the page: each suspicious take beside the clip that it is like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.evaluation.findings import Match, Memorisation
from tunesmith.report.contents import Report, Track
from tunesmith.report.verdict import copying, plain, plain_percent

_FLAGGED, _NEAREST = 8, 3
"""Pairs to be heard: of those that are flagged, and where none is."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A take, the clip that it is nearest to, and how near that is in words."""

    prompt: str
    seed: int | None
    flagged: bool
    says: tuple[str, ...]
    tracks: tuple[Track, Track]


@dataclass(frozen=True, slots=True)
class Copied:
    """What the page says of one subject.

    Attributes:
        name: of the subject; empty where the page is about one alone.
        found: its numbers.
        sentences: the same in words.
        pairs: to be heard.
        more: flagged pairs that are not among them.
    """

    name: str
    found: Memorisation
    sentences: tuple[str, ...]
    pairs: tuple[Pair, ...]
    more: int


def copies(report: Report) -> list[Copied]:
    """Of every subject that was looked at, those with copies first."""
    names = {one.key: one.name for one in report.comparison.columns} if report.comparison else {}
    found = sorted(report.memorisation.items(), key=lambda item: not item[1].flagged)
    return [_copied(names.get(key, ""), one) for key, one in found]


def _copied(name: str, found: Memorisation) -> Copied:
    flagged = [match for match in found.matches if match.flagged]
    # Where nothing is copied, the nearest are there to be heard, so that nobody has to believe it.
    shown = flagged[:_FLAGGED] or list(found.matches[:_NEAREST])
    more = max(0, found.copies - len(shown)) if flagged else 0
    return Copied(name, found, copying(found), tuple(map(_pair, shown)), more)


def _pair(match: Match) -> Pair:
    return Pair(
        prompt=match.prompt,
        seed=match.seed,
        flagged=match.flagged,
        says=tuple(_says(match)),
        tracks=(
            Track(f"Take {Path(match.take).name}", Path(match.take)),
            Track(f"Training clip {Path(match.clip).name}", Path(match.clip)),
        ),
    )


def _says(match: Match) -> Sequence[str]:
    near = match.distance < match.usual
    says = [
        f"Distance {plain(match.distance)}, where unheard recordings "
        f"{'keep' if near else 'may come as near as'} {plain(match.usual)}{' or more' if near else ''}."
    ]
    if match.shared is not None:
        usual = match.usual_shared
        says.append(
            f"{plain_percent(match.shared)} of their codec tokens are the same"
            + (f"; up to {plain_percent(usual)} is usual." if usual is not None else ".")
        )
    return says
