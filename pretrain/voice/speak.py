"""Speech by rule: espeak-ng's sound of a text, and the phones that it says, from one and the same run."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

from pretrain.common import SAMPLE_RATE_HZ
from pretrain.voice.speakers import Speaker

PROGRAM = "espeak-ng"
RMS = 0.08  # of the spoken part, full scale 1
PEAK = 0.95
# A recording is never silent. Without a floor the log-mels of pauses would be at minus ten, and a
# model of them would spend itself on a number that no other data has.
FLOOR = 2e-4
LEAD_SAMPLES, TAIL_SAMPLES = 800, 1200  # kept before and after the speech
_SOUNDING = 0.01  # amplitude, relative to the highest, at which speech begins and ends
_STRESS = str.maketrans("", "", "ˈˌ")
# Symbols that say more than can be heard, or two phones in one: what stands for them.
_VOWELS = "aeiouyæœøɐɑɒɔəɛɜɪʉʊʌ"
_MERGED = {
    "ə-": "ə", "a-": "a", "e-": "e", "aa": "a", "ss": "s", "??": "ʔ", "ᵻ": "ɪ", "t̪": "t", "n̩": "ə n",
    "l̩": "ə l", "a:": "aː", "eʲ": "e", "əl": "ə l",
    "aɪə": "aɪ ə", "aɪɚ": "aɪ ɚ", "iə": "i ə", "eə": "ɛə", "ei": "eɪ", "oɪ": "ɔɪ",
}  # fmt: skip


class Unsayable(ValueError):
    """The text is read in two languages, or not at all."""


@dataclass(frozen=True)
class Spoken:
    """Sound int16 ``[T]`` at 16 kHz mono, and phones in espeak-ng's IPA without stress."""

    sound: np.ndarray
    phones: list[str]


def speak(text: str, speaker: Speaker, seed: int = 0) -> Spoken:
    """Say a text.

    Args:
        text: one sentence.
        speaker: who says it.
        seed: of the noise floor.

    Raises:
        Unsayable: nothing is said, or a part of it in another language.
        FileNotFoundError: espeak-ng is not installed.
    """
    # The phones come through a pipe of their own: on stderr, a warning would be taken for some.
    reading, writing = os.pipe()
    command = [
        PROGRAM, "-v", f"{speaker.language}+{speaker.variant}", "-p", str(speaker.pitch),
        "-s", str(round(speaker.speed / speaker.warp)), "-b", "1", "--stdin", "--stdout",
        "--ipa", "--sep=_", f"--phonout=/dev/fd/{writing}",
    ]  # fmt: skip
    with os.fdopen(reading, "rb") as pipe:
        try:
            done = subprocess.run(
                command, input=text.encode(), capture_output=True, check=True, pass_fds=(writing,)
            )
        finally:
            os.close(writing)
        phones = symbols(pipe.read().decode())
    rate_hz, sound = _wave(done.stdout)
    return Spoken(_finish(sound, rate_hz, speaker.warp, seed), phones)


def symbols(ipa: str) -> list[str]:
    """The phones in espeak-ng's output with ``--sep=_``, stress removed.

    Raises:
        Unsayable: it holds none, or a mark of a change of language.
    """
    if "(" in ipa:
        raise Unsayable(ipa.strip())
    found: list[str] = []
    for part in ipa.replace("_", " ").split():
        found += _simple(part.translate(_STRESS).strip("-")).split()
    if not found:
        raise Unsayable("nothing is said")
    return found


def _simple(symbol: str) -> str:
    symbol = _MERGED.get(symbol, symbol)
    if len(symbol) > 1 and symbol.endswith("ɹ"):
        return f"{_MERGED.get(symbol[:-1], symbol[:-1])} ɹ"
    # Long consonants (of Italian) count as short ones: how long is not what a recogniser is asked.
    return symbol[:-1] if symbol.endswith("ː") and symbol[0] not in _VOWELS else symbol


def _wave(data: bytes) -> tuple[int, np.ndarray]:
    """Rate and int16 samples of espeak-ng's WAV stream, whose length field says nothing."""
    at = data.find(b"data")
    if data[:4] != b"RIFF" or at < 0:
        raise Unsayable("no sound")
    body = data[at + 8 :]
    rate_hz = int.from_bytes(data[24:28], "little")
    return rate_hz, np.frombuffer(body[: len(body) // 2 * 2], dtype="<i2")


def warped(sound: np.ndarray, rate_hz: int, warp: float) -> tuple[np.ndarray, int, int]:
    """A warped voice at 16 kHz, float32 ``[T]``, and the first and last sample in which it speaks."""
    ratio = Fraction(SAMPLE_RATE_HZ / (rate_hz * warp)).limit_denominator(150)
    wave = resample_poly(sound.astype(np.float32) / 32768, ratio.numerator, ratio.denominator)
    loud = np.flatnonzero(np.abs(wave) > _SOUNDING * np.abs(wave).max(initial=0.0))
    if not len(loud):
        raise Unsayable("silence")
    return wave, int(loud[0]), int(loud[-1])


def _finish(sound: np.ndarray, rate_hz: int, warp: float, seed: int) -> np.ndarray:
    """Warp, resample to 16 kHz, trim, bring to a level, add the noise floor."""
    wave, first, last = warped(sound, rate_hz, warp)
    spoken = wave[first : last + 1]
    gain = min(RMS / float(np.sqrt(np.mean(spoken**2))), PEAK / float(np.abs(spoken).max()))
    made = np.random.default_rng(seed).normal(0, FLOOR, LEAD_SAMPLES + len(spoken) + TAIL_SAMPLES)
    made[LEAD_SAMPLES : LEAD_SAMPLES + len(spoken)] += gain * spoken
    return np.round(made * 32767).clip(-32768, 32767).astype(np.int16)
