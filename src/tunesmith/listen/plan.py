"""What each listener hears, in which order and behind which letter.

Everything follows from the test's seed and the listener's number, so that a test resumes exactly where
it stopped, on any machine. What has to be even is even by design and not on average only:

- **Order of the trials**: a Williams design (Williams 1949, Aust. J. Sci. Res. A 2). In a block of n
  listeners (2n if n is odd) each trial stands at each place equally often, and each trial follows each
  other one equally often.
- **Sides**: of two neighbouring listeners each trial has each order of sides once, and each listener has
  each order equally often, give or take one.

What X equals in ABX is drawn anew for every trial, and not made even: listeners make their answers even,
too, and of two even halves more agree by chance than a binomial test allows for (16 answers: 6.6 % of
guessers reach what 3.8 % should).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tunesmith.listen.design import Test

_SPACING = 3
"""A repeated trial comes at least so many places after the first time."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One question to one listener.

    Attributes:
        item: index in the test's items.
        pair: sides that are compared, as the test has them; for MOS the one side, twice.
        slots: the side behind each letter: A and B, then X in ABX; one in MOS.
        role: ``training`` does not count; ``repeat`` is the attention check.
        repeats: place of the trial that this one repeats.
    """

    item: int
    pair: tuple[int, int]
    slots: tuple[int, ...]
    role: Literal["training", "test", "repeat"] = "test"
    repeats: int | None = None


def williams(count: int) -> list[list[int]]:
    """Rows of a Williams design of ``count`` trials: ``count`` rows, twice as many if it is odd."""
    first = [0]
    for step in range(1, count):  # 0, 1, n-1, 2, n-2 ...: every difference once
        first.append((step + 1) // 2 if step % 2 else count - step // 2)
    rows = [[(place + row) % count for place in first] for row in range(count)]
    return rows + [row[::-1] for row in rows] if count % 2 and count > 1 else rows


def plan(test: Test, listener: int) -> tuple[Trial, ...]:
    """The trials of listener number ``listener`` (from 0) in their order: practice first."""
    practice = _trials(test, listener, training=True)
    _random(test, "practice", listener).shuffle(practice)
    trials = _trials(test, listener, training=False)
    rows = williams(len(trials))
    block, row = divmod(listener, len(rows))
    names = list(range(len(trials)))
    _random(test, "order", block).shuffle(names)
    ordered = [trials[names[place]] for place in rows[row]]
    return (*practice, *_with_repeats(test, listener, ordered, len(practice)))


def _random(test: Test, *what: object) -> random.Random:
    return random.Random("/".join(map(str, (test.seed, *what))))


def _trials(test: Test, listener: int, *, training: bool) -> list[Trial]:
    items = [index for index, item in enumerate(test.items) if item.training == training]
    role = "training" if training else "test"
    if test.kind == "mos":
        sides = range(len(test.sides))
        return [Trial(item, (side, side), (side,), role) for item in items for side in sides]
    out = []
    for pair in test.pairs:
        block, turn = divmod(listener, 2)
        pattern = [index % 2 for index in range(len(items))]
        _random(test, "sides", role, pair, block).shuffle(pattern)
        x = _random(test, "x", role, pair, listener)
        for item, cell in zip(items, pattern, strict=True):
            slots = pair if (cell + turn) % 2 == 0 else pair[::-1]
            if test.kind == "abx":
                slots = (*slots, x.choice(pair))
            out.append(Trial(item, pair, slots, role))
    return out


def _with_repeats(test: Test, listener: int, ordered: Sequence[Trial], before: int) -> list[Trial]:
    """The order with some trials of its first half once more, sides swapped."""
    draw = _random(test, "repeats", listener)
    count = min(test.repeats, len(ordered) // 2)
    again = draw.sample(range(max(1, len(ordered) // 2)), count) if count else []
    # (place to come after, tie-break, trial, place of the original)
    places: list[tuple[float, Trial, int | None]] = [
        (float(place), trial, None) for place, trial in enumerate(ordered)
    ]
    for original in again:
        earliest = min(original + _SPACING, len(ordered) - 1)
        after = draw.randint(earliest, len(ordered) - 1) + 0.5 + draw.random() * 0.4
        trial = ordered[original]
        slots = trial.slots[::-1] if test.kind == "ab" else trial.slots
        places.append((after, replace(trial, slots=slots, role="repeat"), original))
    places.sort(key=lambda entry: entry[0])
    where = {int(at): index for index, (at, _, of) in enumerate(places) if of is None}
    return [
        trial if of is None else replace(trial, repeats=before + where[of])
        for _, trial, of in places
    ]
