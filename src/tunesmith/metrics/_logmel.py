"""A plain acoustic embedding that needs no model: log-mel statistics of one-second windows.

Nothing in it was trained, so it cannot favour what some model was trained on; it hears timbre and
loudness over time, not melody or harmony. Name beside every figure: :data:`NAME`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tunesmith.types import Audio

NAME = "logmel-64 (1 s windows)"
_BANDS = 32


def _mel(hz: np.ndarray | float) -> np.ndarray:
    return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)


@cache
def _bank(sample_rate_hz: int, size: int) -> np.ndarray:
    """Triangular mel filters ``[32, size // 2 + 1]`` (O'Shaughnessy 1987) from 40 Hz to 7.6 kHz."""
    top = min(7600.0, sample_rate_hz / 2)
    edges_mel = np.linspace(_mel(40.0), _mel(top), _BANDS + 2)
    edges = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins = np.linspace(0, sample_rate_hz / 2, size // 2 + 1)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0.0, np.minimum(up, down))


def embed(audio: Audio, window_s: float = 1.0) -> np.ndarray:
    """Means and deviations over time of 32 log-mel bands, per window.

    Args:
        audio: any rate; channels are averaged.
        window_s: seconds a window; a rest shorter than half of one is left out.

    Returns:
        ``[N, 64]`` float64, in log10 units.
    """
    mono = audio.samples.mean(axis=0).astype(np.float64)
    rate = audio.sample_rate_hz
    size = 1 << max(4, round(np.log2(0.064 * rate)))
    length = int(window_s * rate)
    rows = []
    for start in range(0, max(1, len(mono) - length // 2), length):
        part = mono[start : start + length]
        part = np.pad(part, (0, max(0, size - len(part))))
        frames = sliding_window_view(part, size)[:: size // 4] * np.hanning(size)
        power = np.abs(np.fft.rfft(frames, axis=-1) / size) ** 2
        log_mel = np.log10(power @ _bank(rate, size).T + 1e-8)
        rows.append(np.concatenate([log_mel.mean(axis=0), log_mel.std(axis=0)]))
    return np.stack(rows)
