"""Curves must be well-formed and honest about gaps; pictures must be real PNGs."""

from __future__ import annotations

import math
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest

from tunesmith.report import figures, spectrogram
from tunesmith.report.figures import Curve, Mark
from tunesmith.types import Audio

NAN = math.nan


def draw(curve: Curve, width: int = 800) -> ElementTree.Element:
    return ElementTree.fromstring(figures.svg(curve, "c", width, 320))


def curve(x: list[float], y: list[float], **more) -> Curve:
    return Curve("Loss", "step", "loss", {"a": (x, y)}, **more)


def points(line: ElementTree.Element) -> np.ndarray:
    return np.array([p.split(",") for p in line.attrib["points"].split()], dtype=float)


def test_title_description_and_line() -> None:
    root = draw(curve([0, 1, 2], [3.0, 2.0, 2.5]))
    ids = root.attrib["aria-labelledby"].split()
    texts = {e.attrib["id"]: e.text or "" for e in root if e.tag in ("title", "desc")}
    assert texts[ids[0]] == "Loss"
    assert "from 3 to 2.5, lowest 2 at 1" in texts[ids[1]]
    (line,) = root.findall("polyline")
    assert len(points(line)) == 3
    assert points(line)[0, 1] < points(line)[1, 1]  # larger values stand higher up


def test_gaps_stay_gaps_and_lone_points_become_dots() -> None:
    root = draw(curve([0, 1, 2, 3, 4, 5], [1, 2, NAN, 3, math.inf, 4]))
    assert len(root.findall("polyline")) == 1
    assert len(root.findall("circle")) == 2
    assert "nan" not in figures.svg(curve([0, NAN], [NAN, 1]), "c").lower()


@pytest.mark.parametrize(
    "empty",
    [Curve("t", "x", "y", {}), curve([], []), curve([0, 1], [NAN, NAN])],
)
def test_empty(empty: Curve) -> None:
    assert figures.is_empty(empty)
    assert not draw(empty).findall("polyline")


@pytest.mark.parametrize("y", [[0.0, 0.0], [5.0], [1e-30, 1e-30], [-2e9, 3e9], [1e300, -1e300]])
def test_strange_ranges(y: list[float]) -> None:
    root = draw(curve(list(range(len(y))), y))
    for line in root.findall("polyline"):
        assert np.isfinite(points(line)).all()


def test_marks_and_hostile_words() -> None:
    bad = '</text><script>alert("x")</script>&\x00\x1b'
    text = figures.svg(
        Curve(bad, bad, bad, {bad: ([0, 10], [1, 2])}, [Mark(5, bad), Mark(99, "off")]), "c"
    )
    root = ElementTree.fromstring(text)
    assert "<script" not in text
    assert not list(root.iter("script"))
    marked = [e for e in root.iter("text") if e.attrib["class"] == "marked"]
    assert len(marked) == 1


def test_many_points_are_thinned_without_losing_a_spike() -> None:
    x = np.arange(100_000.0)
    y = np.sin(x / 9000)
    y[54_321] = 40.0
    (line,) = draw(Curve("t", "x", "y", {"a": (list(x), list(y))})).findall("polyline")
    assert len(points(line)) <= 2 * 800 + 2
    assert points(line)[:, 1].min() < points(line)[:, 1].max() - 200


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1000, [0, 200, 400, 600, 800, 1000]), (2.31, 3.4, [2.5, 3.0]), (5, 5, [5])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert figures.ticks(low, high, 4 if high < 10 else 5) == pytest.approx(expected)


def test_no_negative_zero() -> None:
    assert figures.number(figures.ticks(0, 10, 2)[0]) == "0"


def read_png(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Indices ``[H, W]`` and palette ``[256, 3]`` of an 8-bit indexed PNG; checks every CRC."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (check,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert check == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 3)
    raw = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert (raw[:, 0] == 2).all()
    indices = np.cumsum(raw[:, 1:], axis=0, dtype=np.uint8)
    return indices, np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)


def test_png_round_trip() -> None:
    indices = np.random.default_rng(0).integers(0, 256, (17, 31), dtype=np.uint8)
    got, colours = read_png(spectrogram.png(indices, spectrogram.palette()))
    assert (got == indices).all()
    assert (colours == spectrogram.palette()).all()


def test_palette_grows_evenly_lighter() -> None:
    srgb = spectrogram.palette() / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -1e-3).all()
    assert luminance[0] < 0.02 and luminance[-1] > 0.85


@pytest.mark.parametrize("hz", [110.0, 440.0, 3520.0])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_tone_lights_up_its_own_band(hz: float, rate: int) -> None:
    t = np.arange(2 * rate) / rate
    audio = Audio(np.sin(2 * np.pi * hz * t)[None].astype(np.float32), rate)
    db = spectrogram.spectrogram_db(audio, 60, 100)
    assert db.shape == (100, 60)
    edges = np.geomspace(spectrogram.LOWEST_HZ, spectrogram.highest_hz(rate), 101)
    row = 99 - int(db[:, 30].argmax())
    assert edges[row] / 1.15 < hz < edges[row + 1] * 1.15


def test_time_runs_to_the_right() -> None:
    samples = np.zeros((1, 32_000), np.float32)
    samples[0, 24_000:] = np.random.default_rng(0).normal(size=8_000) * 0.1
    db = spectrogram.spectrogram_db(Audio(samples, 16_000), 40, 50)
    assert db[:, :25].mean() < db[:, 32:].mean() - 40


@pytest.mark.parametrize("length", [1, 10, 1600])
@pytest.mark.parametrize("fill", [0.0, NAN, math.inf])
def test_short_silent_and_broken_sound(length: int, fill: float) -> None:
    audio = Audio(np.full((2, length), fill, np.float32), 16_000)
    db = spectrogram.spectrogram_db(audio, 20, 10)
    assert np.isfinite(db).all()
    indices, _ = read_png(spectrogram.picture(db, spectrogram.top_db([db])))
    assert indices.max() == 0  # silence is dark, not noise blown up


def test_whiskers_share_one_scale_and_leave_gaps() -> None:
    readings = [(17.0, (16.0, 18.0)), (None, None), (9.0, (8.0, 10.0)), (NAN, None), (12.0, None)]
    root = ElementTree.fromstring(figures.whiskers(readings, width=112))
    assert root.attrib["aria-hidden"] == "true"
    spots = {float(one.attrib["cy"]): float(one.attrib["cx"]) for one in root.iter("circle")}
    assert list(spots) == [8.5, 34.5, 60.5]  # the second and the fourth line are empty
    assert list(spots.values()) == [96.0, 16.0, 46.0]  # 8 to 18 over 100 pixels from 6 on
    bars = [(float(one.attrib["x1"]), float(one.attrib["x2"])) for one in root.iter("line")]
    assert bars == [(86.0, 106.0), (6.0, 26.0)]


def test_whiskers_of_one_value_are_no_division() -> None:
    root = ElementTree.fromstring(figures.whiskers([(3.0, (3.0, 3.0))]))
    assert [float(one.attrib["cx"]) for one in root.iter("circle")] == [66.0]
