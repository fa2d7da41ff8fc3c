import os
import zipfile

import numpy as np
import pytest
import soundfile
from sounds import RATE_HZ, tone, write

from tunesmith.data.recording import BadRecording, Limits, Recording
from tunesmith.data.sources import find_recordings
from tunesmith.errors import UserError


def decode(path, **options):
    with Recording(path, **options) as recording:
        return np.concatenate(list(recording.blocks())), recording


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", 30.0, channels=2)
    samples, recording = decode(path)
    assert recording.sample_rate_hz == RATE_HZ and recording.channels == 2 and recording.bits == 16
    expected = tone(30.0, channels=2)
    assert samples.shape == expected.shape
    assert np.abs(samples - expected).max() <= 1 / 32768


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_lossy_formats_sound_the_same(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", 12.0, rate_hz=32000)
    samples, _ = decode(path)
    expected = tone(12.0, rate_hz=32000)
    assert abs(len(samples) - len(expected)) <= 4000
    shortest = min(len(samples), len(expected))
    assert np.corrcoef(samples[:shortest, 0], expected[:shortest, 0])[0, 1] > 0.98


def test_content_counts_not_the_extension(tmp_path):
    write(tmp_path / "x.flac").rename(tmp_path / "x.wav")
    assert len(decode(tmp_path / "x.wav")[0]) == 12 * RATE_HZ


def test_resampling_keeps_pitch_and_length(tmp_path):
    seconds, rate_hz = 20.0, 44100
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate_hz)) / rate_hz)
    soundfile.write(tmp_path / "a.wav", wave, rate_hz)
    samples, recording = decode(tmp_path / "a.wav", sample_rate_hz=16000)
    assert recording.sample_rate_hz == 16000
    assert len(samples) == 16000 * seconds
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16000)
    # Against the analytic sine, away from the filter's edges; -60 dB.
    assert np.abs(samples[800:-800, 0] - expected[800:-800]).max() < 5e-4


def test_channels_are_mapped(tmp_path):
    left, right = tone(2.0, 1), tone(2.0, 2)
    soundfile.write(tmp_path / "s.wav", np.hstack([left, right]), RATE_HZ, subtype="FLOAT")
    mono, _ = decode(tmp_path / "s.wav", channels=1)
    assert np.allclose(mono, (left + right) / 2, atol=1e-7)
    soundfile.write(tmp_path / "m.wav", left, RATE_HZ, subtype="FLOAT")
    stereo, _ = decode(tmp_path / "m.wav", channels=2)
    assert np.array_equal(stereo, np.hstack([left, left]))
    soundfile.write(tmp_path / "q.wav", np.hstack([left] * 4), RATE_HZ)
    with pytest.raises(BadRecording, match="4 channels"):
        decode(tmp_path / "q.wav", channels=2)


def bad(folder, kind):
    path = folder / "bad.wav"
    if kind == "text":
        path.write_text("this is no sound" * 100)
    elif kind == "noise":
        path = folder / "bad.mp3"
        path.write_bytes(np.random.default_rng(0).bytes(50_000))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.wav", b"RIFF" * 1000)
    elif kind == "nan":
        wave = tone(20.0)
        wave[15 * RATE_HZ] = np.nan
        soundfile.write(path, wave, RATE_HZ, subtype="FLOAT")
    elif kind == "inf":
        wave = tone(3.0)
        wave[-1] = np.inf
        soundfile.write(path, wave, RATE_HZ, subtype="FLOAT")
    elif kind == "truncated flac":
        path = write(folder / "bad.flac", 60.0)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind.startswith("truncated"):
        path = folder / f"bad.{kind.split()[1]}"
        opus = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
        write(path, 5.0, **opus)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 20])
    elif kind == "hours by its header":
        path = write(folder / "bad.flac", 1.0)
        data = bytearray(path.read_bytes())
        data[22:26] = (25_000 * RATE_HZ).to_bytes(4, "big")
        path.write_bytes(data)
    elif kind == "fewer frames than declared":
        # STREAMINFO's last 36 bits before the MD5: what a file cut between two frames looks like.
        path = write(folder / "bad.flac", 10.0)
        data = bytearray(path.read_bytes())
        data[22:26] = (20 * RATE_HZ).to_bytes(4, "big")
        path.write_bytes(data)
    elif kind == "channels":
        soundfile.write(path, np.zeros((100, 200)), RATE_HZ)
    elif kind == "other format":
        soundfile.write(path, tone(2.0), RATE_HZ, format="AU")
    elif kind == "header only":
        soundfile.write(path, np.zeros((0, 1)), RATE_HZ)
    elif kind == "rate":
        soundfile.write(path, tone(2.0), 4_000_000)
    return path


KINDS = {
    "text": "cannot be decoded",
    "noise": ".",
    "zip": "a zip archive, not sound",
    "truncated wav": r"cut short: 2\.5 of 5\.0 s",
    "truncated aiff": r"cut short: 2\.5 of 5\.0 s",
    "truncated ogg": "last page is missing",
    "truncated opus": "last page is missing",
    "hours by its header": r"6\.9 hours long by its header",
    "nan": r"15\.000 s is not a number",
    "inf": "is not a number",
    "truncated flac": "cut short|breaks off",
    "fewer frames than declared": "cut short|breaks off",
    "channels": "200 channels",
    "other format": "AU",
    "header only": "no sound",
    "rate": "4000000 Hz",
}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_files_give_one_line(tmp_path, kind):
    path = bad(tmp_path, kind)
    with pytest.raises(BadRecording, match=KINDS[kind]) as caught:
        decode(path)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_length_is_capped_while_decoding(tmp_path):
    path = write(tmp_path / "long.flac", 60.0)
    seen = 0
    with Recording(path, limits=Limits(max_s=20.0)) as recording:  # noqa: SIM117
        with pytest.raises(BadRecording, match="cut it first"):  # noqa: PT012
            for block in recording.blocks():
                seen += len(block)
    assert seen <= 20 * RATE_HZ


def test_blocks_are_bounded(tmp_path):
    path = write(tmp_path / "long.wav", 120.0)
    with Recording(path, sample_rate_hz=16000) as recording:
        assert max(len(block) for block in recording.blocks()) < 16000 * 20


def test_finding_skips_what_is_no_recording(tmp_path):
    for name in ("b/2.wav", "a.wav", ".hidden.wav", ".cache/x.wav", "notes/y.WAV"):
        write(tmp_path / name, 0.1)
    (tmp_path / "readme.md").write_text("x")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "song.MID").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.wav")
    found, rejected = find_recordings(tmp_path)
    assert [source.name for source in found] == ["a.wav", "b/2.wav", "notes/y.WAV"]
    reasons = {rejection.file: rejection.reason for rejection in rejected}
    assert "0 bytes" in reasons["empty.wav"]
    assert "notes" in reasons["song.MID"]
    assert "named pipe" in reasons["pipe.wav"]


def test_symbolic_link_loops_end_and_real_names_win(tmp_path):
    write(tmp_path / "z" / "x.wav", 0.1)
    (tmp_path / "z" / "up").symlink_to(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "z")
    (tmp_path / "self.wav").symlink_to(tmp_path / "self.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    found, rejected = find_recordings(tmp_path)
    assert [source.name for source in found] == ["z/x.wav"]
    assert [rejection.file for rejection in rejected] == ["gone.wav", "self.wav"]


def test_names_that_are_no_text(tmp_path):
    os.rename(write(tmp_path / "x.wav", 0.1), os.fsencode(tmp_path) + b"/\xff.wav")
    found, rejected = find_recordings(tmp_path)
    assert not found and "UTF-8" in rejected[0].reason
    rejected[0].file.encode()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb.wav", "a\\nb.wav"),
        ("\x1b[31m.wav", "\\x1b[31m.wav"),
        ("gnp\u202e3pm.wav", "gnp\\u202e3pm.wav"),
        ("größer 🎺.wav", "größer 🎺.wav"),
        ("x" * 251 + ".wav", "x" * 251 + ".wav"),
    ],
)
def test_names_stay_on_their_line(tmp_path, name, shown):
    write(tmp_path / "x.wav", 0.1).rename(tmp_path / name)
    found, rejected = find_recordings(tmp_path)
    assert [source.name for source in found] == [shown] and not rejected
    assert found[0].path.name == name


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "x.wav", 0.1)
    real = open

    def refuse(path, *rest, **options):  # the tests may run as root, whom no rights stop
        if str(path).endswith("x.wav"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **options)

    monkeypatch.setattr("builtins.open", refuse)
    found, rejected = find_recordings(tmp_path)
    assert not found and rejected[0].reason == "cannot be opened: Permission denied"
    with pytest.raises(BadRecording, match="Permission denied"):
        Recording(tmp_path / "x.wav")


def test_a_wav_from_a_pipe_has_no_length_and_is_taken(tmp_path):
    path = write(tmp_path / "x.wav", 5.0)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff" * 4
    path.write_bytes(data)
    assert len(decode(path)[0]) == 5 * RATE_HZ


@pytest.mark.parametrize(("suffix", "lossy"), [("wav", 0), ("flac", 0), ("ogg", 1), ("mp3", 1)])
def test_what_loses_something_says_so(tmp_path, suffix, lossy):
    with Recording(write(tmp_path / f"x.{suffix}", 1.0), sample_rate_hz=4000) as recording:
        assert recording.lossy == bool(lossy) and recording.source_rate_hz == RATE_HZ


def test_missing_source_is_the_users(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        find_recordings(tmp_path / "nowhere")
