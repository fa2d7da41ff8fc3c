"""A folder of recordings that nobody should ever have: for the tests, and for `bench.hostile`.

It stands here because both use it: tests may not import benches, which measure for minutes, while a
bench may well measure with what the tests made. Every case says what has to become of it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from hostile_bytes import (
    RATE_HZ,
    aiff,
    bomb,
    converted,
    encoded,
    flac,
    flac_with_comments,
    foreign_serial,
    id3_frame,
    opus_hours,
    rf64,
    short,
    tagged,
    wav,
    with_sample,
    zipped,
)

GOOD = ("good/a.wav", "good/b.flac", "good/c.ogg", "good/d.wav", "good/e.wav", "good/f.aiff")
"""Recordings that all have to become clips."""

Fate = Literal["rejected", "used", "either", "warned", "silent"]


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        name: of the file, below the folder; for a sidecar, the sidecar's.
        make: writes it (and what belongs to it) at a path.
        fate: ``rejected`` (named in ``rejected.jsonl``), ``used`` (it becomes clips: odd, not bad),
            ``either``, ``warned`` (exactly one warning names it, and its recording is used), or
            ``silent`` (neither sound nor text: nobody has to hear of it).
        shown: how reports name it, if not by its name.
        recording: for a sidecar, the recording that is used all the same.
        program: needs ``ffmpeg`` to be made or read.
        slow: takes seconds.
    """

    name: str
    make: Callable[[Path], object]
    fate: Fate = "rejected"
    shown: str = ""
    recording: str = ""
    program: bool = False
    slow: bool = False


def _put(data: bytes | str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data if isinstance(data, bytes) else data.encode())


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _unreadable(path: Path) -> None:
    path.write_bytes(encoded(908, "WAV"))
    path.chmod(0)


def _bytes_name(path: Path) -> None:
    target = os.fsencode(path.parent) + b"/\xff\xfe.wav"
    with open(target, "wb") as file:
        file.write(encoded(909, "WAV"))


def _beside(seed: int, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """A sidecar, and the good recording it stands beside."""

    def both(path: Path) -> None:
        stem = path.name.removesuffix(".txt").removesuffix(".json").removesuffix(".caption")
        path.with_name(stem + ".wav").write_bytes(encoded(seed, "WAV"))
        make(path)

    return both


def _table(seed: int, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(path: Path) -> None:
        (path.parent / "x.wav").write_bytes(encoded(seed, "WAV"))
        make(path)

    return both


def cases() -> list[Case]:
    """All of them; a different sound in every one that is used."""
    return [*_files(), *_headers(), *_names(), *_programs(), *_texts()]


def _files() -> list[Case]:
    empty = ["wav", "flac", "ogg", "opus", "mp3", "aiff", "m4a", "aac", "wma", "mkv", "ape"]
    halves = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3", "aiff": "AIFF"}
    wrong: dict[str, bytes | str] = {
        "png.flac": b"\x89PNG\r\n\x1a\n" + bytes(5000),
        "html.mp3": "<!DOCTYPE html><html><body>404 not found</body></html>" * 50,
        "elf.ogg": b"\x7fELF\x02\x01\x01" + bytes(5000),
        "pdf.opus": b"%PDF-1.7\n" + bytes(5000),
        "gzip.flac": b"\x1f\x8b\x08" + bytes(5000),
        "text.wav": "this is no sound\n" * 400,
        "noise.mp3": np.random.default_rng(0).bytes(50_000),
        "noise.wav": np.random.default_rng(1).bytes(50_000),
        "zeros.ogg": bytes(50_000),
        "lfs.wav": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "notes.mid": b"MThd\0\0\0\x06" + bytes(100),
        "locked.m4p": bytes(100),
        "sun.w64": bytes(100),
    }
    return [
        *(Case(f"empty.{kind}", _put(b"")) for kind in empty),
        *(
            Case(f"half.{suffix}", lambda path, i=i, kind=kind: path.write_bytes(
                (data := encoded(910 + i, kind))[: len(data) // 2]))
            for i, (suffix, kind) in enumerate(halves.items())
        ),
        *(Case(name, _put(data)) for name, data in wrong.items()),
        Case("zip.wav", zipped),
        Case("mp3.wav", lambda path: path.write_bytes(encoded(920, "MP3")), "used"),
        Case("nan.wav", with_sample(np.nan)),
        Case("inf.wav", with_sample(np.inf)),
        Case("one_sample.wav", short(1)),
        Case("ten_ms.wav", short(RATE_HZ // 100)),
        Case("no_samples.wav", short(0)),
        Case("eight_hours.opus", lambda path: path.write_bytes(opus_hours(8.1))),
        Case("bomb.flac", lambda path: bomb(path, 7, True), slow=True),
        Case("untold_bomb.flac", lambda path: bomb(path, 7, False), slow=True),
    ]  # fmt: skip


def _headers() -> list[Case]:
    made: dict[str, tuple[bytes, Fate]] = {
        "channels_65535.wav": (wav(65535), "rejected"),
        "channels_0.wav": (wav(0), "rejected"),
        "channels_64.wav": (wav(64), "rejected"),
        "rate_0.wav": (wav(rate=0), "rejected"),
        "rate_4_GHz.wav": (wav(rate=4_000_000_000), "rejected"),
        "bits_0.wav": (wav(bits=0), "rejected"),
        "bits_65528.wav": (wav(bits=65528), "rejected"),
        "align_0.wav": (wav(align=0, seed=930), "either"),
        # What a program leaves that writes to a pipe: odd, but all the sound is there.
        "size_4_GiB.wav": (wav(size=0xFFFFFFFF, seed=931), "used"),
        "size_0.wav": (wav(size=0, seed=932), "either"),
        "chunk_overflow.wav": (
            wav(before=b"LIST" + struct.pack("<I", 0xFFFFFFF0), seed=933), "rejected"),
        "chunk_negative.wav": (
            wav(before=b"junk" + struct.pack("<i", -8), seed=934), "rejected"),
        "no_format.wav": (wav().replace(b"fmt ", b"tmf "), "rejected"),
        "huge.rf64.wav": (rf64(), "rejected"),
        "total.flac": (flac(total=(1 << 36) - 1), "rejected"),
        "rate_0.flac": (flac(rate=0, seed=935), "either"),  # its frames tell the rate again
        "comments.flac": (flac_with_comments(0xFFFFFFFF), "either"),
        "serial.ogg": (foreign_serial(encoded(936, "OGG")), "rejected"),
        "channels_65535.aiff": (aiff(65535, b"\x40\x0c\xfa" + bytes(7)), "rejected"),
        "rate_nan.aiff": (aiff(1, b"\x7f" + b"\xff" * 9), "rejected"),
        "rate_negative.aiff": (aiff(1, b"\xc0\x0c\xfa" + bytes(7)), "rejected"),
    }  # fmt: skip
    large = b"\0x\0" + b"y" * (10 << 20)
    many = b"\0" + b"\0".join(f"{i:x}".encode() for i in range(100_000))
    return [
        *(Case(name, _put(data), fate) for name, (data, fate) in made.items()),
        Case("large_tag.mp3", tagged(940, id3_frame(b"TXXX", large)), "used"),
        Case("many_values.mp3", tagged(941, id3_frame(b"TCON", many)), "used", slow=True),
        Case("frame_overflow.mp3", tagged(942, b"TIT2\xff\xff\xff\xff\0\0x" + bytes(50)), "used"),
    ]


def _names() -> list[Case]:
    odd = {
        "-y.wav": "", "%d.wav": "", "a|b.wav": "", "it's \"it\".wav": "", "$(touch pwned).wav": "",
        "; rm -rf x.wav": "", "[red]markup[/red].wav": "", "größer 🎺 音楽.wav": "",
        "new\nline.wav": "new\\nline.wav", "esc\x1b[31m.wav": "esc\\x1b[31m.wav",
        "turned\u202e.wav": "turned\\u202e.wav", "a\\b.wav": "", "n" * 251 + ".wav": "",
    }  # fmt: skip
    root = os.geteuid() == 0
    return [
        *(
            Case(name, lambda path, i=i: path.write_bytes(encoded(950 + i, "WAV")), "used", shown)
            for i, (name, shown) in enumerate(odd.items())
        ),
        Case("not_utf8", _bytes_name, shown="\\udcff\\udcfe.wav"),
        Case("self.wav", lambda path: path.symlink_to(path)),
        Case("broken.wav", lambda path: path.symlink_to(path.parent / "nowhere.wav")),
        Case("device.wav", lambda path: path.symlink_to("/dev/zero")),
        Case("pipe.wav", lambda path: os.mkfifo(path)),
        Case("socket.wav", _socket),
        Case("unreadable.wav", _unreadable, "used" if root else "rejected"),
        Case("loop", lambda path: path.symlink_to(path.parent, True), "silent"),
    ]


def _programs() -> list[Case]:
    """What goes to ffmpeg. Those of them that are no sound are refused without it, too."""
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
    noise = np.random.default_rng(2).bytes(30_000)
    lies: dict[str, bytes | str] = {
        "hls_file.m4a": playlist.format("/etc/passwd"),
        "hls_net.mp4": playlist.format("http://127.0.0.1:9/x.aac"),
        "hls_late.aac": "\n" * 300 + playlist.format("/etc/passwd"),
        "concat.m4a": "ffconcat version 1.0\nfile /etc/passwd\n",
        "sdp.m4a": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5 RTP/AVP 0\n",
        "dash.mp4": '<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>',
        "rtsp.mov": "rtsptextRTSP://127.0.0.1:9/x",
        "noise.m4a": noise,
        "noise.wv": b"wvpk" + noise,
        "noise.ape": b"MAC \x96\x0f" + noise,
        "noise.wma": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + noise,
        "noise.mkv": b"\x1a\x45\xdf\xa3" + noise,
        "noise.dsf": b"DSD " + struct.pack("<QQQ", 28, 1 << 62, 0) + noise,
        "noise.caf": b"caff\0\1\0\0" + noise,
        "atom_0.m4a": b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + b"\0\0\0\0moov" * 100,
        "atom_huge.m4a": b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42\0\0\0\1moov" + b"\xff" * 60,
        "atoms_deep.m4a": b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + b"\x7f\xff\xff\xffmoov" * 9000,
    }  # fmt: skip
    good = {"-i.m4a": "", "%03d.m4a": "", "concat:a|b.m4a": "", "http:x.m4a": "", "UPPER.M4A": ""}
    video = ("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", "-map", "1:v")
    return [
        *(Case(name, _put(data)) for name, data in lies.items()),
        *(
            Case(name, lambda path, i=i: converted(path, 970 + i), "used", program=True)
            for i, name in enumerate(good)
        ),
        Case("wav.m4a", lambda path: path.write_bytes(encoded(980, "WAV")), "used", program=True),
        Case("silent_film.mp4", lambda path: converted(path, 981, *video), program=True),
        Case("half.m4a", lambda path: _halved(converted(path, 982)), program=True),
        Case("half_fast.m4a", lambda path: _halved(
            converted(path, 983, "-movflags", "faststart")), program=True),
        Case("half.mka", lambda path: _halved(converted(path, 984)), program=True),
    ]  # fmt: skip


def _halved(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _texts() -> list[Case]:
    deep = "[" * 100_000 + "]" * 100_000
    column = "[" * 400 + "]" * 400
    beside: dict[str, Callable[[Path], object]] = {
        "ten_mb.txt": _put(b"x" * 10_000_000),
        "latin1.txt": _put(b"gr\xf6\xdfer"),
        "nul.caption.txt": _put(b"a\0b"),
        "utf16_half.txt": _put(b"\xff\xfea"),
        "folder.txt": lambda path: path.mkdir(),
        "pipe.caption.txt": lambda path: os.mkfifo(path),
        "ten_mb.json": _put(b'"' + b"x" * 10_000_000 + b'"'),
        "deep.json": _put(deep[:30_000] + deep[-30_000:]),
        "broken.json": _put('{"caption": '),
        "number.json": _put("42"),
        "no_words.json": _put('{"sample_rate": 44100}'),
    }
    row = {"file_name": "x.wav", "caption": "a\ud800b\u0000c", "n": 10**400, "s": "\ud800"}
    tables: dict[str, tuple[bytes | str, Fate]] = {
        "t1/metadata.jsonl": (deep, "warned"),
        "t2/metadata.jsonl": ('{"file_name": "../../../etc/passwd", "caption": "x"}', "warned"),
        "t3/metadata.jsonl": (b'{"file_name": "\xff.wav"}', "warned"),
        "t4/metadata.csv": ("file_name,caption\nx.wav," + "y" * 200_000 + "\n", "warned"),
        "t5/metadata.csv": ("file_name,caption\n\0,x\n", "warned"),
        "t6/metadata.jsonl": (json.dumps(row), "silent"),
        "t7/metadata.jsonl": (f'{{"file_name": "x.wav", "caption": "x", "c": {column}}}', "silent"),
        "t8/metadata.jsonl": ('{"file_name": "\\ud800.wav", "caption": "x"}', "warned"),
    }
    return [
        *(
            Case(f"s{i}/{name}", _beside(1000 + i, make), "warned",
                 recording=f"s{i}/{name.split('.')[0]}.wav")
            for i, (name, make) in enumerate(beside.items())
        ),
        *(
            Case(name, _table(1020 + i, _put(data)), fate, recording=f"{name.split('/')[0]}/x.wav")
            for i, (name, (data, fate)) in enumerate(tables.items())
        ),
    ]  # fmt: skip


def build(folder: Path, slow: bool = True) -> list[Case]:
    """Writes good recordings and every case that this machine can make; returns those.

    Args:
        folder: to make; hostile ones stand in ``bad/``, good ones in ``good/``.
        slow: also those that take seconds.
    """
    program = shutil.which("ffmpeg") is not None
    for number, name in enumerate(GOOD):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(number, Path(name).suffix[1:].upper()))
    made = []
    for case in cases():
        if (case.slow and not slow) or (case.program and not program):
            continue
        path = folder / "bad" / case.name
        path.parent.mkdir(parents=True, exist_ok=True)
        case.make(path)
        made.append(case)
    return made


def judge(dest: Path, made: Sequence[Case]) -> list[str]:
    """What did not end as it has to, one line each; empty if all is well.

    Args:
        dest: the data set that was prepared.
        made: what :func:`build` returned.
    """
    rejected = [json.loads(line) for line in (dest / "rejected.jsonl").read_text().splitlines()]
    refused = {row["file"]: row["reason"] for row in rejected}
    warnings = json.loads((dest / "dataset.json").read_text())["warnings"]
    rows = [
        json.loads(line)
        for table in sorted(dest.glob("*/metadata.jsonl"))
        for line in table.read_text().split("\n")
        if line
    ]
    used = {row["recording"] for row in rows}
    faults = [f"{name} is lost" for name in GOOD if name not in used]
    for case in made:
        name = f"bad/{case.shown or case.name}"
        if case.fate == "rejected" and (name not in refused or name in used):
            faults.append(f"{name} is not rejected")
        if case.fate == "used" and name not in used:
            faults.append(f"{name} is not used: {refused.get(name)}")
        if case.fate == "either" and (name in used) == (name in refused):
            faults.append(f"{name} is neither used nor rejected, or both")
        if case.fate == "warned" and sum(name in warning for warning in warnings) != 1:
            faults.append(f"{name} is not in exactly one warning")
        if case.recording and f"bad/{case.recording}" not in used:
            faults.append(f"bad/{case.recording} is lost: {refused.get('bad/' + case.recording)}")
    lines = [*warnings, *refused.values(), *refused]
    return faults + [f"not one line: {line!r}" for line in lines if not line.isprintable()]
