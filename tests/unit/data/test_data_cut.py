import io

import numpy as np
import pytest
import soundfile
from sounds import RATE_HZ, tone, write

from tunesmith.data.cut import CutRecord, CutSettings, cut, flac, read_record

SETTINGS = CutSettings(None, None, 2.0, 5.0)


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


def test_a_float_recording_keeps_24_bits(tmp_path):
    samples = tone(4.0)
    soundfile.write(tmp_path / "x.wav", samples, RATE_HZ, subtype="FLOAT")
    record = cut(tmp_path / "x.wav", tmp_path / "out", SETTINGS)
    assert soundfile.info(tmp_path / "out" / record.clips[0].file).subtype == "PCM_24"


def test_clips_of_a_recording_join_to_the_recording(tmp_path):
    path = write(tmp_path / "x.flac", 33.0, channels=2)
    record = cut(path, tmp_path / "out", SETTINGS)
    joined = [soundfile.read(tmp_path / "out" / c.file, dtype="int16")[0] for c in record.clips]
    assert np.array_equal(np.concatenate(joined), soundfile.read(path, dtype="int16")[0])
    assert record.decoded_s == 33.0
    assert read_record(tmp_path / "out") == record == CutRecord.from_json(record.to_json())


def test_a_bad_end_leaves_no_clips(tmp_path):
    samples = tone(20.0)
    samples[-1] = np.nan
    soundfile.write(tmp_path / "x.wav", samples, RATE_HZ, subtype="FLOAT")
    record = cut(tmp_path / "x.wav", tmp_path / "out", SETTINGS)
    assert not record.clips and len(record.rejected) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["record.json"]


def test_a_torn_folder_is_no_record(tmp_path):
    record = cut(write(tmp_path / "x.wav", 8.0), tmp_path / "out", SETTINGS)
    clip = tmp_path / "out" / record.clips[0].file
    clip.write_bytes(clip.read_bytes()[:-1])
    assert read_record(tmp_path / "out") is None


def test_what_is_made_is_in_the_key():
    keys = {
        CutSettings(rate, channels, low, 5.0).key(sha)
        for rate in (None, 16000)
        for channels in (None, 1)
        for low in (1.0, 2.0)
        for sha in "ab"
    }
    assert len(keys) == 16
