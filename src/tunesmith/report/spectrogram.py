"""Pictures of sound: a log-frequency spectrogram as a small PNG, from numpy and zlib alone."""

from __future__ import annotations

import struct
import zlib
from functools import cache

import numpy as np

from tunesmith.types import Audio

LOWEST_HZ = 50.0
HIGHEST_HZ = 16_000.0
SPAN_DB = 72.0
"""Range of loudness from the brightest to the darkest colour."""


def highest_hz(sample_rate_hz: int) -> float:
    """Upper edge of the picture: half the sample rate, 16 kHz at most."""
    return min(HIGHEST_HZ, sample_rate_hz / 2)


def spectrogram_db(audio: Audio, width: int, height: int) -> np.ndarray:
    """Power over logarithmic frequency and time, in dB ``[height, width]``, lowest row last.

    3 dB per octave are added (0 at 1 kHz): most music falls off at about that rate, and without it
    the upper half of every picture would be black.

    Args:
        audio: ``[C, T]``; channels are averaged, NaN counts as silence.
        width: columns; each averages the frames that fall into it.
        height: bands from 50 Hz to :func:`highest_hz`, equal in octaves.
    """
    samples = np.nan_to_num(audio.samples.astype(np.float64), posinf=0.0, neginf=0.0)
    mono = samples.mean(axis=0) if samples.size else np.zeros(1)
    rate = audio.sample_rate_hz
    frame = 1 << max(6, round(np.log2(0.075 * rate)))  # about 75 ms: half tones part above 250 Hz
    mono = np.pad(mono, (frame // 2, frame // 2 + 1))
    per_column = int(np.clip(np.ceil((len(mono) - frame) / width / (frame / 2)), 1, 8))
    starts = np.linspace(0, len(mono) - frame, width * per_column).astype(int)
    window = np.hanning(frame)
    window /= window.sum() / 2  # a full-scale sine reads 0 dB
    edges = np.geomspace(min(LOWEST_HZ, rate / 8), highest_hz(rate), height + 1)
    bins = edges * frame / rate
    out = np.empty((height, width))
    for column in range(width):
        chosen = starts[column * per_column : (column + 1) * per_column]
        frames = np.stack([mono[s : s + frame] for s in chosen]) * window
        power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).mean(axis=0)
        # Mean power between two edges from the running integral, itself interpolated: one rule for
        # bands narrower than a bin (bass) and wider than a hundred (treble).
        integral = np.concatenate([[0.0], np.cumsum(power)])
        at = np.interp(bins + 0.5, np.arange(len(integral)), integral)
        out[:, column] = np.diff(at) / np.diff(bins)
    tilt = 3.0 * np.log2(np.sqrt(edges[1:] * edges[:-1]) / 1000.0)
    return (10.0 * np.log10(out + 1e-16) + tilt[:, None])[::-1]


def picture(db: np.ndarray, top_db: float) -> bytes:
    """A PNG of ``[H, W]`` dB values; ``top_db`` and above is the brightest colour.

    Pictures to be compared share one ``top_db``.
    """
    level = np.clip((db - top_db) / SPAN_DB + 1.0, 0.0, 1.0)
    return png(np.round(level * 255).astype(np.uint8), palette())


def top_db(pictures: list[np.ndarray]) -> float:
    """A common top for several ``[H, W]``: the loudest half per mille of them all is cut off.

    Never below −60 dB, so that silence stays dark and is not blown up into noise.
    """
    peaks = [float(np.quantile(db, 0.9995)) for db in pictures if db.size]
    return max([-60.0, *peaks])


@cache
def palette() -> np.ndarray:
    """256 sRGB colours ``[256, 3]``, night blue over magenta and amber to cream.

    Lightness rises in a straight line in Oklab (Ottosson 2020), so equal steps of loudness look
    equal, also in grey and to the colour blind.
    """
    t = np.linspace(0.0, 1.0, 256)
    light = 0.17 + 0.80 * t
    hue = np.radians(np.interp(t, [0, 0.35, 0.6, 0.85, 1], [276, 318, 385, 425, 455]))
    chroma = np.interp(t, [0, 0.3, 0.6, 0.8, 1], [0.035, 0.135, 0.165, 0.135, 0.035])
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cone_l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    cone_m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    cone_s = (light - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * cone_l - 3.3077115913 * cone_m + 0.2309699292 * cone_s,
            -1.2684380046 * cone_l + 2.6097574011 * cone_m - 0.3413193965 * cone_s,
            -0.0041960863 * cone_l - 0.7034186147 * cone_m + 1.7076147010 * cone_s,
        ],
        axis=1,
    ).clip(0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(srgb * 255).astype(np.uint8)


def png(indices: np.ndarray, colours: np.ndarray) -> bytes:
    """An indexed PNG (W3C PNG, third edition) of ``[H, W]`` uint8 with colours ``[256, 3]``."""
    height, width = indices.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    # Filter 2 (difference to the row above) suits smooth pictures; byte 0 of each row names it.
    above = np.vstack([np.zeros((1, width), np.uint8), indices[:-1]])
    rows = np.hstack([np.full((height, 1), 2, np.uint8), indices - above])
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", colours.astype(np.uint8).tobytes()),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            chunk(b"IEND", b""),
        ]
    )
