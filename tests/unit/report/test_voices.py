"""What is said of a voice: worse wherever it is below zero-shot."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tunesmith.report.verdict import Pair, judge
from tunesmith.report.voices import Voiced, of_training, weigh

GOOD = Voiced(0.60, 0.78, 0.14, 0.16, same=0.90, others=0.40)


def test_nearer_to_the_voice_is_better():
    word, headline, evidence = weigh(GOOD)  # type: ignore[misc]
    assert word == "better"
    assert "zero-shot" in headline
    assert "0.60 zero-shot, 0.78 adapted" in evidence[0]
    assert "0.90" in evidence[0] and "0.40" in evidence[0]
    assert "60 % of the way" in evidence[1]
    assert "14 %" in evidence[2] and "16 %" in evidence[2]


def test_less_like_it_is_worse_however_clear():
    word, headline, _ = weigh(replace(GOOD, after=0.55, error_after=0.0))  # type: ignore[misc]
    assert word == "worse" and headline.startswith("Worse: it sounds less like the voice")


def test_more_like_it_and_no_longer_understood_is_worse():
    word, headline, _ = weigh(replace(GOOD, error_after=0.60))  # type: ignore[misc]
    assert word == "worse" and "lost in words" in headline


def test_a_training_that_never_beat_zero_shot_says_so():
    found = weigh(replace(GOOD, after=0.60, error_after=0.14, chosen=True, step=0))
    assert found is not None and found[0] == "no change" and "No step" in found[1]
    found = weigh(replace(GOOD, after=0.601, error_after=0.14))
    assert found is not None and found[0] == "no change"


def test_a_gain_within_chance_is_none():
    found = weigh(replace(GOOD, after=0.62, error_after=0.14, interval=(0.58, 0.66)))
    assert found is not None and found[0] == "no change" and "chance" in found[1]
    found = weigh(replace(GOOD, interval=(0.74, 0.82)))
    assert found is not None and found[0] == "better"


def test_without_words_similarity_alone_counts():
    found = weigh(Voiced(0.5, 0.7))
    assert found is not None and found[0] == "better"
    assert weigh(Voiced(math.nan, 0.7)) is None
    assert GOOD.closed == pytest.approx(0.6)
    assert replace(GOOD, same=0.6).closed is None


def test_a_voice_decides_over_the_loss():
    """The loss of a voice goes on falling while it drifts away."""
    verdict = judge(valid=Pair(1.0, 0.5), voice=replace(GOOD, after=0.5))
    assert verdict.word == "worse"
    assert verdict.sentences[0].startswith("Similarity to the voice")
    assert any("fell" in one for one in verdict.sentences)
    assert judge(valid=Pair(1.0, 1.2), voice=GOOD).word == "better"


def test_a_card_tells_what_training_heard():
    before = {"score": 0.5, "similarity": 0.6, "intelligibility": 0.86}
    after = {"score": 0.6, "similarity": 0.78, "intelligibility": 0.84}
    card = {"step": 40, "metrics": {"judged": {"base": before, "adapted": after, "unit": "letter"}}}
    heard = of_training(card)
    assert heard is not None
    assert (heard.before, heard.after, heard.unit, heard.step) == (0.6, 0.78, "letter", 40)
    assert heard.error_after == pytest.approx(0.16)
    assert "flatter" in weigh(heard)[2][-1]  # type: ignore[index]
    assert of_training({"metrics": {}}) is None
