"""Phone error: a hand-made case, and what it refuses."""

from __future__ import annotations

import random

import pytest

from tunesmith.errors import UserError
from tunesmith.metrics import phone_error


def test_a_case_by_hand():
    """One substitution, one deletion, two insertions over seven phones."""
    wanted = [["h", "ə", "l", "əʊ"], ["k", "a", "t"]]
    heard = [["h", "e", "l"], ["k", "a", "t", "s", "s"]]
    found = phone_error.compute(wanted, heard)
    assert found.value == pytest.approx(4 / 7)
    assert found.n_reference == 7


def test_edits_are_a_distance():
    draw = random.Random(0)
    words = ["".join(draw.choices("abc", k=draw.randint(0, 7))) for _ in range(12)]
    for one in words:
        assert phone_error.edits(one, one) == 0
        for other in words:
            there = phone_error.edits(one, other)
            assert there == phone_error.edits(other, one)
            assert abs(len(one) - len(other)) <= there <= max(len(one), len(other))
            for third in words:
                assert there <= phone_error.edits(one, third) + phone_error.edits(third, other)


@pytest.mark.parametrize(
    ("wanted", "heard"), [([["a"]], []), ([], []), ([[]], [["a"]])], ids=["counts", "none", "empty"]
)
def test_it_refuses(wanted: list[list[str]], heard: list[list[str]]):
    with pytest.raises(UserError):
        phone_error.compute(wanted, heard)
