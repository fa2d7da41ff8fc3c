"""Voice activity: silero-vad's network without its package's code."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tunesmith.analysis import voice_activity
from tunesmith.analysis.voice_activity import Activity, Listener, Stretch, activity
from tunesmith.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from voices import RATE_HZ, pause, phrases

needs_network = pytest.mark.skipif(
    find_spec("silero_vad") is None or find_spec("onnxruntime") is None,
    reason="silero-vad or onnxruntime is not installed",
)


@needs_network
def test_speech_is_found_between_pauses():
    sound = phrases([2.0, 3.0, 1.5])
    found = activity(sound[:, None], RATE_HZ)
    wanted = [(0.5, 2.5), (3.0, 6.0), (6.5, 8.0)]
    assert len(found.stretches) == 3
    for one, (start_s, end_s) in zip(found.stretches, wanted, strict=True):
        assert one.start_s == pytest.approx(start_s, abs=0.1)
        assert one.end_s == pytest.approx(end_s, abs=0.2)
    assert found.speech_s == pytest.approx(6.5, abs=0.4)
    assert found.duration_s == pytest.approx(len(sound) / RATE_HZ)
    assert len(found.probability) == len(found.power) == -(-len(sound) // 512)


@needs_network
@pytest.mark.parametrize("kind", ["noise", "tone", "silence"])
def test_what_is_no_speech_is_none(kind: str):
    time_s = np.arange(3 * RATE_HZ) / RATE_HZ
    sound = {
        "noise": pause(3.0, floor=0.05),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time_s).astype(np.float32),
        "silence": np.zeros(3 * RATE_HZ, np.float32),
    }[kind]
    assert activity(sound[:, None], RATE_HZ).stretches == ()


@needs_network
def test_blocks_make_no_difference():
    sound = phrases([1.0, 1.2])[:, None]
    whole = activity(sound, RATE_HZ)
    listener = Listener(RATE_HZ)
    for start in range(0, len(sound), 1237):
        listener.push(sound[start : start + 1237])
    found = listener.finish()
    assert np.array_equal(found.probability, whole.probability)
    assert found.stretches == whole.stretches


@needs_network
def test_the_package_itself_is_never_imported():
    activity(phrases([0.5])[:, None], RATE_HZ)
    assert "silero_vad" not in sys.modules


def test_levels_pass_over_digital_silence():
    power = np.full(100, 1e-12)
    power[20:40] = 1e-2  # speech
    power[40:60] = 1e-6
    found = Activity(np.zeros(100), power, 3.2, (Stretch(0.64, 1.28),))
    speech_db, background_db = found.levels_db(0.64, 1.28, 2.0)
    assert speech_db == pytest.approx(-20)
    assert background_db == pytest.approx(-60)
    assert found.levels_db(2.5, 3.0, 0.1) == (None, None)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        voice_activity, "find_spec", lambda name: None if name == "silero_vad" else find_spec(name)
    )
    with pytest.raises(UserError, match="silero-vad, which is not installed") as caught:
        voice_activity.require()
    assert "pip install 'tunesmith[voice]'" in str(caught.value)
    assert "\n" not in str(caught.value)
