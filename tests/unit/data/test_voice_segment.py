"""Where speech is cut: at pauses, never through a word, and as long as it may be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tunesmith.analysis.voice_activity import Activity, Stretch
from tunesmith.data.voice_segment import NO_SPEECH, TOO_LONG, plan


def heard(*stretches: tuple[float, float], duration_s: float | None = None) -> Activity:
    duration_s = duration_s or stretches[-1][1] + 0.5
    return Activity(np.zeros(1), np.zeros(1), duration_s, tuple(Stretch(*one) for one in stretches))


def test_a_short_recording_stays_one_clip():
    spans = plan(heard((0.5, 3.0), (5.0, 9.0), duration_s=10.0), 1.0, 12.0)
    assert [(one.start_s, one.end_s) for one in spans] == [
        (pytest.approx(0.42), pytest.approx(9.08))
    ]


def test_long_speech_is_cut_in_pauses_only():
    rng = np.random.default_rng(4)
    stretches, at = [], 0.3
    for _ in range(120):
        end = at + float(rng.uniform(0.3, 3.5))
        stretches.append((at, end))
        at = end + float(rng.choice([0.12, 0.2, 0.4, 0.9, 2.5]))
    spans = plan(heard(*stretches), 1.0, 12.0)
    assert len(spans) > 10 and not any(one.reason for one in spans)
    for one in spans:
        assert 1.0 <= one.end_s - one.start_s <= 12.0
        for start_s, end_s in stretches:
            inside = start_s >= one.start_s - 1e-9 and end_s <= one.end_s + 1e-9
            outside = end_s <= one.start_s + 1e-9 or start_s >= one.end_s - 1e-9
            assert inside or outside
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in pairwise(spans))
    said = sum(end_s - start_s for start_s, end_s in stretches)
    taken = sum(
        end_s - start_s
        for start_s, end_s in stretches
        if any(one.start_s <= start_s and end_s <= one.end_s for one in spans)
    )
    assert taken == pytest.approx(said)
    cut_at = [b.start_s - a.end_s for a, b in pairwise(spans)]
    assert min(cut_at) >= 0  # the pauses of 0.12 s are all inside


def test_padding_takes_no_more_than_half_of_a_pause():
    first, second = plan(heard((0.0, 7.0), (7.2, 14.0), duration_s=14.02), 1.0, 12.0)
    assert (first.start_s, first.end_s) == (0.0, pytest.approx(7.08))
    assert second.start_s == pytest.approx(7.12)
    assert second.end_s == pytest.approx(14.02)
    first, second = plan(heard((0.0, 7.0), (7.1, 14.0)), 1.0, 8.0)
    assert first.end_s == second.start_s == pytest.approx(7.05)


def test_speech_without_a_pause_is_named():
    (span,) = plan(heard((0.5, 20.5)), 1.0, 12.0)
    assert span.fault == TOO_LONG and span.figure == 20.0 and "without a pause" in span.reason


def test_a_word_is_too_short_unless_asked_for():
    (span,) = plan(heard((1.0, 1.4), duration_s=2.5), 1.0, 12.0)
    assert span.fault == "too_short"
    (span,) = plan(heard((0.05, 0.35), duration_s=0.4), 0.2, 12.0)
    assert not span.reason and (span.start_s, span.end_s) == (0.0, 0.4)


def test_a_recording_in_which_nobody_speaks():
    (span,) = plan(Activity(np.zeros(1), np.zeros(1), 9.0, ()), 1.0, 12.0)
    assert span.fault == NO_SPEECH
