"""What a set sings: how many clips have lyrics, and in which languages."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.data.tables import one_line
from tunesmith.types import Clip

RARE, COMMON = 0.1, 0.9
"""Shares of the clips below and above which one of several languages is out of balance."""

_NAME = 40  # characters of a language that are kept


@dataclass(frozen=True, slots=True)
class Language:
    """One language of a set.

    Attributes:
        name: as the data set writes it, in lower case.
        clips: that are said to be in it.
        minutes: their length.
        clip_share, minute_share: of the clips with a language, 0 to 1.
    """

    name: str
    clips: int
    minutes: float
    clip_share: float
    minute_share: float


@dataclass(frozen=True, slots=True)
class Songs:
    """Lyrics and languages of a set in which some clip has either.

    Attributes:
        clips: how many there are.
        with_lyrics: how many have lyrics.
        with_language: how many name a language.
        without_language: how many have lyrics and name none.
        languages: those named, the most frequent first.
    """

    clips: int
    with_lyrics: int
    with_language: int
    without_language: int
    languages: tuple[Language, ...]

    @property
    def unbalanced(self) -> tuple[Language, ...]:
        """Of several languages those with less than a tenth or more than nine tenths of the clips."""
        if len(self.languages) < 2:
            return ()
        return tuple(one for one in self.languages if not RARE <= one.clip_share <= COMMON)


def songs(clips: Sequence[Clip]) -> Songs | None:
    """Counts lyrics and languages; None where no clip has any.

    Args:
        clips: of one data set, without variants.
    """
    lyrics = [bool(str(clip.extra.get("lyrics") or "").strip()) for clip in clips]
    named = [one_line(str(clip.extra.get("language") or ""))[:_NAME].casefold() for clip in clips]
    if not any(lyrics) and not any(named):
        return None
    count: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    for clip, name in zip(clips, named, strict=True):
        if name:
            count[name] += 1
            seconds[name] += clip.duration_s
    all_s = sum(seconds.values())
    languages = tuple(
        Language(
            name,
            number,
            round(seconds[name] / 60, 3),
            round(number / count.total(), 4),
            round(seconds[name] / all_s, 4) if all_s else 0.0,
        )
        for name, number in sorted(count.items(), key=lambda one: (-one[1], one[0]))
    )
    return Songs(
        clips=len(clips),
        with_lyrics=sum(lyrics),
        with_language=count.total(),
        without_language=sum(a and not b for a, b in zip(lyrics, named, strict=True)),
        languages=languages,
    )


__all__ = ["COMMON", "RARE", "Language", "Songs", "songs"]
