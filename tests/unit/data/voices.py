"""Something that silero-vad takes for a voice, made by rule: vowels of a glottal buzz, and hisses between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from scipy import signal

RATE_HZ = 16_000
_VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)


def talk(
    seconds: float, seed: int = 0, pitch_hz: float = 120.0, size: float = 1.0, floor: float = 3e-4
) -> np.ndarray:
    """Syllables without a pause: float32 ``[T]`` at 16 kHz.

    Args:
        seconds: how long.
        seed: of the syllables.
        pitch_hz, size: of whose voice it is; ``size`` is a factor on the formants.
        floor: amplitude of the white noise that it lies in.
    """
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE_HZ:
        count = int(rng.uniform(0.12, 0.22) * RATE_HZ)
        glide = pitch_hz * (
            1 + 0.15 * np.sin(np.linspace(0, rng.uniform(1, 3), count) + rng.uniform(0, 6))
        )
        phase = np.cumsum(glide / RATE_HZ)
        wave = 2 * (phase % 1) - 1
        for formant_hz in _VOWELS[int(rng.integers(len(_VOWELS)))]:
            band = np.clip([0.92 * formant_hz * size, 1.08 * formant_hz * size], 60, 7800)
            wave = wave + 6 * signal.lfilter(*signal.butter(1, band, "band", fs=RATE_HZ), wave)
        wave *= np.hanning(count) ** 0.4
        hiss = rng.standard_normal(int(rng.uniform(0.04, 0.09) * RATE_HZ))
        hiss = signal.lfilter(*signal.butter(2, 3500, "high", fs=RATE_HZ), hiss)
        parts += [wave / np.abs(wave).max(), 0.12 * hiss * np.hanning(len(hiss))]
    sound = 0.3 * np.concatenate(parts)[: round(seconds * RATE_HZ)]
    return (sound + floor * rng.standard_normal(len(sound))).astype(np.float32)


def pause(seconds: float, floor: float = 3e-4, seed: int = 0) -> np.ndarray:
    """Nothing but a little noise: float32 ``[T]``."""
    noise = np.random.default_rng([seed, 9]).standard_normal(round(seconds * RATE_HZ))
    return (floor * noise).astype(np.float32)


def phrases(lengths_s: list[float], gap_s: float = 0.5, **voice) -> np.ndarray:
    """Stretches of talk with pauses before, between and after."""
    parts = [pause(gap_s)]
    for number, length_s in enumerate(lengths_s):
        parts += [
            talk(length_s, seed=100 * voice.get("seed", 0) + number, **_but(voice)),
            pause(gap_s),
        ]
    return np.concatenate(parts)


def _but(voice: dict) -> dict:
    return {name: value for name, value in voice.items() if name != "seed"}


def put(path: Path, sound: np.ndarray, text: str | None = None) -> Path:
    """Writes a recording, and its text beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, RATE_HZ)
    if text is not None:
        path.with_suffix(".txt").write_text(text)
    return path
