"""Predicted mean opinion scores of speech: DNSMOS, through the package that carries its networks.

Reddy et al. 2021, "DNSMOS" (P.808: overall quality), and 2022, "DNSMOS P.835" (arXiv:2110.01763:
the speech signal, the background, and both), trained on listeners' answers to noisy and denoised
speech. The networks are in the package ``speechmos`` (MIT), so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr

from tunesmith.errors import UserError
from tunesmith.metrics._intervals import of_ratio
from tunesmith.metrics._result import Result
from tunesmith.types import Audio

SPEC = {
    "name": "mos",
    "summary": "Predicted MOS (DNSMOS P.835 and P.808): how clean speech sounds, 1 to 5",
    "better": "higher",
    "needs": ["candidate"],
}

LABEL = "DNSMOS (speechmos)"
SAMPLE_RATE_HZ = 16_000
SPEECH_ONLY = (
    "DNSMOS was trained on speech with noise and what noise suppressors made of it: of music it says "
    "little, and it hears nothing above 8 kHz"
)
_SILENT = 1.5 / 32768


@dataclass(frozen=True, slots=True)
class Scores:
    """What is predicted that listeners would say of one sound, each from 1 to 5 or so.

    Attributes:
        overall: P.835 OVRL, speech and background together.
        signal: P.835 SIG, the speech itself.
        background: P.835 BAK, how little the background disturbs.
        p808: overall quality by the other network.
    """

    overall: float
    signal: float
    background: float
    p808: float


def score(audio: Audio) -> Scores:
    """DNSMOS of one sound: the mean over windows of nine seconds; shorter sounds are repeated.

    Args:
        audio: any rate and length; channels are averaged, and what lies beyond ±1 is cut off.

    Raises:
        UserError: no samples, NaN or infinity, or the package is not installed.
    """
    if audio.samples.size == 0 or not np.isfinite(audio.samples).all():
        raise UserError("mos: no samples, or NaN or infinity among them", "leave this sound out")
    dnsmos = _package()
    mono = np.ascontiguousarray(audio.samples.mean(axis=0, dtype=np.float32))
    if audio.sample_rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, audio.sample_rate_hz, SAMPLE_RATE_HZ)
    if not mono.size:  # a few samples at a high rate
        mono = np.zeros(1, np.float32)
    found = dnsmos.run(np.clip(mono, -1.0, 1.0).astype(np.float32), SAMPLE_RATE_HZ)
    keys = ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos")
    return Scores(*(float(found[key]) for key in keys))


def compute(candidate: Iterable[Audio], *, seed: int = 0) -> Result:
    """Mean DNSMOS of takes.

    Args:
        candidate: N sounds, heard one after the other. Silent ones are left out: the networks give
            silence a middling mark.
        seed: unused, nothing is drawn; here because every metric takes one.

    Returns:
        Mean P.835 OVRL with its t interval over takes; ``dimension`` is 1. ``details``: ``signal``,
        ``background`` and ``p808``, means over the same takes.

    Raises:
        UserError: no takes but silent ones, NaN, or the package is not installed.
    """
    del seed
    scores = [None if _is_silent(audio) else score(audio) for audio in candidate]
    heard = [one for one in scores if one is not None]
    if not heard:
        raise UserError("mos: nothing but silence", "give takes with speech in them")
    overall = np.array([one.overall for one in heard])
    warnings = [SPEECH_ONLY]
    if silent := len(scores) - len(heard):
        warnings.append(f"{silent} of {len(scores)} takes are silent and left out")
    return Result(
        value=float(overall.mean()),
        interval=of_ratio(overall, np.ones(len(overall)), (1.0, 5.0)),
        p_value=None,
        n_reference=0,
        n_candidate=len(heard),
        dimension=1,
        warnings=tuple(warnings),
        details={
            name: float(np.mean([getattr(one, name) for one in heard]))
            for name in ("signal", "background", "p808")
        },
    )


def _is_silent(audio: Audio) -> bool:
    return audio.samples.size > 0 and float(np.abs(audio.samples).max()) <= _SILENT


def _package() -> Any:
    try:
        from speechmos import dnsmos
    except ImportError as error:
        raise UserError(
            f"predicted MOS needs a package that is not installed ({error})",
            "pip install 'tunesmith[evaluate]'",
        ) from error
    return dnsmos
