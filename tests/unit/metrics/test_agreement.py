"""Tempo, key and chroma that were asked for, against sounds that are made to have them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from tunesmith.errors import UserError
from tunesmith.metrics import agreement
from tunesmith.types import Audio

RATE = 22_050


@pytest.mark.parametrize(
    ("prompt", "bpm"),
    [
        ("calypso at 120 bpm in F major", 120.0),
        ("116.5 BPM, dark", 116.5),
        ("slow blues, 72-bpm", 72.0),
        ("90 beats per minute", 90.0),
        ("bpm: 128, techno", 128.0),
        ("tempo of 140", 140.0),
        ("120 bpm, later 90 bpm", None),
        ("120 bpm and again 120 bpm", 120.0),
        ("100-120 bpm", None),
        ("808 drums, 4/4, a hit of 1985", None),
        ("999 bpm", None),
        ("", None),
    ],
)
def test_the_tempo_that_a_prompt_asks_for(prompt: str, bpm: float | None) -> None:
    assert agreement.tempo_asked(prompt) == bpm


@pytest.mark.parametrize(
    ("prompt", "key"),
    [
        ("a driving calypso in E major: steel drums", "E major"),
        ("117 bpm, F# minor, bright", "F# minor"),
        ("in a minor, slow", "A minor"),
        ("key: Bb major", "Bb major"),
        ("B flat major waltz", "Bb major"),
        ("F-sharp minor", "F# minor"),
        ("C# min", "C# minor"),
        ("Db minor", "C# minor"),
        ("a minor label, a major success", None),
        ("in C major, then in G major", None),
        ("a calypso", None),
    ],
)
def test_the_key_that_a_prompt_asks_for(prompt: str, key: str | None) -> None:
    assert agreement.key_asked(prompt) == key


@pytest.mark.parametrize(
    ("heard", "score"),
    [
        ("C major", 1.0),
        ("G major", 0.5),
        ("F major", 0.5),
        ("A minor", 0.3),
        ("C minor", 0.2),
        ("D major", 0.0),
        ("E minor", 0.0),
        (None, 0.0),
    ],
)
def test_mirex_gives_part_of_the_score_for_keys_nearby(heard: str | None, score: float) -> None:
    assert agreement.key_score("C major", heard) == score


def test_the_relative_of_a_minor_key_is_three_semitones_up() -> None:
    assert agreement.key_score("A minor", "C major") == agreement.RELATIVE
    assert agreement.key_score("A minor", "F# major") == 0


@pytest.mark.parametrize(
    ("ratio", "same", "related"),
    [
        (1.0, True, True),
        (1.039, True, True),
        (0.97, True, True),
        (1.05, False, False),
        (2.0, False, True),
        (0.51, False, True),
        (3.0, False, False),
        (np.nan, False, False),
    ],
)
def test_tempos_within_four_percent_are_one(ratio: float, same: bool, related: bool) -> None:
    assert agreement.same_tempo(ratio) is same
    assert agreement.same_tempo(ratio, octaves=True) is related


def clicks(bpm: float, seconds: float = 8.0) -> Audio:
    """A drum on every beat."""
    out = np.zeros(int(seconds * RATE), np.float32)
    hit = np.exp(-np.arange(2000) / 200) * np.random.default_rng(0).standard_normal(2000)
    for beat in np.arange(0.1, seconds - 0.2, 60 / bpm):
        start = int(beat * RATE)
        out[start : start + 2000] += hit.astype(np.float32) * 0.3
    return Audio(out[None], RATE)


def chords(*roots: int, seconds: float = 1.0, third: int = 4) -> Audio:
    """Triads on MIDI roots, one after the other."""
    t = np.arange(int(seconds * RATE)) / RATE
    parts = [
        sum(np.sin(2 * np.pi * 440 * 2 ** ((root + step - 69) / 12) * t) for step in (0, third, 7))
        for root in roots
    ]
    return Audio(0.1 * np.concatenate(parts)[None].astype(np.float32), RATE)


def test_shares_and_their_exact_intervals() -> None:
    takes = [
        clicks(120),
        clicks(120),
        clicks(100),
        Audio(np.zeros((1, 5 * RATE), np.float32), RATE),
    ]
    prompts = ["drums, 120 bpm", "drums, 97 bpm", "drums, 100 bpm", "drums, 90 bpm"]
    found = agreement.of_prompts([*takes, clicks(80)], [*prompts, "just drums"])
    assert set(found) == {"tempo", "tempo_octave"}
    tempo = found["tempo"]
    exact = binomtest(2, 4).proportion_ci(method="exact")
    assert (tempo.value, tempo.n_candidate) == (0.5, 4)
    assert tempo.interval == pytest.approx((exact.low, exact.high))
    assert tempo.details == {"right": 2, "unclear": 1}
    assert tempo.warnings == ("only 4 prompts ask for it",)


def test_keys_are_heard_and_scored() -> None:
    cadence = chords(60, 65, 67, 60, 65, 67, 60)  # I IV V: C major
    prompts = ["in C major", "in A minor", "in F# major"]
    found = agreement.of_prompts([cadence] * 3, prompts)
    assert found["key_exact"].value == pytest.approx(1 / 3)
    assert found["key"].value == pytest.approx((1 + agreement.RELATIVE) / 3)
    assert found.keys() <= agreement.EXPLANATIONS.keys()


def test_nothing_asked_is_nothing_found() -> None:
    assert agreement.of_prompts([clicks(100)], ["drums"]) == {}
    with pytest.raises(UserError, match="1 takes, 2 prompts"):
        agreement.of_prompts([clicks(100)], ["a", "b"])


def test_a_transposed_melody_is_unlike_and_another_level_is_not() -> None:
    tune, other = chords(60, 62, 64, 67, 65), chords(66, 68, 70, 73, 71)
    quiet = Audio(tune.samples * 0.1, RATE)
    same = agreement.chroma_likeness([quiet, other], [tune, other])
    assert same.value > 0.98
    assert same.details["loudest"] > 0.9
    assert same.details["shuffled"] < 0.6
    assert agreement.chroma_likeness([other], [tune]).value < 0.6


def test_silence_has_no_chroma() -> None:
    silence = Audio(np.zeros((1, RATE), np.float32), RATE)
    tune = chords(60, 62)
    assert (
        "1 pairs are silent" in agreement.chroma_likeness([silence, tune], [tune, tune]).warnings[0]
    )
    with pytest.raises(UserError, match="silence"):
        agreement.chroma_likeness([silence], [tune])
    with pytest.raises(UserError, match="0 takes"):
        agreement.chroma_likeness([], [])
