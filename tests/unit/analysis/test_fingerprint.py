import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.analysis.fingerprint import Index, fingerprint

RATE_HZ = 16_000


def music(seconds=6.0, seed=0, rate_hz=RATE_HZ):
    """Notes in a random order: float32 ``[T, 2]``."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    out = 1e-4 * rng.standard_normal((len(time), 2))
    for start in np.arange(0, seconds, 0.2):
        part = slice(round(start * rate_hz), round((start + 0.8) * rate_hz))
        since = time[part] - start
        hz = 110 * 2 ** (rng.integers(0, 36) / 12)
        wave = sum(np.sin(2 * np.pi * hz * k * since) / k for k in range(1, 12))
        out[part] += (np.exp(-5 * since) * wave)[:, None] * rng.uniform(0.3, 1, 2)
    return (0.3 * out / np.abs(out).max()).astype(np.float32)


def indexed(*sounds, rate_hz=RATE_HZ):
    index = Index()
    for number, samples in enumerate(sounds):
        index.add(f"clip{number}", fingerprint(samples, rate_hz))
    return index


def found(index, samples, rate_hz=RATE_HZ):
    return [match.key for match in index.find(fingerprint(samples, rate_hz))]


SONGS = [music(seed=seed) for seed in range(6)]
INDEX = indexed(*SONGS)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 7.0, 14.0, 29.0, 31.0, 600.0])
def test_a_fingerprint_is_small_whatever_the_length(seconds):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * 8000), 1))
    print_ = fingerprint(samples.astype(np.float32), 8000)
    assert len(print_) <= 2048
    assert bool(print_) == (seconds > 0.2)


def test_the_same_sound_gives_the_same_bytes():
    assert fingerprint(SONGS[0], RATE_HZ) == fingerprint(SONGS[0].copy(), RATE_HZ)


@pytest.mark.parametrize("kind", ["nothing", "zeros", "constant", "tone", "short"])
def test_what_says_nothing_has_no_fingerprint(kind):
    time = np.arange(5 * RATE_HZ)[:, None] / RATE_HZ
    samples = {
        "nothing": time[:0],
        "zeros": 0 * time,
        "constant": 0 * time + 0.5,
        "tone": np.sin(2 * np.pi * 440 * time),
        "short": np.sin(2 * np.pi * 440 * time[:200]),
    }[kind].astype(np.float32)
    print_ = fingerprint(samples, RATE_HZ)
    assert print_ == b""
    assert INDEX.find(print_) == []
    assert found(indexed(samples), SONGS[0]) == []


COPIES = {
    "itself": lambda x: (x, RATE_HZ),
    "louder": lambda x: (2 * x, RATE_HZ),
    "quieter": lambda x: (0.1 * x, RATE_HZ),
    "later": lambda x: (x[800:], RATE_HZ),
    "padded": lambda x: (np.pad(x, ((5000, 0), (0, 0))), RATE_HZ),
    "mono": lambda x: (x.mean(axis=1, keepdims=True), RATE_HZ),
    "inverted": lambda x: (-x, RATE_HZ),
    "up": lambda x: (soxr.resample(x, RATE_HZ, 44_100), 44_100),
    "down": lambda x: (soxr.resample(x, RATE_HZ, 8000), 8000),
    "16 bits": lambda x: (np.round(x * 2000).astype(np.float32) / 2000, RATE_HZ),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("number", [0, 3])
def test_copies_are_found_and_nothing_else(copy, number):
    samples, rate_hz = COPIES[copy](SONGS[number])
    assert found(INDEX, samples, rate_hz) == [f"clip{number}"]


def test_an_inverted_channel_does_not_silence_the_print():
    left = SONGS[1][:, 0]
    wrong = np.stack([left, -left], axis=1)
    assert found(indexed(left[:, None]), wrong) == ["clip0"]


@settings(max_examples=20, deadline=None)
@given(start_s=st.floats(0.0, 3.0), seed=st.integers(0, 5))
def test_a_part_is_found_with_its_place_and_share(start_s, seed):
    start = round(start_s * RATE_HZ)
    (match,) = INDEX.find(fingerprint(SONGS[seed][start:], RATE_HZ))
    assert match.key == f"clip{seed}"
    assert match.offset_s == pytest.approx(start_s, abs=0.05)
    assert match.share > 0.9


def test_the_share_is_that_of_the_shorter():
    half = np.concatenate([SONGS[2][: 3 * RATE_HZ], music(3.0, seed=99)])
    (match,) = INDEX.find(fingerprint(half, RATE_HZ))
    assert match.key == "clip2" and match.share == pytest.approx(0.5, abs=0.15)
    overlap = np.concatenate([SONGS[2][2 * RATE_HZ :], music(4.0, seed=98)])
    (match,) = INDEX.find(fingerprint(overlap, RATE_HZ))
    assert match.share == pytest.approx(4 / 6, abs=0.15)
    assert match.offset_s == pytest.approx(2.0, abs=0.05)


def test_a_long_clip_and_its_parts_find_each_other():
    long = music(28.0, seed=7)
    part = long[10 * RATE_HZ : 16 * RATE_HZ]
    (match,) = indexed(*SONGS, long).find(fingerprint(part, RATE_HZ))
    assert match.key == "clip6" and match.offset_s == pytest.approx(10.0, abs=0.1)
    assert match.share > 0.9
    (match,) = indexed(*SONGS, part).find(fingerprint(long, RATE_HZ))
    assert match.key == "clip6" and match.offset_s == pytest.approx(-10.0, abs=0.1)


def test_different_sounds_of_one_kind_do_not_match():
    songs = [music(4.0, seed=seed) for seed in range(20, 40)]
    noises = [
        np.random.default_rng(seed).normal(0, 0.1, (4 * RATE_HZ, 1)).astype(np.float32)
        for seed in range(5)
    ]
    sounds = songs + noises
    index = indexed(*sounds)
    for number, samples in enumerate(sounds):
        assert found(index, samples) == [f"clip{number}"]


def test_adding_and_finding_may_be_mixed():
    index = Index()
    for number, samples in enumerate(SONGS):
        print_ = fingerprint(samples, RATE_HZ)
        assert index.find(print_) == []
        index.add(str(number), print_)
        assert [match.key for match in index.find(print_)] == [str(number)]
    assert len(index) == len(SONGS)


def test_the_best_match_comes_first():
    index = indexed(SONGS[4][2 * RATE_HZ :], music(6.0, seed=50), SONGS[4])
    half = np.concatenate([SONGS[4][: 4 * RATE_HZ], music(2.0, seed=97)])
    shares = [match.share for match in index.find(fingerprint(half, RATE_HZ))]
    assert len(shares) == 2 and shares == sorted(shares, reverse=True)


def test_words_of_all_ones_and_places_beyond_the_last_are_found_as_others():
    draw = np.random.default_rng(0)
    words = draw.integers(1, 2**32, 400, dtype=np.uint32)
    words[::3] = 2**32 - 1
    head = fingerprint(SONGS[0], RATE_HZ)[:4]
    print_ = head + words.tobytes()
    far = head[:1] + bytes([16]) + head[2:] + words.tobytes()  # hops of many hours
    index = Index()
    for key, one in (("other", fingerprint(SONGS[1], RATE_HZ)), ("same", print_), ("far", far)):
        index.add(key, one)
    assert [match.key for match in index.find(print_)][:1] == ["same"]
    assert {match.key for match in index.find(far)} <= {"other", "same", "far"}


def test_another_version_is_refused():
    with pytest.raises(ValueError, match="version 9"):
        Index().add("clip", bytes([9]) + fingerprint(SONGS[0], RATE_HZ)[1:])
