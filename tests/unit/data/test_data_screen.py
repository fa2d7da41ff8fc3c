from base64 import b64encode
from dataclasses import replace

import pytest

from tunesmith.analysis.facts import Facts
from tunesmith.analysis.faults import Fault
from tunesmith.analysis.fingerprint import Match
from tunesmith.data import screen as screening
from tunesmith.data.cut import CutClip, CutRecord
from tunesmith.data.screen import FAULTS, NEAR_DUPLICATE, check_keep, screen
from tunesmith.errors import UserError

FACTS = Facts(10.0, -20.0, None, -3.0, None, 0.0, None, 0.0, 1000.0, 1.0)


class Words:
    """Stands for the index: prints are words, and sound is shared as words are."""

    def __init__(self):
        self.prints = {}

    def add(self, key, print_):
        self.prints[key] = print_.decode().split()

    def find(self, print_):
        words = print_.decode().split()
        shares = {
            key: len(set(words) & set(there)) / min(len(words), len(there))
            for key, there in self.prints.items()
        }
        found = sorted(((share, key) for key, share in shares.items() if share), reverse=True)
        return [Match(key, share, 0.0) for share, key in found]


@pytest.fixture(autouse=True)
def _words(monkeypatch):
    monkeypatch.setattr(screening, "Index", Words)


def clip(number, words, seconds=20.0, variant_of="", band_hz=4000.0, lufs=-20.0, faults=()):
    print_ = b64encode(words.encode()).decode()
    return CutClip(
        f"{number:05d}{'-v1' * bool(variant_of)}.flac", "", 1, 10.0 * number, seconds, 0.0, 8000, 1,
        replace(FACTS, loudness_lufs=lufs), band_hz, print_, faults, variant_of=variant_of,
    )  # fmt: skip


def recording(*clips, lossy=False):
    return CutRecord(clips, (), 10.0 * len(clips), lossy)


NAMES = {"a": "a.mp3", "b": "b.wav", "c": "c.wav"}


def test_a_copy_in_another_recording_is_left_out_and_the_lossless_one_stays():
    records = {
        "a": recording(clip(0, "one two"), clip(1, "three four"), lossy=True),
        "b": recording(clip(0, "one two")),
        "c": recording(clip(0, "five six")),
    }
    found = screen(records, NAMES, ())
    assert {key: [k.clip.start_s for k in kept] for key, kept in found.kept.items()} == {
        "a": [10.0], "b": [0.0], "c": [0.0],
    }  # fmt: skip
    (refused,) = found.refused["a"]
    assert (refused.fault, refused.figure, refused.unit) == (NEAR_DUPLICATE, 100.0, "%")
    assert "b.wav" in refused.reason and refused.start_s == 0.0
    assert found.group == {"a": "a", "b": "b", "c": "c"}


@pytest.mark.parametrize(
    "worse",
    [
        {"faults": (Fault("clipping", 1.0, "%", "clipped"),)},
        {"band_hz": 1500.0},
        {"lufs": -50.0},
        {"lufs": None},
    ],
)
def test_the_better_copy_stays_whatever_its_name(worse):
    records = {"b": recording(clip(0, "one two", **worse)), "c": recording(clip(0, "one two"))}
    found = screen(records, NAMES, ("clipping",))
    assert found.kept["c"] and not found.kept["b"]


def test_a_chord_in_common_is_no_copy():
    # Three seconds each: together more than half of the last, none of them long.
    records = {
        "a": recording(clip(0, "one 2 3 4 5 6 7")),
        "b": recording(clip(0, "two b c d e f g")),
        "c": recording(clip(0, "one two y z v w x")),
    }
    found = screen(records, NAMES, ())
    assert found.kept["c"] and len(set(found.group.values())) == 3


def test_a_copy_that_is_kept_stands_on_the_same_side():
    records = {"a": recording(clip(0, "one two")), "b": recording(clip(0, "one two"))}
    found = screen(records, NAMES, (NEAR_DUPLICATE,))
    assert [len(kept) for kept in found.kept.values()] == [1, 1]
    assert found.group["a"] == found.group["b"]
    assert found.kept["a"][0].repeats[0].sha256 == "b"
    assert found.kept["b"][0].repeats[0].sha256 == "a"


def test_a_little_shared_sound_stays_but_joins_the_recordings():
    records = {"a": recording(clip(0, "one two three")), "b": recording(clip(0, "three four five"))}
    found = screen(records, NAMES, ())
    assert found.kept["a"] and found.kept["b"] and not any(found.refused.values())
    assert found.group["a"] == found.group["b"]


def test_two_halves_of_a_copy_make_a_copy():
    # The same piece, cut at other places: neither clip of the other covers half of the last.
    records = {
        "b": recording(clip(0, "one two three four"), clip(1, "five six seven eight")),
        "c": recording(clip(0, "four five nine")),
    }
    found = screen(records, NAMES, ())
    assert found.refused["c"][0].figure == pytest.approx(66.7, abs=0.1)


def test_a_long_clip_is_not_thrown_away_for_a_short_one_within():
    records = {
        "b": recording(clip(0, "one", seconds=2.0)),
        "c": recording(clip(0, "one two three four", seconds=10.0)),
    }
    found = screen(records, NAMES, ())
    assert found.kept["c"] and found.group["b"] == found.group["c"]


def test_repeats_within_a_recording_are_noted_and_stay():
    found = screen({"a": recording(clip(0, "one two"), clip(1, "one two"))}, NAMES, ())
    first, second = found.kept["a"]
    assert [r.file for r in first.repeats] == ["00001.flac"]
    assert [r.file for r in second.repeats] == ["00000.flac"]
    assert not found.refused["a"]


def test_variants_go_with_their_clip():
    records = {
        "a": recording(clip(0, "one two"), clip(0, "one two", variant_of="00000.flac")),
        "b": recording(clip(0, "one two"), clip(0, "one two", variant_of="00000.flac")),
    }
    found = screen(records, {"a": "a.wav", "b": "b.wav"}, ())
    assert [v.file for v in found.kept["a"][0].variants] == ["00000-v1.flac"]
    assert found.kept["b"] == () and len(found.refused["b"]) == 1


def test_what_has_no_fingerprint_matches_nothing():
    records = {"a": recording(clip(0, "")), "b": recording(clip(0, ""))}
    found = screen(records, NAMES, ())
    assert found.kept["a"] and found.kept["b"]


def test_names_of_faults_are_checked():
    assert check_keep(["all"]) == tuple(sorted(FAULTS))
    assert check_keep(["hum", "dc", "hum"]) == ("dc", "hum")
    with pytest.raises(UserError, match="did you mean 'clipping'"):
        check_keep(["cliping"])
