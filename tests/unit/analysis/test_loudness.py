import numpy as np
import pytest

from tunesmith.analysis.loudness import (
    integrated_lufs,
    k_weighting,
    loudness_range_lu,
    true_peak_dbtp,
)


def sine(level_db, length_s=20.0, hz=1000.0, rate_hz=48_000, channels=2):
    """What EBU Tech 3341 and 3342 test with: float32 ``[T, C]``."""
    time_s = np.arange(round(length_s * rate_hz)) / rate_hz
    wave = 10 ** (level_db / 20) * np.sin(2 * np.pi * hz * time_s)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def test_the_standard_s_own_coefficients_at_48_khz():
    # BS.1770-4, tables 1 and 2.
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285]
    shelf += [1.0, -1.69065929318241, 0.73248077421585]
    high_pass = [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621]
    assert np.allclose(k_weighting(48_000), [shelf, high_pass], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 96_000, 384_000])
def test_the_weighting_is_the_same_sound_at_every_rate(rate_hz):
    def gain_db(hz, rate_hz):
        turn = np.exp(-2j * np.pi * hz / rate_hz) ** np.arange(3)
        return sum(20 * np.log10(abs(s[:3] @ turn / (s[3:] @ turn))) for s in k_weighting(rate_hz))

    for hz in (20, 100, 500, 1000, 2000, 4000):
        # The bilinear transform bends frequencies, at 22 kHz by some per cent.
        assert gain_db(hz, rate_hz) == pytest.approx(gain_db(hz, 48_000), abs=0.15)


@pytest.mark.parametrize("rate_hz", [44_100, 48_000, 192_000])
@pytest.mark.parametrize("level_db", [-23, -33])
def test_a_stereo_sine_has_the_loudness_of_its_level(level_db, rate_hz):
    # EBU Tech 3341, cases 1 and 2.
    sound = sine(level_db, 5, rate_hz=rate_hz)
    assert integrated_lufs(sound, rate_hz) == pytest.approx(level_db, abs=0.03)


def test_quiet_stretches_are_gated():
    # EBU Tech 3341, case 3 and 4, shortened.
    sound = np.concatenate([sine(-36, 5), sine(-23, 30), sine(-36, 5)])
    assert integrated_lufs(sound, 48_000) == pytest.approx(-23, abs=0.1)
    sound = np.concatenate([sine(-72, 5), sound, sine(-72, 5)])
    assert integrated_lufs(sound, 48_000) == pytest.approx(-23, abs=0.1)


def test_surround_channels_count_more_and_the_lfe_not_at_all():
    # EBU Tech 3341, case 6.
    levels = [-28, -28, -24, -200, -30, -30]
    sound = np.concatenate([sine(level, 5, channels=1) for level in levels], axis=1)
    assert integrated_lufs(sound, 48_000) == pytest.approx(-23, abs=0.1)
    sound[:, 3] = 0.5
    assert integrated_lufs(sound, 48_000) == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize(
    ("levels", "lu"),
    [((-20, -30), 10), ((-20, -15), 5), ((-40, -20), 20), ((-50, -35, -20, -35, -50), 15)],
)
def test_loudness_range_of_steps(levels, lu):
    # EBU Tech 3342, cases 1 to 4.
    sound = np.concatenate([sine(level, rate_hz=8000) for level in levels])
    assert loudness_range_lu(sound, 8000) == pytest.approx(lu, abs=1)


@pytest.mark.parametrize(("parts", "phase"), [(4, 0), (4, 45), (6, 60), (8, 67.5)])
def test_true_peak_lies_between_the_samples(parts, phase):
    # EBU Tech 3341, cases 15 to 18: half of full scale, but no sample there; +0.2/-0.4 dB.
    frames = np.arange(9600)
    wave = 0.5 * np.sin(2 * np.pi * frames / parts + np.radians(phase))
    wave *= np.minimum(1, np.minimum(frames, frames[::-1]) / 1000)
    got = true_peak_dbtp(wave[:, None].astype(np.float32), 48_000)
    assert -6.4 <= got <= -5.8


def test_true_peak_is_found_wherever_it_is_and_is_never_below_the_samples():
    rng = np.random.default_rng(0)
    for _ in range(20):
        sound = 0.1 * rng.uniform(-1, 1, (3000, 2)).astype(np.float32)
        at, channel = rng.integers(3000), rng.integers(2)
        sound[at, channel] = -0.9
        assert true_peak_dbtp(sound, 44_100) >= 20 * np.log10(0.9) - 1e-6
        # The noise around can add a little, and no more.
        assert true_peak_dbtp(sound, 44_100) < 20 * np.log10(1.2)


def test_what_has_no_loudness():
    assert integrated_lufs(np.zeros((48_000, 2), np.float32), 48_000) is None
    assert integrated_lufs(sine(-20, 0.39), 48_000) is None
    assert integrated_lufs(sine(-20, 0.4), 48_000) is not None
    assert integrated_lufs(sine(-80, 1), 48_000) is None
    assert loudness_range_lu(sine(-20, 3.0), 48_000) is None
    assert true_peak_dbtp(np.zeros((100, 1), np.float32), 48_000) == -120
    assert true_peak_dbtp(np.full((9, 1), 1e-30, np.float32), 48_000) == -120


def test_another_implementation_agrees():
    pyloudnorm = pytest.importorskip("pyloudnorm")
    rng = np.random.default_rng(1)
    sound = rng.standard_normal((88_200, 2)).astype(np.float32).cumsum(axis=0)
    sound -= sound.mean(axis=0)
    sound *= 0.5 / np.abs(sound).max()
    meter = pyloudnorm.Meter(44_100, filter_class="DeMan")
    assert integrated_lufs(sound, 44_100) == pytest.approx(
        meter.integrated_loudness(sound), abs=0.02
    )
