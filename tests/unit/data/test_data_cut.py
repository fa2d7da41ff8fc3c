import numpy as np
import soundfile
from sounds import RATE_HZ, tone, write

from tunesmith.data.cut import CutRecord, CutSettings, cut, read_record

SETTINGS = CutSettings(None, None, 2.0, 5.0)


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
    assert not record.clips and len(record.refused) == 1
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
