"""Scales, chords in Roman numerals, voicings. Pitches are MIDI note numbers (60 = middle C)."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "blues": (0, 3, 5, 6, 7, 10),
    "pentatonic": (0, 2, 4, 7, 9),
}
KEY_NAMES = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
_DEGREES = {"I": 0, "II": 2, "III": 4, "IV": 5, "V": 7, "VI": 9, "VII": 11}
_QUALITIES: dict[str, tuple[int, ...]] = {
    "": (0, 4, 7),
    "min": (0, 3, 7),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10),
    "9": (0, 4, 10, 14),
    "min9": (0, 3, 10, 14),
    "6": (0, 4, 7, 9),
    "min6": (0, 3, 7, 9),
    "o": (0, 3, 6),
    "h7": (0, 3, 6, 10),
    "sus": (0, 5, 7),
    "add9": (0, 4, 7, 14),
    "minadd9": (0, 3, 7, 14),
    "5": (0, 7, 12),
}
_ROMAN = re.compile(r"^(b?)([ivIV]+)(.*)$")


@dataclass(frozen=True)
class Chord:
    """A chord: its root as a pitch class [0, 11] and its tones as semitones above the root."""

    root: int
    tones: tuple[int, ...]

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """Pitch classes [0, 11] in the order root, third, fifth, rest."""
        return tuple((self.root + t) % 12 for t in self.tones)


def parse_chord(symbol: str, tonic: int) -> Chord:
    """Read a Roman numeral such as ``ii7``, ``bVI`` or ``Vsus`` in the key of pitch class ``tonic``."""
    match = _ROMAN.match(symbol)
    if match is None:
        raise ValueError(f"not a chord symbol: {symbol!r}")
    flat, numeral, quality = match.groups()
    if numeral.islower() and quality not in ("o", "h7"):
        quality = "min" + quality
    root = (tonic + _DEGREES[numeral.upper()] - len(flat)) % 12
    return Chord(root, _QUALITIES[quality])


def parse_progression(text: str, tonic: int) -> list[list[Chord]]:
    """Read ``"I vi | ii7 V7"``: bars between bars lines, the chords of a bar share it evenly."""
    return [[parse_chord(s, tonic) for s in bar.split()] for bar in text.split("|")]


def voicing(chord: Chord, center: int) -> list[int]:
    """Close voicing: each pitch class in the octave nearest to ``center``, so voices move little."""
    return sorted({center + (pc - center + 6) % 12 - 6 for pc in chord.pitch_classes})


def nearest(pitch: float, classes: tuple[int, ...]) -> int:
    """The pitch nearest to ``pitch`` whose class is among ``classes``."""
    base = round(pitch)
    around = (p for p in range(base - 7, base + 8) if p % 12 in classes)
    return min(around, key=lambda p: (abs(p - pitch), p))


def scale_ladder(tonic: int, mode: str, low: int, high: int) -> list[int]:
    """All pitches of the scale from ``low`` to ``high``, ascending."""
    classes = {(tonic + s) % 12 for s in SCALES[mode]}
    return [p for p in range(low, high + 1) if p % 12 in classes]
