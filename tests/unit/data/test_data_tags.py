import shutil
import struct
import subprocess
import time

import pytest
from sounds import write

from tunesmith.data import tags
from tunesmith.data.tags import Tags, caption, read

FIELDS = {
    "title": "Goodbye",
    "artist": "Somebody",
    "genre": "Jazz",
    "comment": "slow walking bass",
    "lyrics": "la la",
}


def id3(*frames):
    body = b"".join(name + struct.pack(">I", len(data)) + b"\0\0" + data for name, data in frames)
    size = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + body


def comments(*pairs, count=None):
    body = struct.pack("<I", 0) + struct.pack("<I", len(pairs) if count is None else count)
    for pair in pairs:
        body += struct.pack("<I", len(pair.encode())) + pair.encode()
    return body


def flac(path, body):
    """A flac file whose comments are replaced."""
    data = write(path, 0.5).read_bytes()
    block = b"\x84" + len(body).to_bytes(3, "big") + body
    path.write_bytes(data[:4] + b"\0" + data[5:42] + block + data[42:])
    return path


@pytest.mark.parametrize("name", ["x.mp3", "x.m4a", "x.flac", "x.ogg", "x.opus", "x.wav", "x.wma"])
def test_each_format_tells_its_tags(tmp_path, name):
    if shutil.which("ffmpeg") is None:
        pytest.skip("there is no ffmpeg here")
    plain = write(tmp_path / "plain.wav", 0.5, rate_hz=48_000)
    words = [word for key, value in FIELDS.items() for word in ("-metadata", f"{key}={value}")]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(plain), *words, str(tmp_path / name)]
    subprocess.run(command, check=True)
    found = read(tmp_path / name)
    assert (found.title, found.artist) == ("Goodbye", "Somebody")
    assert caption(found) == "Jazz, slow walking bass"
    if name in ("x.m4a", "x.flac", "x.ogg", "x.opus"):
        assert found.lyrics == "la la"


def test_fields_that_describe_sound(tmp_path):
    pairs = ("GENRE=Jazz; Blues", "MOOD=calm", "INSTRUMENT=piano", "BPM=90.00", "INITIALKEY=F#m")
    found = read(flac(tmp_path / "x.flac", comments(*pairs, "LYRICS=la\n\x1bla", "ARTIST=X Y")))
    assert caption(found) == "Jazz, Blues, calm, piano, 90 bpm, F sharp minor"
    assert found.lyrics == "la\nla" and found.artist == "X Y"


def test_numbered_genres_of_id3(tmp_path):
    path = tmp_path / "x.mp3"
    path.write_bytes(id3((b"TCON", b"\0(8)"), (b"TBPM", b"\x00120")) + b"\xff" * 100)
    assert caption(read(path)) == "Jazz, 120 bpm"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Tags(title="Goodbye", artist="Somebody", album="x"), ""),
        (Tags(bpm="90", key="Am"), ""),
        (Tags(genre="Other", bpm="90"), ""),
        (Tags(genre="(255)"), ""),
        (Tags(genre="Jazz", bpm="0", key="8A"), "Jazz"),
        (Tags(genre="Jazz", key="Bb", bpm="1e9"), "Jazz, B flat major"),
        (Tags(genre="Jazz", key="C minor"), "Jazz, C minor"),
        (Tags(comment="a slow walk home"), "a slow walk home"),
        (Tags(artist="Somebody", comment="played by somebody else"), ""),
        (Tags(artist="Somebody", genre="Somebody style"), ""),
        (Tags(comment="0000A1B2 000F3344"), ""),
        (Tags(comment="Visit https://example.org"), ""),
        (Tags(comment="Encoded by LAME 3.100"), ""),
        (Tags(comment="Processed by SoX"), ""),
        (Tags(comment="Bounced from Some Program"), ""),
        (Tags(comment="ok"), ""),
    ],
)
def test_what_makes_a_caption(made, text):
    assert caption(made) == text


def values(count):
    return b"\0" + b"\0".join(f"{i:x}".encode() for i in range(count))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ID3",
        b"ID3\x03\0\x40\xff\xff\xff\xff" + bytes(100),
        id3((b"TCON", b"")),
        id3((b"TCON", b"\x01\xff")),
        b"fLaC" + b"\x04\xff\xff\xff" * 1000,
        b"fLaC\x84\0\0\x08" + comments(count=0xFFFFFFFF),
        b"OggS" + b"\xff" * 10_000,
        b"RIFF\xff\xff\xff\xffWAVE" + b"LIST\xff\xff\xff\xffINFO" * 100,
        b"FORM\xff\xff\xff\xffAIFF" + b"ID3 \xff\xff\xff\xff" * 100,
        b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + b"\0\0\0\0moov" * 100,
        b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + b"\0\0\0\x08moov" * 100_000,
        b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + b"\x7f\xff\xff\xffmoov" * 9000,
    ],
)
def test_broken_tags_are_none(tmp_path, data):
    path = tmp_path / "x"
    path.write_bytes(data)
    begin = time.perf_counter()
    assert caption(read(path)) == "" and time.perf_counter() - begin < 1.5
    assert read(tmp_path / "missing") == Tags()


def test_tags_that_take_for_ever_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tags, "_MOST_S", 0.2)
    path = tmp_path / "x.mp3"
    path.write_bytes(id3((b"TCON", values(200_000))) + b"\xff" * 100)
    begin = time.perf_counter()
    assert read(path) == Tags() and time.perf_counter() - begin < 1.5


def test_large_tags_cost_little_and_are_cut(tmp_path):
    path = tmp_path / "x.mp3"
    big = id3((b"TXXX", b"\0x\0" + b"y" * (2 << 20)), (b"TCON", b"\0" + b"Jazz " * 10_000))
    path.write_bytes(big + b"\xff" * 100)
    assert len(read(path).genre) <= 500
    path.write_bytes(id3((b"TXXX", b"\0x\0" + b"y" * (20 << 20)), (b"TCON", b"\0Jazz")))
    assert read(path) == Tags()
