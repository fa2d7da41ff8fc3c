"""Synthesised sound for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 8000


def tone(seconds: float, seed: int = 0, channels: int = 1, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A decaying note every half second, float32 ``[T, C]``; other seeds sound different."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate_hz)
    time_s = np.arange(count) / rate_hz
    decay = np.exp(-8 * (time_s % 0.5))
    wave = 0.4 * decay * np.sin(2 * np.pi * rng.uniform(100, 900) * time_s)
    noise = 0.001 * rng.standard_normal((count, channels))
    return (wave[:, None] + noise).astype(np.float32)


def write(path: Path, seconds: float = 12.0, seed: int = 0, **options) -> Path:
    """Writes a recording; the format follows the name."""
    rate_hz = options.pop("rate_hz", RATE_HZ)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, tone(seconds, seed, options.pop("channels", 1), rate_hz), rate_hz, **options
    )
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
