"""What is said: short sentences of words drawn from lists, set in frames of function words.

The frames give each language its weak words and the pauses of its commas, the lists every sound in
many surroundings. Sense they have none; a synthesiser learns letters to sounds from them all the same.
Everything is lower case; a sentence ends in a stop, at times in a question mark.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import numpy as np

WORDS = Path(__file__).with_name("words")
# "*" stands for a word of the list. Frames are joined by JOINS where a sentence is to be longer.
FRAMES: dict[str, tuple[str, ...]] = {
    "en": (
        "the * is *", "this * was not *", "we saw the * and the *", "i think that * will *",
        "there are many * in the *", "do you want a * or a *", "she has * with her *",
        "they could * before the *", "he said it was *", "you should * your * now",
        "one * of the * came from *", "when will the * be *", "my * does not *", "* and *",
        "it is a * of *", "what would * do without *", "let us * the *", "at the * we were *",
        "all these * have been *", "our * went into the *", "* * *", "please * that * for me",
        "if it can *, then *", "nobody should * an old *", "* through * * *",
    ),
    "de": (
        "der * ist *", "die * war nicht *", "das ist ein *", "wir haben den * und die *",
        "ich will * sein", "es gibt * in der *", "möchten sie * oder *", "er hat mit *",
        "sie können * vor dem *", "du sollst * jetzt", "wann wird das * noch *", "mein * kann nicht *",
        "* und *", "was macht * ohne *", "auf dem * sind *", "alle * wurden *", "* * *",
        "wenn es *, dann *", "niemand soll eine alte *", "bitte * für mich",
    ),
    "es": (
        "el * es *", "la * no era *", "este es un *", "hemos visto el * y la *", "creo que * será *",
        "hay muchos * en la *", "quieres * o *", "ella tiene * con su *", "podían * antes del *",
        "dijo que era *", "cuándo estará el *", "mi * no puede *", "* y *", "qué hace * sin *",
        "en la * estábamos *", "todos los * han sido *", "* * *", "si puede ser *, entonces *",
        "por favor, * para mí", "nuestra * fue hacia el *",
    ),
    "fr": (
        "le * est *", "la * était *", "voilà un *", "nous avons vu le * et la *", "je crois que * sera *",
        "il y a beaucoup de * dans la *", "voulez vous * ou *", "elle a * avec son *",
        "ils pouvaient * avant le *", "quand sera le *", "mon * ne peut pas *", "* et *",
        "que fait * sans *", "dans la * nous étions *", "tous les * ont été *", "* * *",
        "si on peut *, alors *", "pour moi, c'est *", "notre * va vers le *", "il faut * les *",
    ),
    "it": (
        "il * è *", "la * non era *", "questo è un *", "abbiamo visto il * e la *", "credo che * sarà *",
        "ci sono molti * nella *", "vuoi * o *", "lei ha * con la sua *", "potevano * prima del *",
        "disse che era *", "quando sarà il *", "il mio * non può *", "* e *", "che cosa fa * senza *",
        "nella * eravamo *", "tutti i * sono stati *", "* * *", "se può essere *, allora *",
        "per favore, * per me", "la nostra * va verso il *",
    ),
}  # fmt: skip
JOINS: dict[str, tuple[str, ...]] = {
    "en": (", and ", ", but ", " because ", ", ", " and "),
    "de": (", und ", ", aber ", " und ", ", "),
    "es": (", y ", ", pero ", " porque ", ", "),
    "fr": (", et ", ", mais ", " parce que ", ", "),
    "it": (", e ", ", ma ", " perché ", ", "),
}
# Shares of the sentences that belong to each split, in eighths: none is said in two of them.
PARTS = {
    "train": (0, 1, 2, 3),
    "crowd": (0, 1, 2, 3),
    "accent": (4,),
    "valid": (5,),
    "judge": (6,),
    "heldvoice": (7,),
    "heldaccent": (7,),
}


@functools.cache
def words(language: str) -> tuple[str, ...]:
    """The list of a language, by the first two letters of espeak-ng's name of it."""
    return tuple((WORDS / f"{language[:2]}.txt").read_text(encoding="utf-8").split())


def part(sentence: str) -> int:
    """The eighth of all sentences that one belongs to."""
    return zlib.crc32(sentence.encode()) % 8


def sentence(language: str, split: str, draw: np.random.Generator) -> str:
    """One sentence of a split, of 2 to about 14 words."""
    key = language[:2]
    listed = words(key)
    while True:
        made = _frame(key, listed, draw)
        if draw.random() < 0.4:
            joins = JOINS[key]
            made += joins[int(draw.integers(len(joins)))] + _frame(key, listed, draw)
        made += "?" if draw.random() < 0.12 else "."
        if part(made) in PARTS[split]:
            return made


def _frame(key: str, listed: tuple[str, ...], draw: np.random.Generator) -> str:
    """A frame with its gaps filled; half of the gaps by two words."""
    frames = FRAMES[key]
    pieces = frames[int(draw.integers(len(frames)))].split("*")
    made = pieces[0]
    for piece in pieces[1:]:
        count = 1 if draw.random() < 0.65 else 2
        made += " ".join(listed[int(draw.integers(len(listed)))] for _ in range(count)) + piece
    return made
