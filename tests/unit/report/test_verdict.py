"""The verdict must be as honest about harm and nothing as about success."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tunesmith.evaluation.findings import Memorisation
from tunesmith.report.verdict import Pair, judge, plain, plain_percent

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


COPIES = Memorisation(True, 12, 64, 0.01, 1e-9, "clap")
HEALTHY = Memorisation(False, 1, 64, 0.01, 0.47, "clap")


@pytest.mark.parametrize("valid", [FELL, STAYED, ROSE, NOTHING])
def test_copies_are_in_the_headline_of_every_word(valid: Pair) -> None:
    plain_words = judge(valid=valid)
    verdict = judge(valid=valid, memorisation=COPIES)
    assert verdict.word == plain_words.word
    assert (
        verdict.headline == f"{plain_words.headline} It copies its training clips: 12 of 64 takes."
    )
    assert "12 of 64 takes come nearer to a training clip" in verdict.sentences[-1]
    assert "flatter" in verdict.sentences[-1]
    assert verdict.caution == (verdict.word == "better")


def test_no_copies_are_said_without_praise() -> None:
    verdict = judge(valid=FELL, memorisation=HEALTHY)
    assert verdict.headline == judge(valid=FELL).headline and not verdict.caution
    assert verdict.sentences[-1].startswith("It was not found to copy its training clips: 1 of 64")
    assert "p = 0.47" in verdict.sentences[-1]


def test_a_fall_within_chance_is_no_fall() -> None:
    chance = judge(valid=Pair(3.3, 2.6, (1.0, 4.0), 0.3))
    assert chance.word == "no change"
    assert (
        "from 3.30 to 2.60 (95 % interval 1.00 to 4.00): within what chance" in chance.sentences[0]
    )
    sure = judge(valid=Pair(3.3, 2.6, (2.5, 2.7), 0.004))
    assert sure.word == "better" and "(p = 0.004)" in sure.sentences[0]
    assert judge(valid=Pair(3.3, 2.6, p_value=math.nan)).word == "no change"


def test_forgetting_within_chance_is_not_claimed() -> None:
    verdict = judge(valid=FELL, general=Pair(3.0, 3.9, p_value=0.4))
    assert "paid" not in verdict.headline and not verdict.caution
    assert any("within what chance" in s for s in verdict.sentences)
    assert judge(valid=FELL, general=Pair(3.0, 3.9, p_value=0.01)).caution


@pytest.mark.parametrize(
    ("anchor", "general", "says", "forgot"),
    [
        (Pair(0.1, 6.0, None, 0.001), None, "no longer sounds like the base: KAD 6.00", True),
        (Pair(0.1, 6.0, None, 0.001), Pair(3.0, 3.001), "no longer sounds", False),
        (Pair(0.1, 0.2, None, 0.4), None, "cannot be told from the base (p = 0.4)", False),
        (Pair(None, 0.2), None, "(not tested)", False),
    ],
)
def test_forgetting_by_ear(anchor: Pair, general: Pair | None, says: str, forgot: bool) -> None:
    verdict = judge(valid=FELL, general=general, anchor=anchor)
    assert any(says in sentence for sentence in verdict.sentences)
    assert ("paid" in verdict.headline) == verdict.caution == forgot


@pytest.mark.parametrize(
    ("adherence", "says", "strayed"),
    [
        (Pair(0.30, 0.20, (0.18, 0.22), 0.001), "less than before: from 0.300 to 0.200", True),
        (Pair(0.20, 0.30, None, 0.001), "better than before", False),
        (Pair(0.30, 0.29, None, 0.6), "about as well as before", False),
        (Pair(0.30, 0.20), "(not tested)", False),
    ],
)
def test_prompt_adherence(adherence: Pair, says: str, strayed: bool) -> None:
    verdict = judge(valid=FELL, adherence=adherence)
    assert any(says in sentence for sentence in verdict.sentences)
    assert ("follows its prompts less" in verdict.headline) == verdict.caution == strayed


def test_kad_with_its_interval_and_the_share_of_the_way() -> None:
    kad = Pair(17.5, 9.2, (8.1, 10.5), 0.002)
    verdict = judge(valid=NOTHING, kad=kad, closed=Pair(0.0, 0.62, (0.45, 0.79)))
    assert verdict.word == "better"
    assert "fell from 17.50 to 9.20 (95 % interval 8.10 to 10.50)" in verdict.sentences[1]
    assert verdict.sentences[2].replace("\N{NO-BREAK SPACE}", " ") == (
        "That is 62 % (95 % interval 45 % to 79 %) of the way from the base to real recordings."
    )
    assert not any("That is" in s for s in judge(valid=NOTHING, closed=Pair(0.0, None)).sentences)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.008, "0.8 %"), (0.012, "1.2 %"), (0.83, "83 %"), (1, "100 %")],
)
def test_shares_read_plainly(share: float, text: str) -> None:
    assert plain_percent(share).replace("\N{NO-BREAK SPACE}", " ") == text
