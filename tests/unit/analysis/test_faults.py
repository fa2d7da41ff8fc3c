import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from tunesmith.analysis.faults import FAULTS, bandwidth_hz, find_faults

RATE_HZ = 44_100


def time_s(seconds, rate_hz=RATE_HZ):
    return np.arange(round(seconds * rate_hz)) / rate_hz


def stereo(left, right=None):
    return np.stack([left, left if right is None else right], axis=1).astype(np.float32)


def mono(wave):
    return np.asarray(wave, np.float32)[:, None]


def stored(samples, seed=0):
    rng = np.random.default_rng(seed)
    dither = rng.random(samples.shape) - rng.random(samples.shape)
    return (np.round(samples * 32767 + dither) / 32768).astype(np.float32)


def music(seconds=4.0, rate_hz=RATE_HZ, seed=0):
    """Notes that start and stop, over a little noise; peaks at one half: float32 ``[T, 2]``."""
    rng = np.random.default_rng(seed)
    time = time_s(seconds, rate_hz)
    out = 0.003 * rng.standard_normal((len(time), 2))
    for start in np.arange(0, seconds, 0.25):
        part = slice(round(start * rate_hz), round((start + 0.6) * rate_hz))
        since = time[part] - start
        hz = 55 * 2 ** (rng.integers(0, 36) / 12)
        wave = sum(np.sin(2 * np.pi * hz * k * since) / k for k in range(1, 6))
        out[part] += (np.exp(-4 * since) * wave)[:, None] * rng.uniform(0.3, 1, 2)
    return (0.5 * out / np.abs(out).max()).astype(np.float32)


def names(samples, rate_hz=RATE_HZ):
    found = find_faults(samples, rate_hz)
    for fault in found:
        assert fault.name in FAULTS and np.isfinite(fault.figure)
        assert fault.reason and "\n" not in fault.reason
    order = [list(FAULTS).index(fault.name) for fault in found]
    assert order == sorted(set(order))
    return [fault.name for fault in found]


def test_good_sound_has_no_faults():
    assert names(music()) == []
    assert names(stored(music(seed=1))) == []


# Clipping


@pytest.mark.parametrize("turned_down", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("which", ["both", "one channel", "one polarity"])
def test_clipping_at_any_ceiling(turned_down, which):
    samples = 4 * music(seed=2)
    if which == "one channel":
        samples[:, 1] /= 4
        samples[:, 0] = samples[:, 0].clip(-1, 1)
    else:
        samples = samples.clip(-10 if which == "one polarity" else -1, 1)
        samples /= np.abs(samples).max()
    assert names(stored(turned_down * samples)) == ["clipping"]


def test_clipping_figure_counts_flat_samples():
    wave = 1.25 * np.sin(2 * np.pi * 441 * time_s(1.0))
    (fault,) = find_faults(mono(wave.clip(-1, 1)), RATE_HZ)
    # |sin| > 0.8 for that share of a period.
    assert fault.figure == pytest.approx(100 * (1 - 2 * np.arcsin(0.8) / np.pi), abs=2.5)
    assert fault.unit == "% of samples"


@pytest.mark.parametrize("kind", ["limited", "one peak", "bass at full scale", "normalised"])
def test_what_is_not_clipping(kind):
    samples = {
        "limited": np.tanh(3 * music(seed=3)),
        "one peak": music(seed=3),
        "bass at full scale": stereo(*np.sin(2 * np.pi * 40 * time_s(2) + np.array([[0], [1]]))),
        "normalised": 2 * music(seed=3),
    }[kind]
    if kind == "one peak":
        samples[5000:5010] = 1.0
    assert "clipping" not in names(stored(0.99 * samples))


@pytest.mark.parametrize("duty", [0.5, 0.25])
def test_square_waves_are_not_clipped(duty):
    wave = 0.4 * signal.square(2 * np.pi * 220 * time_s(1), duty)
    assert "clipping" not in names(mono(wave - wave.mean()))
    chips = wave + 0.2 * signal.square(2 * np.pi * 331 * time_s(1))
    assert "clipping" not in names(mono(chips + 0.1 * signal.square(2 * np.pi * 523 * time_s(1))))


def square_lead(seed, seconds=4.0):
    """One voice of square notes with rests, without corners (PolyBLEP): float32 ``[T, 1]``."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(round(seconds / 0.2)):
        step = 110 * 2 ** (rng.integers(0, 36) / 12) / RATE_HZ
        phase = np.arange(round(0.2 * RATE_HZ)) * step % 1
        wave = np.where(phase < 0.5, 1.0, -1.0)
        for edge, sign in ((0.0, 1), (0.5, -1)):
            since = (phase - edge) % 1
            after, before = since < step, since > 1 - step
            wave[after] -= sign * (since[after] / step - 1) ** 2
            wave[before] += sign * ((since[before] - 1) / step + 1) ** 2
        wave[round(0.17 * RATE_HZ) :] = 0
        parts.append(0.5 * wave * (rng.random() > 0.2))
    return mono(np.concatenate(parts))


@pytest.mark.parametrize("seed", range(3))
def test_a_band_limited_square_lead_is_not_clipped(seed):
    lead = square_lead(seed)
    assert "clipping" not in names((np.round(lead * 32768) / 32768).astype(np.float32))
    assert "clipping" not in names(stored(lead))


# Silence


@pytest.mark.parametrize("floor", [0.0, 1e-4])
def test_mostly_silent(floor):
    samples = music(seed=4)
    samples[: round(0.75 * len(samples))] = 0
    samples += floor * np.random.default_rng(0).standard_normal(samples.shape)
    (fault,) = find_faults(samples.astype(np.float32), RATE_HZ)
    assert fault.name == "silence" and fault.figure == pytest.approx(75, abs=2)


def test_rests_and_quiet_recordings_are_not_silence():
    samples = music(seed=5)
    for start in (0.5, 1.5, 2.5):  # rests for 45 % of the time
        samples[round(start * RATE_HZ) : round((start + 0.6) * RATE_HZ)] = 0
    assert names(samples) == []
    assert "silence" not in names(0.02 * music(seed=5))


@pytest.mark.parametrize(("every_s", "sounds_s"), [(1.0, 0.05), (0.5, 0.1), (2.0, 0.3)])
def test_sparse_music_is_not_silence(every_s, sounds_s):
    time = time_s(12)
    wave = 0.4 * np.sin(2 * np.pi * 1000 * time) * (time % every_s < sounds_s)
    assert "silence" not in names(mono(wave))


def test_a_short_clip_that_is_mostly_dead_is_silence():
    samples = music(2.0, seed=4)
    samples[round(0.5 * RATE_HZ) :] = 0
    assert "silence" in names(samples)


@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("level", [0.0, 1e-5, 1e-4])
def test_silent_throughout_is_the_only_fault(channels, level):
    noise = level * np.random.default_rng(0).standard_normal((RATE_HZ, channels))
    (fault,) = find_faults(noise.astype(np.float32), RATE_HZ)
    assert (fault.name, fault.figure) == ("silence", 100.0)


# Offset


@pytest.mark.parametrize("offset", [0.01, -0.03, 0.2])
def test_the_figure_is_the_offset(offset):
    wave = 0.4 * np.sin(2 * np.pi * 55 * time_s(2.3)) + offset
    (fault,) = find_faults(mono(wave), RATE_HZ)
    assert fault.name == "dc" and fault.figure == pytest.approx(100 * offset, rel=1e-2)
    assert fault.unit == "% of full scale"


def test_a_quiet_recording_is_judged_by_its_own_level():
    quiet = 0.01 * np.sin(2 * np.pi * 300 * time_s(1))
    assert names(mono(quiet + 0.002)) == ["dc"]
    assert names(mono(10 * quiet + 0.002)) == []


def test_a_lopsided_instrument_has_no_offset():
    time = time_s(4)
    plays = (time % 1.0) < 0.5
    wave = plays * (0.3 * np.sin(2 * np.pi * 300 * time) + 0.02)
    assert names(mono(wave)) == []


# Hum


def comb(mains_hz, seconds, level, rate_hz=RATE_HZ):
    time = time_s(seconds, rate_hz)
    return sum(np.sin(2 * np.pi * mains_hz * k * time + k) / k for k in range(1, 7)) * level


@pytest.mark.parametrize("mains_hz", [49.9, 50.0, 60.0, 60.2])
@pytest.mark.parametrize("seconds", [4.0, 12.0])
def test_mains_hum_under_music(mains_hz, seconds):
    hum = comb(mains_hz, seconds, 0.03, 16_000)
    samples = music(seconds, 16_000, seed=6) + hum[:, None].astype(np.float32)
    (fault,) = find_faults(samples, 16_000)
    assert fault.name == "hum" and f"{round(mains_hz)} Hz" in fault.reason
    level_db = 10 * np.log10(np.mean(hum**2))
    assert fault.figure == pytest.approx(level_db, abs=3)


def test_bass_notes_and_drones_are_not_hum():
    time = time_s(6)
    partials = [(k, 1 / k) for k in range(1, 9)]
    pad = sum(a * np.sin(2 * np.pi * 55 * k * time) for k, a in partials)
    assert "hum" not in names(mono(0.1 * pad))
    slides = 60 + 3 * np.sin(2 * np.pi * 0.5 * time)
    turn = 2 * np.pi * np.cumsum(slides) / RATE_HZ
    assert "hum" not in names(mono(0.1 * sum(a * np.sin(k * turn) for k, a in partials)))
    # Notes on the mains' own pitch that start and stop.
    notes = comb(60.0, 6, 0.2) * np.exp(-6 * (time % 0.5))
    noise = 0.003 * np.random.default_rng(0).standard_normal(len(time))
    assert "hum" not in names(mono(notes + noise))
    # A loud drone on it that is all there is.
    assert "hum" not in names(mono(comb(50.0, 6, 0.3)))


@pytest.mark.parametrize(("step_s", "fades"), [(0.1, True), (0.2, False)])
def test_notes_on_an_exact_grid_are_not_hum(step_s, fades):
    # Its lines lie at all multiples of 10 or 5 Hz, hence at those of the mains.
    time = time_s(step_s)
    shape = np.exp(-5 * time / step_s) if fades else time < 0.8 * step_s
    for seed in (3, 10, 11):
        rng = np.random.default_rng(seed)
        wave = []
        for _ in range(round(10 / step_s)):
            step = rng.choice([0, 2, 4, 5, 7, 9, 11, 12]) - 12 * rng.integers(0, 2)
            hz = 220 * 2 ** ((step - 9) / 12)
            wave.append(0.15 * (signal.square(2 * np.pi * hz * time) + 1) * shape)
        assert "hum" not in names(mono(np.concatenate(wave)))


# Channels


@pytest.mark.parametrize("gain", [1.0, 0.5, -1.0])
def test_the_same_channel_twice(gain):
    left = music(seed=7)[:, 0]
    assert names(stored(stereo(left, gain * left))) == ["mono_as_stereo"]


@pytest.mark.parametrize("delay", [1, -5, 30])
def test_the_same_channel_later(delay):
    left = music(seed=7)[:, 0]
    assert names(stored(stereo(left, 0.8 * np.roll(left, delay)))) == ["mono_as_stereo"]


def test_one_silent_channel():
    left = music(seed=7)[:, 0]
    (fault,) = find_faults(stereo(left, 0 * left), RATE_HZ)
    assert fault.name == "mono_as_stereo" and "silent" in fault.reason


def test_one_channel_is_never_mono_as_stereo():
    assert names(music(seed=7)[:, :1]) == []


def test_nearly_the_same_is_stereo():
    left, right = music(seed=7).T
    assert names(stereo(left, left + 0.02 * right)) == []


# Bandwidth


def noise(edge_hz, rate_hz=RATE_HZ, seconds=2.0, seed=0):
    """Noise with nothing above an edge, by its spectrum."""
    count = round(seconds * rate_hz)
    bins = np.fft.rfft(np.random.default_rng(seed).standard_normal((count, 2)), axis=0)
    bins[np.fft.rfftfreq(count, 1 / rate_hz) > edge_hz] = 0
    wave = np.fft.irfft(bins, count, axis=0)
    return stored(0.2 * wave / np.abs(wave).max())


@pytest.mark.parametrize(("rate_hz", "edge_hz"), [(44_100, 8000), (48_000, 11_000), (16_000, 4000)])
def test_an_edge_is_found_where_it_is(rate_hz, edge_hz):
    samples = noise(edge_hz, rate_hz)
    (fault,) = find_faults(samples, rate_hz)
    assert fault.name == "false_bandwidth"
    assert fault.figure == pytest.approx(edge_hz, abs=rate_hz / 80)
    assert bandwidth_hz(samples, rate_hz) == fault.figure


@pytest.mark.parametrize(
    ("low_hz", "rate_hz"), [(16_000, 44_100), (16_000, 48_000), (22_050, 44_100), (8000, 16_000)]
)
def test_the_mirror_of_a_short_resampling_filter_is_found(low_hz, rate_hz):
    # A filter that is wider than the gap, as that of ffmpeg: images fade above the true edge.
    source = music(4.0, low_hz, seed=8) + 0.02 * noise(low_hz / 2, low_hz, 4.0)
    samples = signal.resample_poly(source, rate_hz // 50, low_hz // 50, axis=0)
    samples = stored(0.5 * samples / np.abs(samples).max())
    (fault,) = find_faults(samples, rate_hz)
    assert (fault.name, fault.figure) == ("false_bandwidth", low_hz / 2)
    assert bandwidth_hz(samples, rate_hz) == low_hz / 2


@pytest.mark.parametrize("hz", [100.0, 125.0, 250.0, 440.0])
def test_partials_on_both_sides_of_half_a_usual_rate_are_no_mirror(hz):
    time = time_s(3)
    comb_of = sum(np.sin(2 * np.pi * hz * k * time + k * k) / k for k in range(1, int(20_000 / hz)))
    assert "false_bandwidth" not in names(stored(mono(0.1 * comb_of)))


@pytest.mark.parametrize("order", [1, 2, 4])
def test_dark_sound_is_not_narrow(order):
    low = signal.butter(order, 1500, fs=RATE_HZ, output="sos")
    assert names(stored(signal.sosfilt(low, noise(22_050), axis=0))) == []


def test_few_partials_are_no_edge():
    time = time_s(2)
    organ = sum(np.sin(2 * np.pi * 440 * k * time) for k in range(1, 13))
    assert names(stored(mono(0.03 * organ))) == []
    assert names(stored(mono(0.3 * np.sin(2 * np.pi * 5000 * time)))) == []


def test_an_edge_near_the_top_is_no_fault():
    assert names(noise(17_500)) == []


def test_bandwidth_of_what_has_no_edge():
    assert bandwidth_hz(np.zeros((4410, 2), np.float32), RATE_HZ) == 0.0
    assert bandwidth_hz(noise(22_050), RATE_HZ) == RATE_HZ / 2
    tone = mono(np.sin(2 * np.pi * 1000 * time_s(1)))
    assert bandwidth_hz(tone, RATE_HZ) == pytest.approx(1000, abs=RATE_HZ / 100)


# Anything


@settings(max_examples=60, deadline=None)
@given(
    rate_hz=st.sampled_from([8000, 11_025, 48_000, 96_000, 384_000]),
    channels=st.integers(1, 8),
    seconds=st.floats(0.001, 0.5),
    kind=st.sampled_from(["noise", "tone", "zeros", "ones", "impulse", "huge", "tiny"]),
)
def test_anything_finite_is_judged(rate_hz, channels, seconds, kind):
    count = max(1, round(seconds * rate_hz))
    rng = np.random.default_rng(0)
    samples = {
        "noise": rng.uniform(-1, 1, (count, channels)),
        "tone": np.sin(np.arange(count) / 5)[:, None] * np.ones(channels),
        "zeros": np.zeros((count, channels)),
        "ones": np.ones((count, channels)),
        "impulse": np.eye(count, channels),
        "huge": 1e6 * rng.standard_normal((count, channels)),
        "tiny": 1e-20 * rng.standard_normal((count, channels)),
    }[kind].astype(np.float32)
    names(samples, rate_hz)
    assert 0 <= bandwidth_hz(samples, rate_hz) <= rate_hz / 2
    assert find_faults(samples[:0], rate_hz) == []


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), gain=st.floats(0.1, 1.0), clip=st.booleans())
def test_faults_do_not_depend_on_gain_or_order_of_channels(seed, gain, clip):
    samples = 2 * music(3.0, seed=seed)
    if clip:
        samples = (3 * samples).clip(-1, 1)
    expected = names(samples)
    assert expected == (["clipping"] if clip else [])
    assert names((gain * samples).astype(np.float32)) == expected
    assert names(samples[:, ::-1]) == expected


def test_a_low_cliff_down_to_nothing_but_rounding_is_one_and_a_dark_slope_is_not():
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((10 * 44_100, 2))
    dark = signal.sosfilt(signal.butter(4, 2500, fs=44_100, output="sos"), noise, axis=0)
    dark *= 0.01 / np.abs(dark).max()
    cut = soxr.resample(soxr.resample(dark, 44_100, 16_000), 16_000, 44_100)

    def stored(samples):
        return (np.rint(samples * 32768) / 32768).astype(np.float32)

    assert [fault.name for fault in find_faults(stored(cut), 44_100)] == ["false_bandwidth"]
    assert find_faults(stored(dark), 44_100) == []
