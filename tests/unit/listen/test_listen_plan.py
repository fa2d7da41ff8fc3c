"""Orders and sides: even by design, random to whoever listens, the same each time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from tunesmith.listen.design import Item, Side, Test
from tunesmith.listen.plan import plan, williams


def design(kind: str, items: int, sides: int = 2, training: int = 0, **changes) -> Test:
    names = ("s0", "s1", "s2", "s3")[:sides]
    made = tuple(
        Item("", None, names, 1.0, (0.0,) * sides, training=index < training)
        for index in range(items + training)
    )
    plain = Test(
        kind,  # type: ignore[arg-type]
        *("t", "q", "seed"),
        *(tuple(Side(name) for name in names), made, True, 0, False, -23.0, 8000, 1, "n"),
    )
    return replace(plain, **changes)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 10])
def test_a_williams_design_balances_places_and_neighbours(count):
    rows = williams(count)
    assert len(rows) == (count if count % 2 == 0 or count == 1 else 2 * count)
    assert all(sorted(row) == list(range(count)) for row in rows)
    for place in range(count):
        assert set(Counter(row[place] for row in rows).values()) == {len(rows) // count}
    after = Counter((a, b) for row in rows for a, b in pairwise(row))
    if count > 1:
        assert len(after) == count * (count - 1)
        assert set(after.values()) == {len(rows) // count}


@pytest.mark.parametrize("kind", ["ab", "abx"])
def test_sides_are_balanced_between_and_within_listeners(kind):
    test = design(kind, 9, sides=3)
    for block in range(3):
        seen = Counter(
            (trial.item, trial.pair, trial.slots[:2])
            for who in (2 * block, 2 * block + 1)
            for trial in plan(test, who)
        )
        assert len(seen) == 9 * 2 * 2 and set(seen.values()) == {1}
    for who in range(8):
        for pair in test.pairs:
            slots = Counter(trial.slots[:2] for trial in plan(test, who) if trial.pair == pair)
            assert len(slots) == 2 and max(slots.values()) - min(slots.values()) <= 1


def test_x_is_drawn_anew_each_time():
    """Even halves of X would agree with even halves of answers more often than the binomial test says."""
    test = design("abx", 16)
    plans = [plan(test, who) for who in range(400)]
    assert all(trial.slots[2] in trial.slots[:2] for trials in plans for trial in trials)
    is_a = [sum(trial.slots[2] == trial.slots[0] for trial in trials) for trials in plans]
    assert sum(is_a) == pytest.approx(3200, abs=4 * (6400 / 4) ** 0.5)
    # Binomial from listener to listener: variance 4, its own deviation 0.28 over 400 of them.
    mean = sum(is_a) / 400
    assert sum((count - mean) ** 2 for count in is_a) / 399 == pytest.approx(4.0, abs=1.2)
    for item in range(16):
        is_first = [t.slots[2] == 0 for trials in plans for t in trials if t.item == item]
        assert sum(is_first) == pytest.approx(200, abs=40)
    # A and B answered in turn are right as often as by a coin: no more than 5 % pass.
    right = [
        sum(t.slots["ab".index("ab"[place % 2])] == t.slots[2] for place, t in enumerate(trials))
        for trials in plans
    ]
    assert sum(count >= 12 for count in right) <= 28  # 3.8 % of 400, and three deviations


def test_places_are_balanced_over_a_block_of_listeners():
    test = design("mos", 4, sides=2)
    places = Counter(
        (place, trial.item, trial.slots)
        for who in range(8)
        for place, trial in enumerate(plan(test, who))
    )
    assert len(places) == 64 and set(places.values()) == {1}


def test_the_plan_is_the_same_each_time_and_another_for_each_listener_and_seed():
    test = design("ab", 12, repeats=2)
    assert plan(test, 5) == plan(test, 5)
    assert len({plan(test, who) for who in range(24)}) == 24
    assert plan(replace(test, seed="other"), 5) != plan(test, 5)


def test_order_does_not_give_sides_away():
    """Over many seeds, the side behind A is independent of item and place."""
    count = Counter()
    for seed in range(400):
        for place, trial in enumerate(plan(replace(design("ab", 4), seed=str(seed)), 0)):
            count[place, trial.item, trial.slots[0]] += 1
    # 32 cells of 50 on average, standard deviation 6.8; four of them are 27.
    assert len(count) == 32 and all(abs(value - 50) < 28 for value in count.values())


def test_practice_comes_first_and_repeats_come_later_with_sides_swapped():
    test = design("ab", 10, training=2, repeats=3)
    for who in range(30):
        trials = plan(test, who)
        assert [trial.role for trial in trials[:2]] == ["training"] * 2
        again = [(at, trial) for at, trial in enumerate(trials) if trial.role == "repeat"]
        assert len(again) == 3 and len(trials) == 15
        for at, trial in again:
            assert trial.repeats is not None
            first = trials[trial.repeats]
            assert first.role == "test" and first.item == trial.item
            assert first.slots == trial.slots[::-1]
            assert at - trial.repeats >= 3


def test_mos_rates_every_side_of_every_item():
    test = design("mos", 5, sides=4, repeats=1)
    trials = plan(test, 3)
    assert Counter((t.item, t.slots[0]) for t in trials if t.role == "test") == Counter(
        (item, side) for item in range(5) for side in range(4)
    )
