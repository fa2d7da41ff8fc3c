from dataclasses import replace

import pytest

from tunesmith.analysis.facts import Facts
from tunesmith.data.words import describe, facts_follow, retold

PLAIN = Facts(10.0, -14.0, 5.0, -1.0, 120.0, 0.9, "A minor", 0.8, 1500.0, 3.0)
UP = facts_follow(PLAIN, pitch_semitones=2, stretch=1.1)


def test_a_caption_says_what_was_measured():
    words = describe(PLAIN)
    assert words is not None
    assert (words.text, words.confidence) == ("120 bpm, A minor", 0.8)
    facts = replace(PLAIN, brightness_hz=3000.0, density_per_s=6.0, loudness_range_lu=12.0)
    words = describe(facts, " My\n Song ")
    assert words is not None
    assert words.text == "My Song, 120 bpm, A minor, bright, dense, wide dynamics"


def test_steady_needs_time():
    facts = replace(PLAIN, brightness_hz=400.0, density_per_s=0.5, loudness_range_lu=1.0)
    words, longer = describe(facts), describe(replace(facts, duration_s=30.0))
    assert words is not None and words.text == "120 bpm, A minor, dark, sparse"
    assert longer is not None and longer.text.endswith("sparse, steady loudness")


def test_a_texture_alone_is_no_caption():
    unsaid = replace(PLAIN, key=None, tempo_bpm=None)
    assert describe(replace(unsaid, brightness_hz=300.0)) is None
    two = describe(replace(unsaid, brightness_hz=300.0, density_per_s=0.3))
    assert two is not None and (two.text, two.confidence) == ("dark, sparse", 0.6)
    one = describe(replace(PLAIN, brightness_hz=300.0))
    assert one is not None and (one.text, one.confidence) == ("120 bpm, A minor, dark", 0.6)


def test_ordinary_music_has_no_texture():
    # A jazz trio, a male reader, the middle half of the rendered compositions.
    for brightness_hz, density_per_s in ((625.0, 4.6), (749.0, 4.0), (1400.0, 1.5), (2300.0, 4.0)):
        words = describe(replace(PLAIN, brightness_hz=brightness_hz, density_per_s=density_per_s))
        assert words is not None and words.text == "120 bpm, A minor"


def test_what_is_not_sure_is_left_out():
    words = describe(replace(PLAIN, key=None))
    assert words is not None and words.text == "120 bpm" and words.confidence == 0.9
    words = describe(replace(PLAIN, tempo_confidence=0.3))
    assert words is not None and words.text == "A minor"
    assert describe(replace(PLAIN, key=None, tempo_bpm=None), "My Song") is None
    silence = Facts(10.0, None, None, -120.0, None, 0.0, None, 0.0, 0.0, 0.0)
    assert describe(silence) is None
    short = replace(PLAIN, key=None, tempo_bpm=None, duration_s=0.5, density_per_s=10.0)
    assert describe(short) is None


def test_variants_of_facts():
    assert UP.tempo_bpm == pytest.approx(132) and UP.key == "B minor"
    assert UP.duration_s == pytest.approx(10 / 1.1)
    assert UP.density_per_s == pytest.approx(3.3)
    assert UP.brightness_hz == pytest.approx(1500 * 2 ** (2 / 12))
    assert UP.loudness_lufs == PLAIN.loudness_lufs
    assert facts_follow(PLAIN) == PLAIN
    assert facts_follow(PLAIN, pitch_semitones=-13).key == "G# minor"
    assert facts_follow(PLAIN, pitch_semitones=2.1).key == "B minor"
    assert facts_follow(PLAIN, pitch_semitones=0.5).key is None
    unsure = replace(PLAIN, key=None, tempo_bpm=None)
    assert facts_follow(unsure, pitch_semitones=2, stretch=2).tempo_bpm is None
    with pytest.raises(ValueError, match="stretch"):
        facts_follow(PLAIN, stretch=0)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("120 bpm, A minor", "132 bpm, B minor"),
        ("slow waltz, 95.5BPM", "slow waltz, 105.1BPM"),
        ("at 120 beats per minute in F sharp major", "at 132 beats per minute in A flat major"),
        ("BPM: 120, key: A minor", "BPM: 132, key: B minor"),
        ("tempo 120 in 4/4", "tempo 132 in 4/4"),
        ("118-122 bpm house", "130-134 bpm house"),
        ("120 bpm 90 bars, 808 drums, made in 1980", "132 bpm 90 bars, 808 drums, made in 1980"),
        ("techno in A minor with strings", "techno in B minor with strings"),
        ("f# minor, then e minor", "g# minor, then f# minor"),
        ("E-flat major", "F major"),
        ("Bb minor; F#m; G♯ minor", "C minor; G#m; B♭ minor"),
        ("song in a minor, soft", "song in b minor, soft"),
        ("Db maj, Dmaj", "Eb maj, Emaj"),
        ("key of C", "key of D"),
        ("key Am, slow", "key Bm, slow"),
        ("key: Am", "key: Bm"),
        ("Key of Bbm", "Key of Cm"),
        ("key F# minor", "key G# minor"),
    ],
)
def test_captions_follow_the_variant(caption, expected):
    assert retold(caption, PLAIN, UP) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "a minor change of mood",
        "A minor change",
        "A Major Lazer remix",
        "in a minor key",
        "a major hit",
        "I Am, Am I",
        "the key am I, a key m",
        "Bb clarinet, B flat trumpet, vitamin C",
        "take 120, 120 voices",
        "a song about the key of A city",
        "",
    ],
)
def test_what_may_be_no_tempo_and_no_key_stays(caption):
    assert retold(caption, PLAIN, UP) == caption


def test_nothing_changes_without_a_change():
    caption = "Gb major, D# minor, 99.99 bpm"
    assert retold(caption, PLAIN, PLAIN) == caption
    assert retold(caption, PLAIN, facts_follow(PLAIN, pitch_semitones=12)) == caption


def test_captions_follow_without_stated_facts():
    before = replace(PLAIN, key=None, tempo_bpm=None)
    after = facts_follow(before, pitch_semitones=-3, stretch=0.5)
    assert retold("100 bpm in C major", before, after) == "50 bpm in A major"
    told = retold("100 bpm in C major", before, before, pitch_semitones=1, stretch=1.25)
    assert told == "125 bpm in Db major"
