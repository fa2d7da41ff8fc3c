"""What lies under speech: how a listener would rate the background, steady tones, and reverberation."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from scipy import ndimage, signal

from tunesmith.errors import UserError

SAMPLE_RATE_HZ = 16_000
INSTALL = "pip install 'tunesmith[voice]'"

# DNSMOS P.835 (Reddy et al. 2022, arXiv:2110.01763): what its network takes, and the map from what it gives
# to the scale of listeners' answers, for the background.
_DNSMOS_SAMPLES = 144_160
_BACKGROUND = (-0.13166888, 1.60915514, -0.39604546)

# Steady tones: frames of 128 ms every 32 ms, peaks from 0.4 to 5 kHz.
_FRAME, _HOP = 2048, 512
_LOW_HZ, _HIGH_HZ = 400.0, 5000.0
_OVER_NEIGHBOURS_DB, _BELOW_LOUDEST_DB = 9.0, 65.0
_STEADY_FRAMES = 9  # 0.29 s: a voice's partials move on sooner

# Decays: three bands, levels every 5 ms, slopes over 80 ms.
_BANDS_HZ = ((300, 1000), (1000, 3000), (3000, 7000))
_STEP, _SLOPE_STEPS = 80, 16
_BELOW_TOP_DB, _ABOVE_FLOOR_DB = 20.0, 6.0
_LEAST_SLOPES = 5


def background_mos(mono: np.ndarray) -> float:
    """How little the background of speech would disturb a listener: 1 to 5, predicted by DNSMOS.

    The mean over windows of nine seconds that cover the sound evenly; shorter sounds are repeated. The
    network is the one in the package ``speechmos`` (MIT), which is found and not imported.

    Args:
        mono: float32 ``[T]`` at 16 kHz, T ≥ 1.

    Raises:
        UserError: speechmos or onnxruntime is not installed.
    """
    sound = np.clip(mono, -1.0, 1.0).astype(np.float32)
    if len(sound) < _DNSMOS_SAMPLES:
        sound = np.resize(sound, _DNSMOS_SAMPLES)
    count = max(1, round(len(sound) / _DNSMOS_SAMPLES))
    starts = np.linspace(0, len(sound) - _DNSMOS_SAMPLES, count).astype(int)
    heard = [
        _network().run(None, {"input_1": sound[None, start : start + _DNSMOS_SAMPLES]})[0][0, 1]
        for start in starts
    ]
    return float(np.polyval(_BACKGROUND, np.mean(heard, dtype=np.float64)))


def steady_tones(mono: np.ndarray) -> float:
    """How many tones that keep their pitch for 0.29 s or more sound at once, on average.

    Partials of speech glide; notes do not. A tone counts where a peak of the spectrum that stands 9 dB out
    of its neighbours stays within a bin of 8 Hz. About 0 in speech, 0.1 and up with music under it. Mains
    hum is passed over: it lies below 400 Hz but for its highest partials.

    Args:
        mono: float32 ``[T]`` at 16 kHz.
    """
    if len(mono) < _FRAME + _STEADY_FRAMES * _HOP:
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(mono, _FRAME)[::_HOP] * np.hanning(_FRAME)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))
    low, high = (round(hz * _FRAME / SAMPLE_RATE_HZ) for hz in (_LOW_HZ, _HIGH_HZ))
    edge = 20
    level = 10 * np.log10(np.maximum(power[:, low - edge : high + edge], 1e-12))
    peaks = level == ndimage.maximum_filter(level, size=(1, 5))
    peaks &= level > ndimage.median_filter(level, size=(1, 31)) + _OVER_NEIGHBOURS_DB
    peaks &= level > level.max() - _BELOW_LOUDEST_DB
    near = ndimage.maximum_filter(peaks, size=(1, 3)).astype(np.uint8)
    lasting = ndimage.minimum_filter(near, size=(_STEADY_FRAMES, 1), mode="constant")
    return float(lasting[:, edge:-edge].sum(axis=1).mean() / 3)


def decay_s(mono: np.ndarray) -> float | None:
    """How long speech takes to fall by 60 dB where it falls fastest: seconds.

    A dry voice breaks off within 0.1 to 0.25 s; in a room no fall is faster than the room's own, about
    half of its reverberation time where the direct sound is as loud as the rest. Of slopes over 80 ms, each
    from within 20 dB of the loudest and ending 6 dB above the background, the steepest twentieth; the median
    of three bands.

    Args:
        mono: float32 ``[T]`` at 16 kHz.

    Returns:
        None where there are too few such slopes to tell.
    """
    slopes = []
    window = np.hanning(4 * _STEP)
    time_s = (np.arange(_SLOPE_STEPS) - (_SLOPE_STEPS - 1) / 2) * _STEP / SAMPLE_RATE_HZ
    for band_hz in _BANDS_HZ:
        sections = signal.butter(4, band_hz, "band", fs=SAMPLE_RATE_HZ, output="sos")
        band = np.square(signal.sosfilt(sections, mono.astype(np.float64)))
        level = 10 * np.log10(np.maximum(np.convolve(band, window, "same")[::_STEP], 1e-12))
        if len(level) < _SLOPE_STEPS + 4:
            continue
        parts = np.lib.stride_tricks.sliding_window_view(level, _SLOPE_STEPS)
        floor, top = np.quantile(level, [0.05, 0.95])
        used = (parts[:, 0] > top - _BELOW_TOP_DB) & (parts.min(axis=1) > floor + _ABOVE_FLOOR_DB)
        if np.count_nonzero(used) >= _LEAST_SLOPES:
            steepness = parts[used] @ time_s / (time_s @ time_s)
            slopes.append(float(np.quantile(steepness, 0.05)))
    fastest = float(np.median(slopes)) if slopes else 0.0
    return 60.0 / -fastest if fastest < -1.0 else None


def at_16_khz(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Mean of the channels at 16 kHz: float32 ``[T']`` of ``[T, C]``."""
    mono = samples.mean(axis=1, dtype=np.float32)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, sample_rate_hz, SAMPLE_RATE_HZ)
    return np.ascontiguousarray(mono, dtype=np.float32)


def require() -> None:
    """Refuses now rather than after an hour.

    Raises:
        UserError: speechmos or onnxruntime is not installed, with the command that installs them.
    """
    _weights()


def _weights() -> Path:
    spec = find_spec("speechmos")
    if spec is None or spec.origin is None or find_spec("onnxruntime") is None:
        missing = "speechmos" if spec is None else "onnxruntime"
        raise UserError(f"voices need {missing}, which is not installed", INSTALL)
    path = Path(spec.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
    if not path.is_file():
        raise UserError("the installed speechmos carries no DNSMOS network", INSTALL)
    return path


@cache
def _network() -> Any:
    path = _weights()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
