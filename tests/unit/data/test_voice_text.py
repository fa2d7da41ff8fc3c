"""Texts of clips: placed by what was recognised, and held against it."""

from __future__ import annotations

import random

import pytest

from tunesmith.data.voice_phones import PROGRAM, coverage
from tunesmith.data.voice_text import cer, edits, place, wer_edits

TEXT = "It was a dark, stormy night. The rain fell in torrents, except at occasional intervals."


def test_every_clip_gets_its_words():
    heard = [
        "it was a dark",
        "stormi night the rain",
        "fell in torrents except occasional intervals",
    ]
    assert place(TEXT, heard) == [
        "It was a dark,",
        "stormy night. The rain",
        "fell in torrents, except at occasional intervals.",
    ]
    assert place(TEXT, ["anything"]) == [TEXT]


def test_what_was_misheard_goes_where_it_fits_best():
    assert place("One two three four five six", ["one to tree", "for five six"]) == [
        "One two three",
        "four five six",
    ]


def test_a_lost_stretch_keeps_its_words_to_itself():
    heard = ["it was a dark stormy night", None, "except at occasional intervals"]
    assert place(TEXT, heard)[0] == "It was a dark, stormy night."
    assert place(TEXT, heard)[2] == "except at occasional intervals."


@pytest.mark.parametrize("seed", range(5))
def test_no_word_is_lost_and_none_changes_its_place(seed: int):
    rng = random.Random(seed)
    words = [rng.choice(["a", "the", "rain", "falls", "on", "plain", "spain"]) for _ in range(200)]
    heard, at = [], 0
    while at < len(words):
        size = rng.randint(1, 20)
        part = [word for word in words[at : at + size] if rng.random() > 0.2]
        heard.append(" ".join(part) if rng.random() > 0.1 else None)
        at += size
    placed = place(" ".join(words), heard)
    assert len(placed) == len(heard)
    assert " ".join(filter(None, placed)).split() == words
    assert place(" ".join(words), [""] * 7)  # nothing was recognised at all


def test_edits_and_rates():
    assert edits("kitten", "sitting") == 3
    assert edits("", "abc") == edits("abc", "") == 3
    assert cer("Hello, world!", "hello word") == pytest.approx(1 / 11)
    assert cer("...", "a") == float("inf")
    assert wer_edits("one two three four", "one too three") == (2, 4)


def test_letters_where_no_phonemes_can_be_had(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tunesmith.data.voice_phones.shutil.which", lambda name: None)
    found = coverage(["the quick brown fox jumps over the lazy dog"], "en")
    assert found is not None and (found.unit, found.missing) == ("letters", ())
    found = coverage(["zero one two"])
    assert found is not None and "q" in found.missing
    assert coverage(["привет"]) is None and coverage([]) is None


def test_phonemes(monkeypatch: pytest.MonkeyPatch):
    import shutil

    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    found = coverage(["he said that she was in the house and that it was mine"])
    assert found is not None and found.unit == "phonemes" and found.language == "en"
    assert "ɔɪ" in found.missing and "m" not in found.missing
