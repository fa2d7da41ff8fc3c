"""One caption: its words, what it tells, what it claims, and where it contradicts what was heard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tunesmith.data._caption_terms import ASPECTS, GENERIC, STOP
from tunesmith.data._clip_measures import Measured

SURE = 0.5
"""Confidence from which on a measured tempo or key is held against a caption, or offered to it."""

_WORD = re.compile(r"r&b|\d+/\d+|[^\W_]+(?:[-'’#♯♭][^\W_]+)*[#♯♭]?")
_BPM = re.compile(
    r"(?<![\w.])(\d{2,3}(?:\.\d+)?)\s*-?\s*(?:bpm|beats per minute)(?!\w)", re.IGNORECASE
)
_KEY = re.compile(
    # No small a: "a minor label" is in no key.
    r"(?<!\w)([A-Gb-g])(?:\s*([#♯♭b])|[\s-]+(sharp|flat))?[\s-]+(major|minor|maj|min)(?!\w)"
)
_TONICS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_SHARPS = {"#": 1, "♯": 1, "sharp": 1, "♭": -1, "b": -1, "flat": -1}

_TEMPO_RATIOS = (1, 2, 1 / 2, 3, 1 / 3)
"""A listener may count twice, three times, half ... as fast; that is no contradiction."""

_TEMPO_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Told:
    """What a caption tells.

    Attributes:
        content: its informative words, each once: neither generic nor mere grammar.
        terms: those of them that stand in the lists, and of which aspect.
        aspects: ``genre``, ``instrument`` ... that it says something about.
        english: words of it that the lists know, grammar included.
        words: all of its words.
    """

    content: frozenset[str]
    terms: Mapping[str, str]
    aspects: frozenset[str]
    english: int
    words: int


def told(caption: str, trigger: str = "") -> Told:
    """What a caption tells; the trigger word tells nothing."""
    text = _without(caption, trigger)
    any_key = _KEY.search(text) is not None
    text = text.lower()
    terms = dict(_found(text))
    if not any_key:
        terms = {term: aspect for term, aspect in terms.items() if term not in ("major", "minor")}
    if _BPM.search(text):
        terms["bpm"] = "tempo"
    covered = {part for term in terms for part in term.split()}
    words = [word for word in _WORD.findall(text) if not word.isdigit()]
    content = set(terms)
    english = 0
    for word in words:
        base = _singular(word)
        if {word, base} & (STOP | GENERIC | covered):
            english += 1
        elif len(word) > 1:
            content.add(word)
    return Told(frozenset(content), terms, frozenset(terms.values()), english, len(words))


def has_word(caption: str, word: str) -> bool:
    """Whether a caption holds a word (a trigger), as a whole."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption) is not None


def _without(caption: str, trigger: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", " ", caption) if trigger else caption


@cache
def _term_words() -> dict[str, str]:
    return {term: aspect for aspect, terms in ASPECTS.items() for term in terms}


def _found(text: str) -> list[tuple[str, str]]:
    """Terms in a text, the longest first wherever several begin; ``(term, aspect)``."""
    known = _term_words()
    words = [word for word in _WORD.findall(text) if not word.isdigit()]
    found, at = [], 0
    while at < len(words):
        for size in (3, 2, 1):
            part = words[at : at + size]
            joined = " ".join(part)
            # "electric-guitar" and "guitars" are found as "electric guitar" and "guitar".
            forms = (joined, _singular(joined), joined.replace("-", " "))
            term = next((form for form in forms if form in known), None)
            if len(part) == size and term is not None:
                found.append((term, known[term]))
                at += size
                break
        else:
            parts = words[at].split("-")
            found += [
                (_singular(part), known[_singular(part)])
                for part in (parts if len(parts) > 1 else ())
                if _singular(part) in known
            ]
            at += 1
    return found


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def tempo_claimed(caption: str) -> float | None:
    """Beats a minute that a caption gives; None where it gives none, or several."""
    values = {float(value) for value in _BPM.findall(caption)}
    return values.pop() if len(values) == 1 else None


def key_claimed(caption: str) -> str | None:
    """The key that a caption gives, as it gives it (``B flat minor``); None for none or several."""
    matches = list(_KEY.finditer(caption))
    return matches[0].group(0) if len({_key(m.group(0)) for m in matches}) == 1 else None


def _key(text: str) -> tuple[int, bool] | None:
    """(semitones above C, minor) of ``F# minor``."""
    match = _KEY.search(text)
    if match is None:
        return None
    tonic, sign, word, mode = match.groups()
    tone = _TONICS[tonic.lower()] + _SHARPS.get((sign or word or "").lower(), 0)
    return tone % 12, mode.startswith("min")


def contradictions(caption: str, measured: Measured, lyrics: bool) -> tuple[str, ...]:
    """What a caption says against what was measured; one clause each.

    Tempi in simple ratios (2, 3 and their inverses) agree, and so do a major key and its
    relative minor, which hold the same notes.
    """
    found = []
    bpm, heard = tempo_claimed(caption), measured.tempo_bpm
    if bpm and heard and measured.tempo_confidence >= SURE:
        off = min(abs(bpm / (heard * ratio) - 1) for ratio in _TEMPO_RATIOS)
        if off > _TEMPO_TOLERANCE:
            found.append(f"says {bpm:g} bpm, measured {heard:.0f}")
    said = key_claimed(caption)
    if said and measured.key and measured.key_confidence >= SURE:
        one, other = _key(said), _key(measured.key)
        if one and other and _notes(one) != _notes(other):
            found.append(f"says {said}, measured {measured.key}")
    if lyrics and has_word(caption.lower(), "instrumental"):
        found.append("says instrumental, but has lyrics")
    return tuple(found)


def _notes(key: tuple[int, bool]) -> int:
    tone, minor = key
    return (tone + 3) % 12 if minor else tone


def to_add(said: Told, measured: Measured) -> str:
    """What a caption lacks: ``instrument or voice, mood, tempo (measured 92 bpm)``; empty if nothing.

    Tempo and key are missed only where they were measured with some certainty.
    """
    sounding = {"instrument", "voice"} & said.aspects
    spoken = {"speech", "narration", "audiobook", "podcast"} & said.terms.keys()
    lacks = [] if sounding or spoken else ["instrument or voice"]
    lacks += [aspect for aspect in ("genre", "mood") if aspect not in said.aspects]
    bpm = measured.tempo_bpm if measured.tempo_confidence >= SURE else None
    key = measured.key if measured.key_confidence >= SURE else None
    if bpm and "tempo" not in said.aspects:
        lacks.append(f"tempo (measured {bpm:.0f} bpm)")
    if key and "key" not in said.aspects:
        lacks.append(f"key (measured {key})")
    return ", ".join(lacks)
