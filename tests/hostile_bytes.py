"""Sound files as bytes: good ones, and headers that lie, for :mod:`hostile`."""

from __future__ import annotations

import io
import struct
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000
SECONDS = 3.0


def sound(seed: int, seconds: float = SECONDS, channels: int = 1) -> np.ndarray:
    """A melody that no other seed has, float64 ``[T, C]``, peaking below half of full scale."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(0.25 * RATE_HZ)) / RATE_HZ
    notes = []
    for _ in range(max(1, round(seconds / 0.25))):
        hz = 110 * 2 ** (rng.integers(0, 48) / 12)
        partials = sum(np.sin(2 * np.pi * hz * k * time_s) / k**2 for k in (1, 2, 3))
        notes.append(rng.uniform(0.1, 0.25) * np.exp(-4 * time_s) * partials)
    wave = np.concatenate(notes)[: max(1, round(seconds * RATE_HZ)), None]
    return wave + 0.002 * rng.standard_normal((len(wave), channels))


def encoded(seed: int, kind: str, seconds: float = SECONDS, **options: str) -> bytes:
    """A good recording's bytes in a format that libsndfile writes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(seed, seconds), RATE_HZ, format=kind, **options)
    return buffer.getvalue()


def converted(path: Path, seed: int, *words: str) -> Path:
    """A good recording, encoded by ffmpeg in the format that the name asks for."""
    source = path.with_name(f".{seed}.wav")
    source.write_bytes(encoded(seed, "WAV"))
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", str(source)]
    subprocess.run([*command, *words, f"file:{path}"], check=True)
    source.unlink()
    return path


def wav(channels: int = 1, rate: int = RATE_HZ, bits: int = 16, *, align: int | None = None,
         size: int | None = None, before: bytes = b"", seed: int = 900) -> bytes:  # fmt: skip
    data = (sound(seed) * 32767).astype("<i2").tobytes()
    align = channels * bits // 8 if align is None else align
    head = struct.pack("<HHIIHH", 1, channels & 0xFFFF, rate & 0xFFFFFFFF,
                       rate * align & 0xFFFFFFFF, align & 0xFFFF, bits & 0xFFFF)  # fmt: skip
    length = len(data) if size is None else size
    chunks = b"fmt " + struct.pack("<I", 16) + head + before
    chunks += b"data" + struct.pack("<I", length) + data
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def rf64() -> bytes:
    plain = wav(seed=901)
    sizes = struct.pack("<QQQI", 1 << 62, 1 << 62, 1 << 61, 0)
    body = b"ds64" + struct.pack("<I", len(sizes)) + sizes + plain[12:].replace(
        struct.pack("<4sI", b"data", len(plain) - 44), b"data\xff\xff\xff\xff")  # fmt: skip
    return b"RF64\xff\xff\xff\xffWAVE" + body


def flac(total: int | None = None, rate: int | None = None, seed: int = 902) -> bytes:
    data = bytearray(encoded(seed, "FLAC"))
    info = int.from_bytes(data[18:26], "big")
    if total is not None:
        info = info & ~((1 << 36) - 1) | total
    if rate is not None:
        info = info & ((1 << 44) - 1) | rate << 44
    data[18:26] = info.to_bytes(8, "big")
    return bytes(data)


def flac_with_comments(count: int) -> bytes:
    data = encoded(903, "FLAC")
    comments = struct.pack("<I", 0) + struct.pack("<I", count) + struct.pack("<I", 7) + b"genre=x"
    return data[:42].replace(data[4:5], b"\0", 1)[:42] + _last(4, comments) + _frames(data)


def _last(kind: int, body: bytes) -> bytes:
    return bytes([0x80 | kind]) + len(body).to_bytes(3, "big") + body


def _frames(data: bytes) -> bytes:
    at = 4
    while True:
        last, size = data[at] & 0x80, int.from_bytes(data[at + 1 : at + 4], "big")
        at += 4 + size
        if last:
            return data[at:]


def aiff(channels: int, rate: bytes) -> bytes:
    data = bytearray(encoded(904, "AIFF"))
    at = data.index(b"COMM") + 8
    data[at : at + 2] = struct.pack(">H", channels)
    data[at + 8 : at + 18] = rate
    return bytes(data)


def foreign_serial(data: bytes) -> bytes:
    """An Ogg whose second page belongs to a stream that was never begun."""
    changed = bytearray(data)
    second = data.index(b"OggS", 4)
    changed[second + 14 : second + 18] = b"\xde\xad\xbe\xef"
    return bytes(changed)


def _page(body: Sequence[bytes], granule: int, number: int, flags: int) -> bytes:
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, 1, number, 0, len(body))
    page = bytearray(head + bytes(map(len, body)) + b"".join(body))
    crc = 0
    for byte in page:
        crc = crc << 8 & 0xFFFFFFFF ^ _CRC[crc >> 24 ^ byte]
    page[22:26] = struct.pack("<I", crc)
    return bytes(page)


def _crc_entry(value: int) -> int:
    value <<= 24
    for _ in range(8):
        value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


_CRC = [_crc_entry(value) for value in range(256)]


def opus_hours(hours: float) -> bytes:
    """Hours of nothing in an Opus file of a few hundred kilobytes: packets of one byte."""
    head = b"OpusHead" + struct.pack("<BBHIHB", 1, 1, 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<II", 0, 0)
    pages = [_page([head], 0, 0, 2), _page([tags], 0, 1, 0)]
    count = int(hours * 3600 / 0.12 / 255)
    for number in range(count):  # 0x19: two SILK frames of 60 ms, both left out
        last = 4 if number == count - 1 else 0
        pages.append(_page([b"\x19"] * 255, (number + 1) * 255 * 5760, number + 2, last))
    return b"".join(pages)


def bomb(path: Path, hours: float, told: bool) -> None:
    with soundfile.SoundFile(path, "w", 1000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(int(hours * 60)):
            file.write(np.full(60_000, 0.25))
    if not told:
        data = bytearray(path.read_bytes())
        data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
        path.write_bytes(data)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.wav", encoded(905, "WAV"))


def with_sample(value: float) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        wave = sound(906)
        wave[-100] = value
        soundfile.write(path, wave, RATE_HZ, subtype="FLOAT")

    return make


def short(frames: int) -> Callable[[Path], object]:
    return lambda path: soundfile.write(path, sound(907)[:frames], RATE_HZ)


def _id3(frames: bytes) -> bytes:
    size = bytes(len(frames) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + frames


def id3_frame(name: bytes, body: bytes) -> bytes:
    return name + struct.pack(">I", len(body)) + b"\0\0" + body


def tagged(seed: int, frames: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(_id3(frames) + encoded(seed, "MP3"))
