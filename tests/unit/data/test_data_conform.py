import io

import numpy as np
import pytest
import soundfile
from sounds import RATE_HZ, tone

from tunesmith.data.conform import PEAK_DBTP, conform, flac, normalising_gain_db
from tunesmith.data.recording import BadRecording


def decoded(data, dtype):
    return soundfile.read(io.BytesIO(data), dtype=dtype, always_2d=True)[0]


def test_16_bit_samples_come_through_exactly():
    whole = np.arange(-32768, 32768, dtype=np.int16)[:, None]
    data, gain_db = flac((whole / 32768).astype(np.float32), RATE_HZ, 16)
    assert gain_db == 0 and np.array_equal(decoded(data, "int16"), whole)


def test_24_bit_samples_come_through_exactly():
    whole = np.random.default_rng(0).integers(-(1 << 23), 1 << 23, (20_000, 2), dtype=np.int32)
    data, gain_db = flac((whole / (1 << 23)).astype(np.float32), RATE_HZ, 24)
    assert gain_db == 0 and np.array_equal(decoded(data, "int32") >> 8, whole)


@pytest.mark.parametrize("bits", [16, 24])
def test_loud_sound_is_turned_down_not_clipped(bits):
    samples = 3.0 * np.sin(np.arange(8000) / 20)[:, None].astype(np.float32)
    data, gain_db = flac(samples, RATE_HZ, bits)
    got = decoded(data, "float64")
    assert gain_db == pytest.approx(20 * np.log10(1 / 3), abs=0.01)
    assert np.abs(got * 3 - samples).max() < 1e-3
    assert (np.abs(got) > 0.9999).mean() < 0.02  # no plateau


def test_normalising_reaches_the_loudness_or_stops_at_the_peak():
    assert normalising_gain_db(-23.0, -10.0, -16.0) == 7.0
    assert normalising_gain_db(-23.0, -10.0, -30.0) == -7.0
    assert normalising_gain_db(-23.0, -3.0, -16.0) == PEAK_DBTP + 3.0
    assert normalising_gain_db(None, -60.0, -16.0) == 0.0
    assert normalising_gain_db(-23.0, -3.0, None) == 0.0


def test_a_gain_is_what_the_file_holds():
    samples = 0.1 * tone(2.0)
    data, gain_db = flac(samples, RATE_HZ, 24, 6.0)
    assert gain_db == 6.0
    assert np.abs(decoded(data, "float64") - samples * 10 ** (6 / 20)).max() < 1e-6


def test_channels_are_mixed_and_doubled():
    stereo = tone(1.0, channels=2)
    assert np.allclose(conform(stereo, RATE_HZ, None, 1)[:, 0], stereo.mean(axis=1), atol=1e-7)
    mono = tone(1.0)
    assert np.array_equal(conform(mono, RATE_HZ, None, 2), np.repeat(mono, 2, axis=1))
    assert conform(stereo, RATE_HZ, None, None) is stereo
    with pytest.raises(BadRecording, match="5 channels cannot be mapped to 2"):
        conform(np.zeros((10, 5), np.float32), RATE_HZ, None, 2)


@pytest.mark.parametrize("wanted_hz", [4000, 16_000, 44_100])
def test_resampling_keeps_pitch_and_length(wanted_hz):
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    samples = np.sin(2 * np.pi * 440 * time_s)[:, None].astype(np.float32)
    out = conform(samples, RATE_HZ, wanted_hz, None)
    assert out.shape == (2 * wanted_hz, 1) and out.dtype == np.float32
    at = np.arange(len(out)) / wanted_hz
    middle = slice(wanted_hz // 10, -wanted_hz // 10)  # the edges ring: nothing lies beyond them
    assert np.abs(out[middle, 0] - np.sin(2 * np.pi * 440 * at)[middle]).max() < 1e-3
