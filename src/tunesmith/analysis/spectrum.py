"""What several measurements look at: one channel at 22.05 kHz, and its short-time spectra."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.fft
import scipy.signal
import soxr

RATE_HZ = 22_050
"""Rate of :func:`to_mono`. Pulse and key lie far below its 11 kHz."""

_SILENT_PEAK = 1e-6  # -120 dB
_BLOCK_S = 20.0  # spectra are made in stretches, so that ten minutes do not take a gigabyte
_FAINT = 0.01
_CANCELLED = 0.01  # share of the channels' power below which their mean is no picture of them


def to_mono(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """float32 ``[T, C]`` to float32 ``[N]`` at 22.05 kHz: the mean of the channels.

    Scaled to a peak of 1 beforehand, so that nothing that follows depends on the gain.
    Where the channels cancel (a side signal, one of two plugged the wrong way round), the loudest
    one stands for all.
    """
    rows = np.ascontiguousarray(samples.T, dtype=np.float32)
    peak = max(float(rows.max(initial=0.0)), -float(rows.min(initial=0.0)))
    if peak < _SILENT_PEAK:
        return np.zeros(-(-len(samples) * RATE_HZ // sample_rate_hz), np.float32)
    rows = rows * np.float32(1 / peak)
    mono = rows.mean(axis=0)
    if len(rows) > 1:
        power = np.array([np.dot(row, row) for row in rows])
        if np.dot(mono, mono) < _CANCELLED * power.mean():
            mono = rows[int(np.argmax(power))]
    if sample_rate_hz == RATE_HZ:
        return mono
    return soxr.resample(mono, sample_rate_hz, RATE_HZ, quality="MQ")


def magnitudes(mono: np.ndarray, size: int, hop: int) -> Iterator[np.ndarray]:
    """Magnitudes of Hann-windowed spectra, in stretches of some seconds.

    A sine of amplitude 1 peaks at 1. Frame ``i`` is centred on sample ``i * hop``.

    Args:
        mono: float32 ``[N]``.
        size: of a window, in samples.
        hop: between windows, in samples.

    Yields:
        float32 ``[F, size // 2 + 1]``, consecutive; together ``1 + N // hop`` frames.
    """
    window = np.asarray(scipy.signal.get_window("hann", size), np.float32)
    window *= 2 / window.sum()
    frames = 1 + len(mono) // hop
    # Mirrored, since silence at the ends would make an onset and a click of every clip's edges.
    mode = "reflect" if len(mono) > 1 else "constant"
    padded = np.pad(mono, (size // 2, size), mode=mode)
    views = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:frames]
    step = max(1, int(_BLOCK_S * RATE_HZ / hop))
    for start in range(0, frames, step):
        yield np.abs(np.asarray(scipy.fft.rfft(views[start : start + step] * window, axis=1)))


def centroids(spectra: np.ndarray) -> np.ndarray:
    """Centre of gravity of magnitudes ``[F, bins]`` in Hz, ``[F]``; NaN 40 dB below the loudest."""
    sums = spectra.sum(axis=1)
    hz = np.linspace(0, RATE_HZ / 2, spectra.shape[1], dtype=np.float32)
    heard = sums > _FAINT * max(float(sums.max(initial=0.0)), 1e-9)
    return np.where(heard, spectra @ hz / np.maximum(sums, 1e-12), np.nan)
