"""Labels into words: captions of varied length and specificity."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pretrain.compose.phrases import MOOD_WORDS

CAPTIONS_PER_CLIP = 4

_SHORT = (
    "{style}, {lead}",
    "{lead}, {style}",
    "{style} {lead}",
    "{style} with {lead}",
    "{lead} playing {style}",
    "{mood} {style}, {lead}",
    "{tempo} {style}, {lead}",
)
_MEDIUM = (
    "{a_mood} {style} piece led by {lead}",
    "{a_mood} {style} tune with {lead}",
    "{lead} plays {a_mood} {style} melody",
    "{tempo} {style} with {lead}, {mood}",
    "{style}, {lead}, {mood}, {density}",
    "{a_tempo} {style} track featuring {lead}",
    "{mood} {style} with {lead}, {texture}",
    "{lead}, {style}, {bpm} bpm",
    "{style}, {lead}, {key}",
    "instrumental {style}, {lead} melody, {texture}",
)
_LONG = (
    "{a_mood} {style} led by {lead}, {texture}, at {bpm} bpm in {key}",
    "{a_tempo}, {mood} {style} piece in {key}: {density} {lead} melody, {texture}",
    "{style} at {bpm} bpm with {a_mood} {lead} line, {texture}",
    "{a_mood} {style} tune in {key} with {lead}, {texture}, {tempo}",
    "{lead} takes the lead in {a_tempo} {style} track, {mood} and {density}, {bpm} bpm",
)
_TEXTURES = {
    "solo": ("solo", "unaccompanied", "played alone"),
    "duo": ("duo", "sparse accompaniment", "with simple accompaniment"),
    "band": ("full band", "with a full band"),
    "drums": ("full band with drums", "with bass and drums", "backed by bass and drums"),
}
_DENSITIES = {
    "sparse": ("sparse", "simple"),
    "medium": ("flowing", "singing"),
    "busy": ("busy", "fast-moving"),
}


@dataclass(frozen=True)
class Labels:
    """What is true of a clip. Tempo in beats per minute; key such as ``A minor``."""

    style: str
    instrument: str
    tempo_bpm: int
    key: str
    mood: str
    density: str
    texture: str


def tempo_word(tempo_bpm: float) -> str:
    """``slow`` below 90 beats per minute, ``fast`` from 132, between them ``mid-tempo``."""
    return "slow" if tempo_bpm < 90 else "fast" if tempo_bpm >= 132 else "mid-tempo"


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def captions(
    labels: Labels,
    style_words: tuple[str, ...],
    lead_words: tuple[str, ...],
    drums: bool,
    rng: random.Random,
) -> tuple[str, ...]:
    """``CAPTIONS_PER_CLIP`` captions that are all true of the clip: at least one short, one medium, one long."""
    banks = (_SHORT, _SHORT, _MEDIUM, _LONG)
    made = []
    for bank in banks:
        mood, tempo = rng.choice(MOOD_WORDS[labels.mood]), tempo_word(labels.tempo_bpm)
        made.append(
            rng.choice(bank).format(
                style=rng.choice(style_words),
                lead=rng.choice(lead_words),
                mood=mood,
                a_mood=_with_article(mood),
                tempo=tempo,
                a_tempo=_with_article(tempo),
                bpm=labels.tempo_bpm,
                key=labels.key,
                density=rng.choice(_DENSITIES[labels.density]),
                texture=rng.choice(_TEXTURES["drums" if drums else labels.texture]),
            )
        )
    return tuple(made)
