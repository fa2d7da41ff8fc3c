"""The verdict must be as honest about harm and nothing as about success."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tunesmith.report.verdict import Pair, judge, plain

FELL, ROSE, STAYED = Pair(3.3, 2.6), Pair(2.6, 3.3), Pair(2.6, 2.605)
NEARER, FARTHER = Pair(4.0, 1.5), Pair(1.5, 4.0)
NOTHING = Pair(None, None)


@pytest.mark.parametrize(
    ("valid", "kad", "p", "word"),
    [
        (FELL, NEARER, 0.001, "better"),
        (FELL, NEARER, 0.4, "better"),
        (FELL, None, None, "better"),
        (FELL, FARTHER, 0.4, "better"),
        (FELL, FARTHER, 0.001, "worse"),
        (STAYED, NEARER, 0.001, "better"),
        (STAYED, NEARER, 0.4, "no change"),
        (STAYED, NEARER, None, "no change"),
        (STAYED, FARTHER, 0.001, "worse"),
        (ROSE, NEARER, 0.001, "no change"),
        (ROSE, NEARER, 0.4, "worse"),
        (ROSE, None, None, "worse"),
        (Pair(3.0, math.nan), NEARER, 0.001, "worse"),
        (Pair(3.0, math.inf), None, None, "worse"),
        (NOTHING, NEARER, 0.001, "better"),
        (NOTHING, FARTHER, 0.001, "worse"),
        (NOTHING, NEARER, None, "not measured"),
        (NOTHING, Pair(math.nan, 1.0), 0.01, "not measured"),
        (NOTHING, None, None, "not measured"),
    ],
)
def test_word(valid: Pair, kad: Pair | None, p: float | None, word: str) -> None:
    verdict = judge(valid=valid, kad=kad, kad_p=p)
    assert verdict.word == word
    assert verdict.headline
    assert verdict.sentences


def test_worse_never_reads_as_success() -> None:
    verdict = judge(valid=ROSE, kad=FARTHER, kad_p=0.001)
    words = f"{verdict.headline} {' '.join(verdict.sentences)}"
    assert "rose from 2.60 to 3.30" in words
    assert "further from your recordings" in words
    assert "closer" not in words and "improve" not in words


def test_numbers_are_said() -> None:
    (first, *_) = judge(valid=FELL, n_valid=24).sentences
    assert "24 clips" in first and "from 3.30 to 2.60" in first and "21" in first


@pytest.mark.parametrize(
    ("general", "says"),
    [
        (Pair(3.0, 3.9), "forgotten some general music"),
        (Pair(3.0, 3.001), "kept what it knew"),
        (Pair(3.0, 3.09), "rose a little"),
        (Pair(3.0, 2.5), "fell"),
        (Pair(3.0, math.nan), "forgotten"),
    ],
)
def test_forgetting(general: Pair, says: str) -> None:
    verdict = judge(valid=FELL, general=general)
    assert verdict.word == "better"
    assert any(says in sentence for sentence in verdict.sentences)
    assert ("paid" in verdict.headline) == ("forgotten" in says)


def test_few_clips_call_for_caution() -> None:
    assert any("caution" in s for s in judge(valid=FELL, n_valid=2).sentences)
    assert not any("caution" in s for s in judge(valid=FELL, n_valid=20).sentences)
    assert any("1 held-out clip," in s for s in judge(valid=FELL, n_valid=1).sentences)


def test_untested_distance_is_said_not_to_count() -> None:
    verdict = judge(valid=FELL, kad=NEARER, kad_p=None)
    assert any("not tested" in s for s in verdict.sentences)


def test_a_negative_distance_is_no_trouble() -> None:
    assert judge(valid=NOTHING, kad=Pair(0.4, -0.02), kad_p=0.01).word == "better"


def test_zero_before_is_no_division() -> None:
    assert judge(valid=Pair(0.0, 1.0)).word == "not measured"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3.00"), (0.31, "0.310"), (512.44, "512.4"), (12345.6, "12,346"), (0.00012, "0.00012")],
)
def test_numbers_read_plainly(value: Any, text: str) -> None:
    assert plain(value) == text


def test_both_measures_are_named_only_when_both_moved() -> None:
    kad = Pair(17.5, 12.3)
    same = judge(valid=Pair(4.44, 4.41), kad=kad, kad_p=0.006)
    both = judge(valid=Pair(4.44, 4.01), kad=kad, kad_p=0.006)
    assert (same.word, both.word) == ("better", "better")
    assert "both" in both.headline
    assert "both" not in same.headline
