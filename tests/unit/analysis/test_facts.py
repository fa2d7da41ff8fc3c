import json
import math

import numpy as np
import pytest

from tunesmith.analysis.facts import Facts, measure

FACTS = Facts(10.0, -14.25, 5.1, -1.0, 117.04, 0.91, "F# minor", 0.8, 1500.4, 3.333)


def noise(frames, channels, level=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal((frames, channels))).astype(np.float32)


def edge_sounds():
    click = np.zeros((40_000, 1), np.float32)
    click[20_000] = 1
    return {
        "short": (noise(800, 1), 8000),
        "short and fine": (noise(38_400, 1), 384_000),
        "one frame": (np.ones((1, 1), np.float32), 44_100),
        "less than a frame at the inner rate": (np.ones((1, 1), np.float32), 384_000),
        "silence": (np.zeros((40_000, 2), np.float32), 8000),
        "six channels": (noise(88_200, 6), 44_100),
        "eight channels": (noise(16_000, 8), 16_000),
        "direct current": (np.full((40_000, 1), 0.5, np.float32), 8000),
        "click": (click, 8000),
        "full scale": (np.sign(noise(88_200, 2)), 22_050),
        "huge": (noise(40_000, 2, 1e30), 8000),
        "tiny": (noise(40_000, 2, 1e-41), 8000),
        "opposed": (noise(40_000, 1) * np.array([[1, -1]], np.float32), 8000),
    }


@pytest.mark.parametrize("name", edge_sounds())
def test_any_finite_sound_can_be_measured(name):
    samples, rate_hz = edge_sounds()[name]
    facts = measure(samples, rate_hz)
    assert facts.duration_s == len(samples) / rate_hz
    assert facts.tempo_bpm is None and facts.key is None
    numbers = [value for value in facts.to_json().values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    assert Facts.from_json(json.loads(json.dumps(facts.to_json(), allow_nan=False)))


def test_silence_has_no_loudness_and_nothing_else():
    facts = measure(np.zeros((80_000, 2), np.float32), 8000)
    assert facts == Facts(10.0, None, None, -120.0, None, 0.0, None, 0.0, 0.0, 0.0)


def test_gain_moves_loudness_and_nothing_else():
    samples = noise(8 * 16_000, 2) * (np.arange(8 * 16_000)[:, None] % 8000 < 2000)
    loud, quiet = measure(samples, 16_000), measure(0.1 * samples, 16_000)
    assert loud.loudness_lufs is not None and quiet.loudness_lufs is not None
    assert loud.loudness_lufs - quiet.loudness_lufs == pytest.approx(20, abs=0.01)
    assert loud.true_peak_dbtp - quiet.true_peak_dbtp == pytest.approx(20, abs=0.01)
    assert loud.tempo_bpm == pytest.approx(120, rel=0.003)
    assert quiet.tempo_bpm == pytest.approx(loud.tempo_bpm, rel=1e-4)
    assert quiet.brightness_hz == pytest.approx(loud.brightness_hz, rel=1e-3)
    assert quiet.density_per_s == loud.density_per_s
    assert quiet.key_confidence == pytest.approx(loud.key_confidence, abs=0.01)


@pytest.mark.parametrize("hz", [300.0, 1000.0, 4000.0])
def test_brightness_of_a_sine_is_its_frequency(hz):
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(44_100) / 44_100)
    facts = measure(wave[:, None].astype(np.float32), 44_100)
    assert facts.brightness_hz == pytest.approx(hz, rel=0.03)


@pytest.mark.parametrize("per_s", [1, 2, 4, 8])
def test_density_counts_onsets(per_s):
    rate_hz, length_s = 16_000, 8
    samples = np.zeros((rate_hz * length_s, 1), np.float32)
    burst = np.exp(-np.arange(800) / 160) * np.sin(np.arange(800) * 0.4)
    for number in range(per_s * length_s):
        at = round((number + 0.5) * rate_hz / per_s)
        samples[at : at + 800, 0] += 0.5 * burst[: len(samples) - at]
    assert measure(samples, rate_hz).density_per_s == pytest.approx(per_s, abs=0.13)


def test_json_is_rounded_and_read_back():
    value = FACTS.to_json()
    assert value["loudness_lufs"] == -14.2 and value["tempo_bpm"] == 117.0
    assert value["key"] == "F# minor" and value["brightness_hz"] == 1500
    assert Facts.from_json(value).to_json() == value
    unknown = {**value, "tempo_bpm": None, "key": None, "loudness_lufs": None}
    assert Facts.from_json(unknown).tempo_bpm is None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tempo_bpm": "117"}, TypeError),
        ({"tempo_bpm": True}, TypeError),
        ({"tempo_bpm": -1}, ValueError),
        ({"duration_s": None}, TypeError),
        ({"duration_s": math.nan}, ValueError),
        ({"brightness_hz": math.inf}, ValueError),
        ({"key": "H minor"}, ValueError),
        ({"key": 3}, TypeError),
        ({"key_confidence": 1.5}, ValueError),
        ({"mood": "sad"}, ValueError),
    ],
)
def test_what_is_not_facts(change, error):
    with pytest.raises(error):
        Facts.from_json({**FACTS.to_json(), **change})


def test_facts_must_be_whole_and_a_mapping():
    value = FACTS.to_json()
    del value["key"]
    with pytest.raises(KeyError):
        Facts.from_json(value)
    with pytest.raises(TypeError):
        Facts.from_json([value])  # type: ignore[arg-type]
