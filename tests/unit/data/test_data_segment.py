import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import RATE_HZ, tone

from tunesmith.data.segment import Segmenter, check_lengths, quietest
from tunesmith.errors import UserError


def pieces(samples, min_s, max_s, block=5000, rate_hz=RATE_HZ):
    segmenter = Segmenter(rate_hz, min_s, max_s)
    out = []
    for start in range(0, len(samples), block):
        out += segmenter.push(samples[start : start + block])
    return out + list(segmenter.finish())


@settings(max_examples=150, deadline=None)
@given(
    frames=st.integers(1, 20_000),
    min_s=st.floats(0.2, 3.0),
    ratio=st.floats(1.0, 4.0),
    block=st.integers(100, 7000),
    rate_hz=st.sampled_from([1000, 1103]),
    seed=st.integers(0, 9),
)
def test_pieces_cover_the_recording_within_bounds(frames, min_s, ratio, block, rate_hz, seed):
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, 1)).astype(np.float32)
    max_s = min_s * ratio
    got = pieces(samples, min_s, max_s, block, rate_hz)
    # Nothing is lost, nothing is doubled.
    assert np.array_equal(np.concatenate([piece.samples for piece in got]), samples)
    assert [p.start for p in got] == list(np.cumsum([0] + [len(p.samples) for p in got])[:-1])
    for piece in got:
        seconds = len(piece.samples) / rate_hz
        if piece.reason:
            assert seconds < min_s and piece is got[-1]
            # A rest is only thrown away where it cannot be shared out.
            assert len(got) == 1 or max_s < 2 * min_s + 2 / rate_hz
        else:
            assert min_s - 1 / rate_hz <= seconds <= max_s + 1e-9
    # The clips do not depend on how the sound came in.
    again = pieces(samples, min_s, max_s, frames, rate_hz)
    assert [(p.start, p.reason) for p in again] == [(p.start, p.reason) for p in got]


def test_cuts_fall_into_the_pause():
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (60 * RATE_HZ, 1)).astype(np.float32)
    samples[int(24.9 * RATE_HZ) : int(25.1 * RATE_HZ)] *= 0.01
    first = pieces(samples, 10, 30)[0]
    assert 24.9 <= len(first.samples) / RATE_HZ <= 25.1


def test_without_pauses_clips_are_long():
    samples = np.full((60 * RATE_HZ, 1), 0.5, np.float32)
    assert [len(p.samples) / RATE_HZ for p in pieces(samples, 10, 30)] == [30, 30]


@pytest.mark.parametrize(
    ("total_s", "count"), [(30.0, 1), (30.5, 2), (39.9, 2), (45.0, 2), (61.0, 3)]
)
def test_the_rest_is_shared_out(total_s, count):
    got = pieces(tone(total_s), 10, 30)
    assert len(got) == count and not any(piece.reason for piece in got)


def test_a_short_recording_has_a_reason():
    (only,) = pieces(tone(0.5), 10, 30)
    assert "0.50 s long, shorter than the 10 s" in only.reason
    (only,) = pieces(tone(0.5), 0.2, 30)
    assert not only.reason


def test_digital_silence_is_told_from_quiet():
    quiet = 1e-3 * tone(12.0)
    silent = np.zeros((12 * RATE_HZ, 2), np.float32)
    silent[::3] = 1 / 32768
    assert pieces(silent, 10, 30)[0].reason == "digital silence"
    assert not pieces(quiet, 10, 30)[0].reason


def test_quietest_prefers_late_among_equals():
    assert quietest(np.full((1000, 1), 0.1, np.float32), 300, 900, 1000) == 900


@pytest.mark.parametrize("bounds", [(0.1, 30), (20, 10), (10, 601), (float("nan"), 30)])
def test_impossible_bounds(bounds):
    with pytest.raises(UserError):
        check_lengths(*bounds)


def on_beats(samples, times_s, min_s=2.0, max_s=4.0, block=5000):
    segmenter = Segmenter(RATE_HZ, min_s, max_s, lambda held, rate: times_s(len(held) / rate))
    out = []
    for start in range(0, len(samples), block):
        out += segmenter.push(samples[start : start + block])
    return out + list(segmenter.finish())


def steady(seconds):
    return np.random.default_rng(1).uniform(-0.5, 0.5, (round(seconds * RATE_HZ), 1)).astype("f4")


def test_where_a_pulse_is_clear_cuts_fall_just_before_a_beat():
    every_s = 0.5
    got = on_beats(steady(20.0), lambda held_s: np.arange(0.01, held_s, every_s))
    # Each cut moves the pulse to the start of the next stretch, so all starts lie on the one grid.
    starts = np.array([piece.start for piece in got[1:-1]]) / RATE_HZ
    assert len(starts) > 3
    assert np.abs(starts / every_s - np.rint(starts / every_s)).max() < 1e-3


def test_the_clips_do_not_depend_on_the_blocks_with_beats_either():
    samples = steady(17.0)

    def beats(held_s):
        return np.arange(0.3 * (held_s % 1), held_s, 0.37)

    first, second = (on_beats(samples, beats, block=size) for size in (5000, 333))
    assert [p.start for p in first] == [p.start for p in second]


def test_a_pause_is_better_than_a_beat():
    samples = steady(6.0)
    samples[round(3.3 * RATE_HZ) : round(3.4 * RATE_HZ)] = 0
    got = on_beats(samples, lambda held_s: np.arange(0, held_s, 0.5))
    assert got[0].start == 0 and 3.3 <= got[1].start / RATE_HZ <= 3.4


def test_no_beats_means_quiet_places():
    samples = tone(20.0)
    plain = pieces(samples, 2.0, 4.0)
    assert [p.start for p in on_beats(samples, lambda held_s: None)] == [p.start for p in plain]
    none_inside = on_beats(samples, lambda held_s: np.array([0.0]))
    assert [p.start for p in none_inside] == [p.start for p in plain]


def test_the_last_two_share_about_evenly():
    got = pieces(steady(34.0), 5.0, 30.0)
    assert len(got) == 2 and 12.0 <= len(got[0].samples) / RATE_HZ <= 22.0
