"""A recording in two: what lies in a band of frequencies, and the rest."""

from __future__ import annotations

import numpy as np
from scipy import signal

LOWEST_HZ = 20.0
_ORDER = 6


def split(
    samples: np.ndarray, rate_hz: int, low_hz: float, high_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """``(inside, outside)`` of a band, float32 ``[C, T]`` each; their sum is the recording.

    A Butterworth band-pass of order 6, run forward and backward, so that nothing is shifted. A band
    that reaches below 20 Hz or to the end of the spectrum has no edge there.

    Args:
        samples: ``[C, T]``.
        rate_hz: samples per second.
        low_hz, high_hz: edges of the band, where half of the level is left.
    """
    top = 0.499 * rate_hz
    edges = [edge for edge in (low_hz, high_hz) if LOWEST_HZ < edge < top]
    if not edges:
        return samples.astype(np.float32), np.zeros_like(samples, dtype=np.float32)
    kind = "bandpass" if len(edges) == 2 else "lowpass" if edges[0] == high_hz else "highpass"
    at = edges if len(edges) == 2 else edges[0]
    sections = signal.butter(_ORDER, at, kind, fs=rate_hz, output="sos")
    room = min(samples.shape[1] - 1, 3 * _ORDER * 40)
    inside = signal.sosfiltfilt(sections, samples.astype(np.float64), axis=1, padlen=max(0, room))
    return inside.astype(np.float32), (samples - inside).astype(np.float32)


def drawn(seed: int, rate_hz: int) -> tuple[float, float]:
    """A band of one to three octaves somewhere above 100 Hz, from a seed: ``(low_hz, high_hz)``."""
    draw = np.random.default_rng(seed)
    top = np.log2(0.5 * rate_hz)
    bottom = min(np.log2(100.0), top - 1.5)
    width = min(draw.uniform(1.0, 3.0), top - bottom)
    low = draw.uniform(bottom, top - width)
    return float(2**low), float(2 ** (low + width))
