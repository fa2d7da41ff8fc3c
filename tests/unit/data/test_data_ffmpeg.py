import os
import shutil
import struct
import subprocess
import threading

import numpy as np
import pytest
import soundfile
from sounds import tone, write

from tunesmith.data import ffmpeg
from tunesmith.data.recording import BadRecording, Limits, Recording
from tunesmith.data.sources import find_recordings

needs_ffmpeg = pytest.mark.skipif(not ffmpeg.is_there(), reason="there is no ffmpeg here")
RATE_HZ = 32_000


def convert(source, target, *words):
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", f"file:{source}"]
    subprocess.run([*command, *words, f"file:{target}"], check=True)
    return target


def decode(path, **options):
    with Recording(path, **options) as recording:
        return np.concatenate(list(recording.blocks())), recording


@pytest.fixture
def wav(tmp_path):
    return write(tmp_path / "plain.wav", 3.0, channels=2, rate_hz=RATE_HZ)


@pytest.fixture(autouse=True)
def _nothing_left():
    """No process, thread or open file stays behind."""
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    yield
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


@needs_ffmpeg
@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize(("name", "codec"), [("x.m4a", "alac"), ("x.mka", "flac"), ("x.wv", "")])
def test_lossless_codecs_come_through_bit_for_bit(tmp_path, bits, name, codec):
    plain = tmp_path / "x.wav"
    soundfile.write(plain, tone(4.0, channels=2, rate_hz=RATE_HZ), RATE_HZ, subtype=f"PCM_{bits}")
    depth = ["-sample_fmt", "s32p"] if bits == 24 and codec != "flac" else []
    words = [*(["-c:a", codec] if codec else []), *depth]
    samples, recording = decode(convert(plain, tmp_path / name, *words))
    expected = soundfile.read(plain, dtype="float32", always_2d=True)[0]
    assert np.array_equal(samples, expected)
    assert (recording.bits, recording.lossy, recording.source_rate_hz) == (bits, False, RATE_HZ)


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["m4a", "aac", "webm", "mp2", "ac3", "wma", "mov", "M4A"])
def test_lossy_codecs_sound_the_same(tmp_path, wav, suffix):
    words = ["-ar", "48000"] if suffix == "ac3" else []
    samples, recording = decode(
        convert(wav, tmp_path / f"x.{suffix}", *words), sample_rate_hz=RATE_HZ
    )
    assert recording.lossy and recording.bits == 16 and recording.channels == 2
    expected = tone(3.0, channels=2, rate_hz=RATE_HZ)
    assert abs(len(samples) - len(expected)) <= 0.07 * RATE_HZ
    begin, count, most = 5000, RATE_HZ, 2500
    meant = expected[begin : begin + count, 0]
    around = samples[begin - most : begin + count + most, 0]
    energy = np.convolve(around**2, np.ones(count), "valid")
    likeness = np.correlate(around, meant) / np.sqrt(energy) / np.linalg.norm(meant)
    best = int(np.argmax(likeness)) - most
    # Raw streams tell no delay; in m4a the edit list takes it off.
    assert abs(best) <= (1 if suffix.lower() in ("m4a", "mov", "webm") else 2400)
    assert likeness.max() > 0.97


@needs_ffmpeg
@pytest.mark.parametrize(("name", "codec"), [("x.ogg", "libspeex"), ("x.wav", "ac3")])
def test_foreign_codecs_in_known_containers_get_a_second_chance(tmp_path, wav, name, codec):
    try:
        path = convert(wav, tmp_path / name, "-c:a", codec, "-ar", "32000")
    except subprocess.CalledProcessError:
        pytest.skip(f"this ffmpeg has no {codec}")
    samples, recording = decode(path)
    assert recording.lossy and len(samples) == pytest.approx(3 * RATE_HZ, rel=0.05)


@needs_ffmpeg
def test_one_bit_streams_become_sound(tmp_path):
    rate_hz, seconds = 2_822_400, 0.5
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate_hz * seconds)) / rate_hz)
    bits, error = np.zeros(len(wave), np.uint8), 0.0
    for i, value in enumerate(wave.tolist()):  # sigma-delta of the first order
        bits[i] = error + value >= 0
        error += value - (1.0 if bits[i] else -1.0)
    data = np.packbits(bits, bitorder="little").tobytes()
    data += bytes(-len(data) % 4096)
    head = struct.pack("<IIIIIIQII", 1, 0, 1, 1, rate_hz, 1, len(bits), 4096, 0)
    chunks = b"fmt " + struct.pack("<Q", 52) + head + b"data" + struct.pack("<Q", len(data) + 12)
    whole = b"DSD " + struct.pack("<QQQ", 28, 28 + len(chunks) + len(data), 0) + chunks + data
    (tmp_path / "x.dsf").write_bytes(whole)
    samples, recording = decode(tmp_path / "x.dsf")
    assert (recording.sample_rate_hz, recording.bits, recording.lossy) == (88_200, 24, False)
    middle = samples[20_000:30_000, 0]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 88_200 / len(middle) == pytest.approx(440, abs=10)


@needs_ffmpeg
@pytest.mark.parametrize(
    "name", ["-i.m4a", "%03d.m4a", "a:b.m4a", "concat:a|b.m4a", "http:x.m4a", "$(x) 'y'\n.m4a"]
)
def test_names_are_only_names(tmp_path, wav, name, monkeypatch):
    path = convert(wav, tmp_path / "x.m4a").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert decode(path.relative_to(tmp_path))[1].sample_rate_hz == RATE_HZ


@needs_ffmpeg
def test_files_that_name_other_files_open_nothing(tmp_path, wav):
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{wav}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{wav.name}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5 RTP/AVP 0\n",
    ):
        path = tmp_path / "x.m4a"
        path.write_text(text)
        with pytest.raises(ffmpeg.DecodeError, match="not taken"):
            ffmpeg.probe(path)
        with pytest.raises(BadRecording, match="playlist") as caught:
            decode(path)
        assert str(tmp_path) not in str(caught.value)


@needs_ffmpeg
def test_a_film_without_sound_and_a_film_with(tmp_path, wav):
    video = ["-f", "lavfi", "-i", "testsrc=d=1:s=64x64", "-map", "1:v"]
    with pytest.raises(BadRecording, match="no sound track"):
        decode(convert(wav, tmp_path / "silent.mp4", *video))
    # The picture goes on for two seconds after the sound: nothing is cut short.
    video[3] = "testsrc=d=5:s=64x64"
    samples, _ = decode(convert(wav, tmp_path / "film.mkv", *video, "-map", "0:a"))
    assert len(samples) == pytest.approx(3 * RATE_HZ, abs=3000)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("x.m4a", [], "cannot be decoded: moov atom not found"),
        ("x.m4a", ["-movflags", "faststart"], r"breaks off at 1\.\d s"),
        ("x.mka", [], r"is cut short: \d\.\d of 3\.0 s"),
    ],
)
def test_half_a_file_is_refused(tmp_path, wav, name, words, reason):
    path = convert(wav, tmp_path / name, *words)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(BadRecording, match=reason) as caught:
        decode(path)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


@needs_ffmpeg
def test_limits_hold_while_decoding(tmp_path, wav):
    raw = convert(wav, tmp_path / "x.aac")
    with pytest.raises(BadRecording, match="decodes to more than"):
        decode(raw, limits=Limits(max_s=1.0))
    told = convert(wav, tmp_path / "x.m4a")
    with pytest.raises(BadRecording, match="by its header"):
        decode(told, limits=Limits(max_s=1.0))
    with pytest.raises(BadRecording, match="2 channels"):
        decode(told, limits=Limits(max_channels=1))
    with pytest.raises(BadRecording, match="32000 Hz"):
        decode(told, limits=Limits(max_sample_rate_hz=16_000))


@needs_ffmpeg
def test_a_consumer_may_stop(tmp_path):
    path = convert(write(tmp_path / "x.wav", 60.0, rate_hz=RATE_HZ), tmp_path / "x.wv")
    with Recording(path) as recording:
        block = next(iter(recording.blocks()))
        assert len(block) == 1 << 16 and 0 < recording.done < 0.1
        process = recording._decoder._process
    assert process.returncode is not None


def program(folder, monkeypatch, text):
    """Puts a script in the place of ffmpeg and ffprobe."""
    (folder / "bin").mkdir()
    for name in ("ffmpeg", "ffprobe"):
        (folder / "bin" / name).write_text(f"#!{shutil.which('sh')}\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


PROBE = ffmpeg.Probe("aac", 8000, 1, 16, True, None, "f32le")


def test_a_decoder_that_stalls_is_ended(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, f"exec {shutil.which('sleep')} 100")
    decoder = ffmpeg.FfmpegDecoder(tmp_path / "x.m4a", PROBE, stall_s=0.2)
    with pytest.raises(ffmpeg.DecodeError, match=r"nothing for 0\.2 s"):
        decoder.read()
    decoder.close()
    monkeypatch.setattr(ffmpeg, "_PROBE_S", 0.2)
    with pytest.raises(ffmpeg.DecodeError, match=r"in 0\.2 s"):
        ffmpeg.probe(tmp_path / "x.m4a")


def test_a_decoder_that_talks_without_end_is_understood(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "i=0; while [ $i -lt 20000 ]; do echo '[aac @ 0x5] broken'"
            " >&2; i=$((i+1)); done; exit 69")  # fmt: skip
    decoder = ffmpeg.FfmpegDecoder(tmp_path / "x.m4a", PROBE)
    with pytest.raises(ffmpeg.DecodeError, match=r"^broken$"):
        decoder.read()
    decoder.close()


def test_without_ffmpeg_the_reason_is_plain(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "x.M4A").write_bytes(b"x" * 100)
    found, rejected = find_recordings(tmp_path)
    reason = ".m4a needs ffmpeg, which is not on the path: install it, or convert to flac"
    assert not found and rejected[0].reason == reason
    with pytest.raises(BadRecording) as caught:
        Recording(tmp_path / "x.M4A")
    assert str(caught.value) == reason
