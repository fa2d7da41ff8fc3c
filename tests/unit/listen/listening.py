"""Sounds that the tests of this folder are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 8000


def tone(path: Path, hz: float, gain: float = 0.1, seconds: float = 0.6, channels: int = 1) -> Path:
    """A sine of a given peak."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = gain * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), RATE_HZ)
    return path
