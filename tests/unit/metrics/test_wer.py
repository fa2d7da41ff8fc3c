"""Word and character error rates of texts whose edits are known."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tunesmith.errors import UserError
from tunesmith.metrics import wer
from tunesmith.metrics._intervals import of_ratio


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  Hello,   World! ", "hello world"),
        ("Don\u2019t stop \u2018now\u2019", "don't stop now"),
        ("rock'n'roll 'quoted'", "rock'n'roll quoted"),
        ("Stra\u00dfe \uff21\uff22 caf\u00e9 cafe\u0301", "strasse ab caf\u00e9 caf\u00e9"),
        ("well-known\u2014so; 7%", "well known so 7"),
        ("...", ""),
        ("\u4f60\u597d\u3002", "\u4f60\u597d"),
    ],
)
def test_what_cannot_be_heard_is_taken_out(text: str, wanted: str) -> None:
    assert wer.normalise(text) == wanted
    assert wer.normalise(wanted) == wanted


def test_known_edits() -> None:
    said = ["the cat sat on the mat", "A Dog!", "one two three four"]
    heard = ["The cat sat in the", "a dog", "one two and three four"]
    made = wer.compute(said, heard)
    assert made.value == pytest.approx(3 / 12)  # on -> in, mat lost, and added
    assert (made.n_reference, made.n_candidate) == (12, 3)
    assert [made.details[k] for k in ("substitutions", "deletions", "insertions")] == [1, 1, 1]
    # o -> i, " mat" lost; "and " added; over 22 + 5 + 18 characters
    assert made.details["cer"] == pytest.approx((1 + 4 + 4) / (22 + 5 + 18))
    assert made.interval == pytest.approx(of_ratio([2, 0, 1], [6, 2, 4], (0.0, np.inf)))
    assert made.details["cer_low"] < made.details["cer"] < made.details["cer_high"]


def test_nothing_understood_everything_understood_and_more() -> None:
    assert wer.compute(["a b c", "d e"], ["", ""]).value == 1.0
    assert wer.compute(["a"], ["a b c"]).value == 2.0
    right = wer.compute(["a b c", "d e"], ["A, b c.", "d e"])
    assert right.value == 0 and right.interval == (0.0, 3 / 5)
    assert "no error in 5 words" in right.warnings[0]
    assert wer.compute(["a b"], ["a c"]).interval is None


def test_the_interval_covers_the_truth() -> None:
    """Files differ in length and in how hard they are: errors come in bunches."""
    hits, rng = 0, np.random.default_rng(0)
    for _ in range(500):
        lengths = rng.integers(5, 25, 60)
        edits = rng.binomial(lengths, rng.beta(2, 8, 60))
        between = of_ratio(edits, lengths, (0.0, np.inf))
        assert between is not None
        hits += between[0] <= 0.2 <= between[1]
    assert 0.92 <= hits / 500 <= 0.98


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="2 texts and 1 transcripts"):
        wer.compute(["a", "b"], ["a"])
    with pytest.raises(UserError, match="no words in"):
        wer.compute(["?!"], ["a"])
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(UserError, match=r"pip install 'tunesmith\[evaluate\]'"):
        wer.compute(["a"], ["a"])
