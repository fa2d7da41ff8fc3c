"""A piece of a recording becomes the sound of a clip: channels, rate, loudness, FLAC."""

from __future__ import annotations

import io
import math

import numpy as np
import soundfile
import soxr

from tunesmith.data.recording import BadRecording

_FULL_16 = 32767 / 32768
PEAK_DBTP = -1.0
"""What a clip that is brought to a loudness may peak at (EBU R 128, section on production)."""


def conform(
    samples: np.ndarray, rate_hz: int, wanted_hz: int | None, channels: int | None
) -> np.ndarray:
    """The same sound with another number of channels and at another rate.

    Args:
        samples: float32 ``[T, C]``.
        rate_hz: of the samples.
        wanted_hz: rate to make (soxr, HQ); ``None`` keeps it.
        channels: 1 (mean of all) or 2 (mono is doubled); ``None`` keeps them.

    Returns:
        float32 ``[T', C']``.

    Errors: :class:`BadRecording` for more than two channels that are to become two.
    """
    have = samples.shape[1]
    if channels == 1 and have > 1:
        samples = samples.mean(axis=1, keepdims=True, dtype=np.float32)
    elif channels == 2 and have == 1:
        samples = np.repeat(samples, 2, axis=1)
    elif channels == 2 and have > 2:
        raise BadRecording(f"{have} channels cannot be mapped to 2: mix it down first")
    if wanted_hz and wanted_hz != rate_hz:
        samples = soxr.resample(samples, rate_hz, wanted_hz, quality="HQ")
    return samples


def normalising_gain_db(
    loudness_lufs: float | None, true_peak_dbtp: float, wanted_lufs: float | None
) -> float:
    """What brings a clip to a loudness without its true peak rising above :data:`PEAK_DBTP`.

    Args:
        loudness_lufs: measured; ``None`` for what is too quiet to have one, which is left alone.
        true_peak_dbtp: measured.
        wanted_lufs: ``None`` leaves every clip as it is.
    """
    if wanted_lufs is None or loudness_lufs is None:
        return 0.0
    return round(min(wanted_lufs - loudness_lufs, PEAK_DBTP - true_peak_dbtp), 3)


def flac(
    samples: np.ndarray, sample_rate_hz: int, bits: int, gain_db: float = 0.0
) -> tuple[bytes, float]:
    """Encodes a clip; one that would clip is turned down just so far that it does not.

    Args:
        samples: float32 ``[T, C]``.
        sample_rate_hz: of the samples.
        bits: 16 or 24. What came from as many bits comes back exactly where there is no gain.
        gain_db: what it is turned up or down by.

    Returns:
        The file, and the whole gain in dB.

    Errors: :class:`BadRecording` if FLAC cannot hold such sound.
    """
    top = _FULL_16 if bits == 16 else 8388607 / 8388608
    gain = 10 ** (gain_db / 20) if gain_db else 1.0
    highest, lowest = gain * float(samples.max()), gain * float(samples.min())
    gain *= min(1.0, top / highest if highest > top else 1.0, -1 / lowest if lowest < -1 else 1.0)
    # Not left to libsndfile: it scales floats by 32767, which changes every 16-bit sample.
    if bits == 16:
        whole = np.rint(samples.astype(np.float64) * (gain * 32768))
        data = np.clip(whole, -32768, 32767).astype(np.int16)
    else:
        whole = np.rint(samples.astype(np.float64) * (gain * 8388608))
        data = np.clip(whole, -8388608, 8388607).astype(np.int32) << 8
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, data, sample_rate_hz, format="FLAC", subtype=f"PCM_{bits}")
    except (RuntimeError, ValueError) as error:
        raise BadRecording(f"cannot be kept as FLAC: {error}") from None
    return buffer.getvalue(), 0.0 if gain == 1.0 else round(20 * math.log10(gain), 3)
