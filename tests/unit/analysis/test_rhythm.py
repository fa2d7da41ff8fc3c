import numpy as np
import pytest

from tunesmith.analysis.facts import measure
from tunesmith.analysis.rhythm import find_beats, onset_envelope, track
from tunesmith.analysis.spectrum import RATE_HZ


def pulse(bpm, length_s=12.0, rate_hz=RATE_HZ, first_s=0.37, accent=1):
    """Tone bursts, every ``accent``-th one louder: float32 ``[T, 1]``, and when they begin."""
    begins = np.arange(first_s, length_s - 0.3, 60 / bpm)
    time_s = np.arange(round(0.2 * rate_hz)) / rate_hz
    burst = np.exp(-30 * time_s) * np.sin(2 * np.pi * 880 * time_s)
    sound = np.zeros((round(length_s * rate_hz), 1), np.float32)
    for number, begin in enumerate(begins):
        at = round(begin * rate_hz)
        sound[at : at + len(burst), 0] += burst * (0.5 if number % accent else 1.0)
    return 0.5 * sound, begins


@pytest.mark.parametrize("bpm", [60, 77, 90, 104.5, 120, 133, 150, 160])
def test_tempo_and_beats_of_a_steady_pulse(bpm):
    sound, begins = pulse(bpm)
    beats = find_beats(sound, RATE_HZ)
    assert beats is not None
    assert beats.tempo_bpm == pytest.approx(bpm, rel=0.003)
    assert beats.confidence > 0.9
    assert np.abs(beats.times_s[:, None] - begins).min(axis=1).max() < 0.015
    assert len(beats.times_s) >= len(begins) - 1


@pytest.mark.parametrize("bpm", [180, 200])
def test_a_fast_pulse_may_be_taken_for_half_of_it(bpm):
    beats = find_beats(pulse(bpm)[0], RATE_HZ)
    assert beats is not None
    assert min(abs(beats.tempo_bpm / bpm - ratio) for ratio in (1, 0.5)) < 0.003


@pytest.mark.parametrize("rate_hz", [8000, 44_100, 96_000])
def test_the_rate_does_not_matter(rate_hz):
    sound, begins = pulse(100, rate_hz=rate_hz)
    beats = find_beats(sound, rate_hz)
    assert beats is not None and beats.tempo_bpm == pytest.approx(100, rel=0.003)
    assert np.abs(beats.times_s[:, None] - begins).min(axis=1).max() < 0.015


def test_the_gain_and_the_number_of_channels_do_not_matter():
    sound, _ = pulse(112)
    one = find_beats(sound, RATE_HZ)
    other = find_beats(np.repeat(1e-3 * sound, 4, axis=1), RATE_HZ)
    assert one is not None and other is not None
    assert other.tempo_bpm == pytest.approx(one.tempo_bpm, rel=1e-4)
    assert np.allclose(one.times_s, other.times_s, atol=1e-3)
    assert other.confidence == pytest.approx(one.confidence, abs=1e-3)


def test_a_channel_plugged_the_wrong_way_round_is_heard():
    sound, _ = pulse(112)
    beats = find_beats(np.concatenate([sound, -sound], axis=1), RATE_HZ)
    assert beats is not None and beats.tempo_bpm == pytest.approx(112, rel=0.003)


def test_where_there_is_no_pulse():
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((10 * RATE_HZ, 1)).astype(np.float32)
    found = find_beats(noise, RATE_HZ)
    assert found is None or found.confidence < 0.5
    scattered = np.zeros((10 * RATE_HZ, 1), np.float32)
    for begin in np.cumsum(rng.exponential(0.5, 18)):
        at = int(begin * RATE_HZ)
        scattered[at : at + 500, 0] = rng.uniform(-0.5, 0.5, len(scattered[at : at + 500]))
    found = find_beats(scattered, RATE_HZ)
    assert found is None or found.confidence < 0.5


def test_too_little_to_go_by():
    assert find_beats(pulse(120, 2.0)[0], RATE_HZ) is None
    assert find_beats(np.zeros((10 * RATE_HZ, 2), np.float32), RATE_HZ) is None
    assert find_beats(np.full((10 * RATE_HZ, 1), 0.5, np.float32), RATE_HZ) is None
    single = np.zeros((10 * RATE_HZ, 1), np.float32)
    single[100_000] = 1
    assert find_beats(single, RATE_HZ) is None
    assert find_beats(np.ones((1, 1), np.float32), RATE_HZ) is None


def test_the_path_keeps_its_gaps_and_takes_the_onsets_on_the_way():
    onsets = np.zeros(400)
    onsets[[20, 60, 100, 142, 180, 222, 260, 300, 340, 380]] = 5  # 40 apart, more or less
    onsets[[75, 125, 201]] = 2
    assert track(onsets, 40.0).tolist()[-10:] == [20, 60, 100, 142, 180, 222, 260, 300, 340, 380]


def test_onset_envelope_peaks_where_notes_begin():
    sound, begins = pulse(100)
    envelope = onset_envelope(sound[:, 0])
    assert len(envelope) == 1 + len(sound) // 256
    loudest = np.sort(np.argsort(envelope)[-1:]) * 256 / RATE_HZ
    assert np.abs(loudest[:, None] - begins).min() < 0.02


def drone(hz, length_s=20.0):
    """Eight partials that neither start nor stop: float32 ``[T, 1]``."""
    time_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    wave = sum(np.sin(2 * np.pi * hz * k * time_s) / k for k in range(1, 9))
    return (0.15 * wave)[:, None].astype(np.float32)


@pytest.mark.parametrize("hz", [50.0, 55.0, 60.0, 110.0])
def test_a_drone_has_no_pulse(hz):
    time_s = np.arange(20 * RATE_HZ) / RATE_HZ
    sine = 0.3 * np.sin(2 * np.pi * hz * time_s)[:, None].astype(np.float32)
    fifth = drone(hz) + drone(1.5 * hz) + drone(2 * hz)
    for sound in (sine, drone(hz), np.round(drone(hz) * 32768) / 32768, fifth):
        assert find_beats(sound, RATE_HZ) is None
        facts = measure(sound, RATE_HZ)
        assert facts.tempo_bpm is None and facts.tempo_confidence == 0


@pytest.mark.parametrize("begins", [[0, 4, 9, 13, 18, 23], [0, 5, 8, 13, 19, 22, 26, 31, 34, 39]])
def test_a_few_plucks_far_apart_are_no_pulse(begins):
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    note = 0.3 * np.exp(-3 * time_s) * np.sin(2 * np.pi * 220 * time_s)
    sound = np.zeros(((begins[-1] + 2) * RATE_HZ, 1), np.float32)
    for begin in begins:
        sound[begin * RATE_HZ : (begin + 2) * RATE_HZ, 0] += note
    assert find_beats(sound, RATE_HZ) is None
    assert measure(sound, RATE_HZ).tempo_bpm is None
