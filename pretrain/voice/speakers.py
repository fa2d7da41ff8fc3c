"""Who speaks: fixed lists of voices, each a rule-based timbre moved to a place of its own.

A voice is a variant of espeak-ng (formants, glottal source), a pitch, a pace and a warp: the sound is
played faster or slower, which moves formants and pitch together as the length of a vocal tract does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# Accents of English, with how many voices in a cycle have them.
ENGLISH = (
    ("en-us", 4),
    ("en-gb", 3),
    ("en-gb-x-rp", 2),
    ("en-gb-x-gbclan", 1),
    ("en-gb-x-gbcwmd", 1),
    ("en-029", 1),
    ("en-us-nyc", 1),
)
OTHERS = ("de", "es", "fr-fr", "it")
HELD_ACCENT = "en-gb-scotland"
LOW = (
    "m1", "m3", "m4", "m6", "m7", "m8", "Gene", "Michael", "robert", "Mario", "paul", "max",
    "antonio", "klatt2", "edward",
)  # fmt: skip
HIGH = ("f1", "f2", "f3", "f5", "Annie", "linda", "steph", "belinda", "shelby")
PER_VARIANT = 5
# Further variants, which only the crowd has.
STRANGERS = (
    "Andy", "Lee", "quincy", "sandro", "gustave", "victor", "travis", "adam", "klatt4", "Denis", "Diogo",
    "aunty", "anika", "Andrea", "Nguyen", "iven",
)  # fmt: skip
CROWD = 480
SPLITS = ("train", "valid", "heldvoice", "heldaccent", "judge", "accent", "crowd")


@dataclass(frozen=True)
class Speaker:
    """A voice that speaks one language or accent.

    Attributes:
        id: of the voice; a voice that speaks two languages has one id.
        language: espeak-ng's name of language or accent.
        variant: espeak-ng's voice variant.
        pitch: espeak-ng's 0 to 99.
        speed: words a minute as heard, after the warp.
        warp: factor on all frequencies.
    """

    id: str
    language: str
    variant: str
    pitch: int
    speed: int
    warp: float


def voices() -> list[Speaker]:
    """Every voice of the training corpus, with its accent of English."""
    draw = np.random.default_rng(20)
    cycle = [accent for accent, share in ENGLISH for _ in range(share)]
    made = []
    for variant in LOW + HIGH:
        # Low voices are moved up more than down and high ones down more than up: the middle fills.
        bottom, top = (0.92, 1.18) if variant in LOW else (0.86, 1.08)
        warps = np.linspace(bottom, top, PER_VARIANT) + draw.uniform(-0.02, 0.02, PER_VARIANT)
        # The order makes neighbours in warp far in pitch: no two voices of a variant are alike.
        pitches = np.array([34, 58, 26, 68, 44]) + draw.integers(-4, 5, PER_VARIANT)
        for warp, pitch in zip(warps, pitches, strict=True):
            made.append(
                Speaker(
                    id=f"v{len(made):03d}",
                    language=cycle[int(draw.integers(len(cycle)))],
                    variant=variant,
                    pitch=int(pitch),
                    speed=int(draw.integers(145, 186)),
                    warp=round(float(warp), 3),
                )
            )
    return made


def crowd() -> list[Speaker]:
    """Voices that only the networks which tell voices apart learn from, each in two languages."""
    draw = np.random.default_rng(21)
    accents = [accent for accent, share in ENGLISH for _ in range(share)] + list(OTHERS)
    variants = LOW + HIGH + STRANGERS
    made = []
    for index in range(CROWD):
        one = Speaker(
            id=f"c{index:03d}",
            language=accents[int(draw.integers(len(accents)))],
            variant=variants[index % len(variants)],
            pitch=int(draw.integers(15, 86)),
            speed=int(draw.integers(140, 191)),
            warp=round(float(draw.uniform(0.85, 1.2)), 3),
        )
        made += [one, replace(one, language=accents[int(draw.integers(len(accents)))])]
    return made


def speakers(split: str) -> list[Speaker]:
    """All speakers that a split draws from, each as often as it is to be heard.

    Two voices in three also speak another language, half of the time: about two thirds of the speech
    is English.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split '{split}'")
    english = voices()
    if split == "heldvoice":
        # A timbre, a pitch and a warp between those of the corpus, and equal to none.
        return [Speaker("held", "en-us", "pedro", 62, 162, 1.06)]
    known = next(one for one in english if one.variant == "m3" and one.warp > 0.97)
    if split == "heldaccent":
        return [replace(known, language=HELD_ACCENT)]
    if split == "accent":
        # What hears phones has to know the accent's, or it could not tell whether they were learnt.
        return [replace(one, language=HELD_ACCENT) for one in english if one.id != known.id]
    if split == "crowd":
        return crowd()
    made = []
    for index, one in enumerate(english):
        also = one
        if index % 3:
            also = replace(one, language=OTHERS[(index // 3) % len(OTHERS)])
        made += [one, also]
    return made
