"""Variants measured: pitch by its spectrum, tempo by its beats, noise and level by their power."""

import random
import sys

import numpy as np
import pytest
from scipy.signal import find_peaks

from tunesmith.data.augment import OPERATIONS, check_operations, vary
from tunesmith.errors import UserError

RATE_HZ = 16_000
BOUNDS = {"min_s": 0.2, "max_s": 60.0}


def sine(seconds, hz=440.0, channels=1, rate_hz=RATE_HZ, level=0.3):
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    phases = np.arange(channels) * 0.7
    return (level * np.sin(2 * np.pi * hz * time_s[:, None] + phases)).astype(np.float32)


def hiss(seconds, channels=1, rate_hz=RATE_HZ, level=0.1, seed=0):
    rng = np.random.default_rng(seed)
    shape = (round(seconds * rate_hz), channels)
    return (level * rng.standard_normal(shape)).clip(-1, 1).astype(np.float32)


def find(samples, operation, wanted, rate_hz=RATE_HZ, **bounds):
    """The first variant of one operation whose parameter satisfies ``wanted``."""
    for seed in range(200):
        variant = vary(samples, rate_hz, [operation], seed, **(BOUNDS | bounds))
        if wanted(*variant.operations.values()):
            return variant
    raise AssertionError("no seed gives it")


def peak_hz(samples, rate_hz=RATE_HZ):
    size = 1 << 19
    middle = samples[len(samples) // 8 : -len(samples) // 8]
    return np.abs(np.fft.rfft(middle * np.hanning(len(middle)), size)).argmax() * rate_hz / size


def rms(samples):
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


@pytest.mark.parametrize("semitones", [-2, -1, 1, 2])
@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_pitch_moves_a_tone_by_semitones_and_keeps_the_length(semitones, rate_hz):
    for hz in (110, 440):
        tone = sine(2, hz, rate_hz=rate_hz)
        variant = find(tone, "pitch", lambda got: got == semitones, rate_hz)
        assert variant.operations == {"pitch_semitones": semitones}
        assert variant.samples.shape == tone.shape
        wanted_hz = hz * 2 ** (semitones / 12)
        assert peak_hz(variant.samples[:, 0], rate_hz) == pytest.approx(wanted_hz, rel=0.001)


@pytest.mark.parametrize("faster", [True, False])
def test_stretch_moves_the_beats_and_not_the_pitch(faster):
    clicks = np.zeros((8 * RATE_HZ, 1), np.float32)
    clicks[RATE_HZ // 4 :: RATE_HZ // 2] = 0.8  # 120 a minute
    variant = find(clicks, "stretch", lambda got: (got > 1.03) == faster and abs(got - 1) > 0.03)
    factor = variant.operations["tempo_factor"]
    assert len(variant.samples) == round(len(clicks) / factor)
    smooth = np.convolve(np.abs(variant.samples[:, 0]), np.ones(160), "same")
    beats, _ = find_peaks(smooth, height=smooth.max() / 4, distance=RATE_HZ // 4)
    assert len(beats) == 16
    bpm = 60 * RATE_HZ / np.polyfit(np.arange(16), beats, 1)[0]
    assert bpm == pytest.approx(120 * factor, rel=0.002)
    assert beats[0] / RATE_HZ == pytest.approx(0.25 / factor, abs=0.01)  # and none of it is late

    tone = find(sine(2), "stretch", lambda got: got == factor)
    assert peak_hz(tone.samples[:, 0]) == pytest.approx(440, rel=0.005)


def test_pitch_and_stretch_together_are_both_exact():
    tone = sine(3)
    for seed in range(200):
        variant = vary(tone, RATE_HZ, ["pitch", "stretch"], seed, **BOUNDS)
        if len(variant.operations) == 2:
            break
    semitones, factor = variant.operations.values()
    assert len(variant.samples) == round(len(tone) / factor)
    wanted_hz = 440 * 2 ** (semitones / 12)
    assert peak_hz(variant.samples[:, 0]) == pytest.approx(wanted_hz, rel=0.001)


def test_pitch_leaves_the_beats_where_they_are():
    clicks = np.zeros((3 * RATE_HZ, 1), np.float32)
    places = np.arange(RATE_HZ // 4, 3 * RATE_HZ, RATE_HZ // 2)
    clicks[places] = 0.8
    for semitones in (-2, 2):
        variant = find(clicks, "pitch", lambda got, wanted=semitones: got == wanted)
        smooth = np.convolve(np.abs(variant.samples[:, 0]), np.ones(160), "same")
        beats, _ = find_peaks(smooth, height=smooth.max() / 4, distance=RATE_HZ // 4)
        assert np.abs(beats - places).max() < 0.01 * RATE_HZ


def test_pitch_and_stretch_leave_the_ends_as_loud_as_the_middle():
    for seed in range(12):
        variant = vary(sine(1), RATE_HZ, ["pitch", "stretch"], seed, **BOUNDS)
        for part in (variant.samples[:480], variant.samples[-480:]):
            assert 20 * np.log10(rms(part) / rms(sine(1))) > -2


def test_noise_and_gain_are_what_they_say():
    tone = sine(2)
    noisy = vary(tone, RATE_HZ, ["noise"], 1, **BOUNDS)
    snr_db = 20 * np.log10(rms(tone) / rms(noisy.samples - tone))
    assert 30 <= noisy.operations["noise_snr_db"] <= 50
    assert snr_db == pytest.approx(noisy.operations["noise_snr_db"], abs=0.2)
    for seed in range(20):
        variant = vary(tone, RATE_HZ, ["gain"], seed, **BOUNDS)
        gain_db = variant.operations["gain_db"]
        assert 1 <= abs(gain_db) <= 6 and gain_db <= 3
        assert 20 * np.log10(rms(variant.samples) / rms(tone)) == pytest.approx(gain_db, abs=0.01)


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 48_000])
def test_the_equaliser_is_gentle(rate_hz):
    impulse = np.zeros((rate_hz, 1), np.float32)
    impulse[100] = 0.5
    for seed in range(20):
        variant = vary(impulse, rate_hz, ["eq"], seed, **BOUNDS)
        response = np.abs(np.fft.rfft(variant.samples[:, 0])) / 0.5
        response_db = 20 * np.log10(
            response / np.float64(10 ** (variant.operations.get("gain_db", 0) / 20))
        )
        assert 0.8 < np.abs(response_db[20:]).max() < 5
        assert 1 <= abs(variant.operations["eq_db"]) <= 4


def test_the_same_seed_gives_the_same_bytes_and_the_world_stays_as_it_was():
    samples, names = hiss(1, channels=2), tuple(OPERATIONS)
    first = [vary(samples, RATE_HZ, names, seed, **BOUNDS) for seed in range(8)]
    random.seed(1), np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tobytes()
    again = [vary(samples, RATE_HZ, names[::-1], seed, **BOUNDS) for seed in range(7, -1, -1)][::-1]
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before
    for one, other in zip(first, again, strict=True):
        assert one.operations == other.operations
        assert one.samples.tobytes() == other.samples.tobytes()
    assert len({variant.samples.tobytes() for variant in first}) == 8


def test_asking_for_more_leaves_the_rest_as_it_was():
    samples = hiss(0.5)
    for seed in range(20):
        few = vary(samples, RATE_HZ, ["pitch", "stretch"], seed, **BOUNDS).operations
        many = vary(samples, RATE_HZ, list(OPERATIONS), seed, **BOUNDS).operations
        assert {"pitch_semitones", "tempo_factor"} & many.keys() <= few.keys()
        assert all(few[name] == many[name] for name in few.keys() & many.keys())


def test_something_is_always_done_and_everything_sometimes():
    samples, counts = hiss(0.2, rate_hz=8000), dict.fromkeys(OPERATIONS, 0)
    for seed in range(300):
        variant = vary(samples, 8000, list(OPERATIONS), seed, **BOUNDS)
        assert variant.operations
        for name in OPERATIONS:
            counts[name] += any(name in key or (key == "tempo_factor" and name == "stretch")
                                for key in variant.operations)  # fmt: skip
    assert all(120 < counts[name] < 190 for name in ("pitch", "stretch", "eq", "noise")), counts
    assert 210 < counts["gain"] < 270, counts
    for name in OPERATIONS:
        done = vary(samples, 8000, [name], 3, **BOUNDS)
        assert done.operations and not np.array_equal(done.samples, samples)


@pytest.mark.parametrize("rate_hz", [8000, 22_050, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_loud_short_and_silent_clips(rate_hz, channels):
    loud = hiss(0.2, channels, rate_hz, level=0.9)
    silent = np.zeros_like(loud)
    for seed in range(12):
        variant = vary(loud, rate_hz, list(OPERATIONS), seed, **BOUNDS)
        assert variant.samples.dtype == np.float32 and variant.samples.shape[1] == channels
        assert rms(variant.samples) > 0.005 and np.abs(variant.samples).max() <= 1.0
        assert len(variant.samples) >= len(loud)  # as short as allowed: never made shorter
        quiet = vary(silent, rate_hz, list(OPERATIONS), seed, **BOUNDS)
        assert not quiet.samples.any() and np.isfinite(quiet.samples).all()


def test_lengths_stay_within_their_bounds():
    samples = hiss(1)
    lengths = set()
    for seed in range(30):
        variant = vary(samples, RATE_HZ, ["stretch"], seed, min_s=0.95, max_s=1.03)
        factor = variant.operations["tempo_factor"]
        assert 0.02 <= abs(factor - 1) <= 0.08
        assert 0.95 <= len(variant.samples) / RATE_HZ <= 1.03
        assert len(variant.samples) == min(round(len(samples) / factor), round(1.03 * RATE_HZ))
        lengths.add(len(variant.samples))
    assert len(lengths) > 5


def test_channels_keep_their_phase():
    """Equal channels stay equal to -60 dB: the stretcher rounds each one's faint bins by itself."""
    mono = sine(1) + sine(1, 660)
    both = np.concatenate([mono, mono], axis=1)
    opposed = np.concatenate([mono, -0.5 * mono], axis=1)
    for seed in range(8):
        same = vary(both, RATE_HZ, ["pitch", "stretch", "eq", "gain"], seed, **BOUNDS).samples
        assert np.allclose(same[:, 0], same[:, 1], atol=6e-4)
        other = vary(opposed, RATE_HZ, ["pitch", "stretch", "eq"], seed, **BOUNDS).samples
        assert np.allclose(-0.5 * other[:, 0], other[:, 1], atol=6e-4)


def test_names_are_checked():
    assert check_operations(["gain", "pitch", "gain"]) == ("pitch", "gain")
    assert check_operations(["gain"], voice=True) == ("gain",)
    with pytest.raises(UserError, match="no augmentation 'strech' - did you mean 'stretch'"):
        check_operations(["gain", "strech"])
    with pytest.raises(UserError, match="no pitch change for voices"):
        check_operations(["gain", "pitch"], voice=True)
    with pytest.raises(UserError, match="without an operation"):
        check_operations([])


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    with pytest.raises(UserError) as caught:
        vary(hiss(0.2), RATE_HZ, ["gain"], 0, **BOUNDS)
    assert str(caught.value) == (
        "augmentation needs audiomentations - pip install tunesmith[augment]"
    )
