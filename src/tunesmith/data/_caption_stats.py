"""The captions of a set: how specific and how different they are, and which to mend first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.data._caption_terms import ASPECTS
from tunesmith.data._caption_words import (
    Told,
    contradictions,
    has_word,
    to_add,
    told,
)
from tunesmith.data._clip_measures import Measured
from tunesmith.data.lyrics import are_sung
from tunesmith.types import Clip

LOW_CONFIDENCE = 0.5
WEAK = 0.4
"""Specificity below which a caption is called weak: about two telling words, or three plain ones."""

_ENOUGH = 3.0
_SHOWN = 300  # characters of a caption that are kept for showing
_ENGLISH = 0.2
_GUESSED_TRIGGER = 0.9


@dataclass(frozen=True, slots=True)
class Captioned:
    """One caption that something is to be said about.

    Attributes:
        file: its clip; the first of those that share it.
        caption: the text, shortened.
        specificity: 0 (says nothing) to 1.
        add: what it lacks; empty if nothing, or where that cannot be told.
        contradictions: what was measured otherwise.
        source: where it came from.
        confidence: of that source, 0 to 1.
        clips: how many clips have this caption.
    """

    file: str
    caption: str
    specificity: float
    add: str
    contradictions: tuple[str, ...]
    source: str
    confidence: float
    clips: int


@dataclass(frozen=True, slots=True)
class CaptionStats:
    """All captions of a set.

    Attributes:
        clips: how many there are.
        distinct: different captions, the trigger left out, upper and lower case alike.
        same_share: share of the clips whose caption a clip of *another* recording has too.
        words: different informative words.
        mean_words: informative words of a caption, mean.
        specificity: mean of all captions.
        weak_share: share of the clips with a caption below 0.4.
        aspects: share of the clips whose captions tell genre, instrument ...
        sources: clips by where their caption came from.
        trigger: the trigger word; empty if there is none.
        trigger_guessed: it is not in the data set's settings, but in nearly every caption.
        trigger_share: share of the clips whose caption holds it.
        english: whether the captions can be judged by English word lists.
        worst: the least specific, each caption once, worst first.
        contradicting: those that contradict what was measured.
        low_confidence: those whose source was unsure, least sure first.
    """

    clips: int
    distinct: int
    same_share: float
    words: int
    mean_words: float
    specificity: float
    weak_share: float
    aspects: Mapping[str, float]
    sources: Mapping[str, int]
    trigger: str
    trigger_guessed: bool
    trigger_share: float
    english: bool
    worst: tuple[Captioned, ...]
    contradicting: tuple[Captioned, ...]
    low_confidence: tuple[Captioned, ...]


def caption_stats(
    clips: Sequence[Clip],
    measured: Sequence[Measured],
    trigger: str = "",
    *,
    music: bool = True,
    most: int = 20,
) -> CaptionStats:
    """The figures, and the captions to mend first.

    Args:
        clips: of one data set, at least one, without variants.
        measured: of each, in the same order.
        trigger: the data set's trigger word, if it has one.
        music: whether captions should name instruments, genre, mood, tempo and key; those of a
            voice need not.
        most: captions listed of each kind.
    """
    n = len(clips)
    guessed = False
    if not trigger:
        trigger = _guess([clip.caption for clip in clips])
        guessed = bool(trigger)
    # Clips of one recording share a caption: a text is read once.
    read = {text: told(text, trigger) for text in {clip.caption for clip in clips}}
    keys = [_plain(clip.caption, trigger) for clip in clips]
    spread: dict[str, set[str]] = {}
    for key, clip in zip(keys, clips, strict=True):
        spread.setdefault(key, set()).add(clip.recording)
    counts = Counter(keys)
    weights = _weights([read[clip.caption] for clip in clips])
    scores = {text: specificity(one, weights) for text, one in read.items()}
    english = _is_english(list(read.values()))
    rows = [
        Captioned(
            file=one.file,
            caption=_shortened(clip.caption),
            specificity=round(scores[clip.caption], 3),
            add=to_add(read[clip.caption], one) if english and music else "",
            contradictions=contradictions(
                clip.caption, one, are_sung(str(clip.extra.get("lyrics", "")))
            ),
            source=clip.caption_source,
            confidence=confidence(clip),
            clips=counts[key],
        )
        for clip, one, key in zip(clips, measured, keys, strict=True)
    ]
    once: dict[str, Captioned] = {}
    for key, row in zip(keys, rows, strict=True):
        once.setdefault(key, row)
    weak = sorted((r for r in once.values() if r.specificity < WEAK), key=lambda r: r.specificity)
    unsure = sorted((r for r in rows if r.confidence < LOW_CONFIDENCE), key=lambda r: r.confidence)
    content = [read[clip.caption].content for clip in clips]
    return CaptionStats(
        clips=n,
        distinct=len(counts),
        same_share=round(sum(len(spread[key]) > 1 for key in keys) / n, 4),
        words=len(frozenset().union(*content)),
        mean_words=round(sum(map(len, content)) / n, 2),
        specificity=round(sum(scores[clip.caption] for clip in clips) / n, 3),
        weak_share=round(sum(scores[clip.caption] < WEAK for clip in clips) / n, 4),
        aspects={
            aspect: round(sum(aspect in read[clip.caption].aspects for clip in clips) / n, 4)
            for aspect in ASPECTS
        },
        sources=dict(Counter(clip.caption_source for clip in clips).most_common()),
        trigger=trigger,
        trigger_guessed=guessed,
        trigger_share=round(sum(has_word(clip.caption, trigger) for clip in clips) / n, 4)
        if trigger
        else 0.0,
        english=english,
        worst=tuple(weak[:most]),
        contradicting=tuple(row for row in rows if row.contradictions)[:most],
        low_confidence=tuple(unsure[:most]),
    )


def specificity(said: Told, weights: Mapping[str, float]) -> float:
    """1 − exp(−Σ w / 3) over a caption's informative words: none gives 0, six good ones 0.86.

    A word weighs 1 if it tells tempo, key, instrument, voice, genre, mood or production, else ½;
    times ½ to 1 by how rare it is in the set (:func:`_weights`): what every caption says tells none
    of the clips from another.
    """
    total = sum(
        weights.get(word, 1.0) * (1.0 if word in said.terms else 0.5) for word in said.content
    )
    return 1.0 - math.exp(-total / _ENOUGH)


def _weights(captions: Sequence[Told]) -> dict[str, float]:
    """½ + ½·idf, idf = log(N / df) / log N: ½ for a word in every caption, 1 for one in a single."""
    n = len(captions)
    found = Counter(word for one in captions for word in one.content)
    if n < 2:
        return {}
    return {word: 0.5 + 0.5 * math.log(n / count) / math.log(n) for word, count in found.items()}


def confidence(clip: Clip) -> float:
    """How sure the caption's source was, 0 to 1; 1 where nothing is said."""
    value = getattr(clip, "caption_confidence", clip.extra.get("caption_confidence", 1.0))
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 1.0
    return number if math.isfinite(number) else 1.0


def _guess(captions: Sequence[str]) -> str:
    """A word before the first comma of nearly every caption that no list knows."""
    firsts = Counter(
        head.strip() for head, comma, _ in (c.partition(",") for c in captions) if comma
    )
    if len(captions) < 3 or not firsts:
        return ""
    word, count = firsts.most_common(1)[0]
    plain = len(word.split()) == 1 and not told(word).terms and bool(told(word).content)
    return word if plain and count >= _GUESSED_TRIGGER * len(captions) else ""


def _plain(caption: str, trigger: str) -> str:
    text = caption
    if trigger and text.startswith(trigger):
        text = text.removeprefix(trigger).lstrip(" ,")
    return " ".join(text.casefold().split())


def _is_english(captions: Sequence[Told]) -> bool:
    words = sum(one.words for one in captions)
    return not words or sum(one.english for one in captions) >= _ENGLISH * words


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1].rstrip() + "…"
