"""A base's own speaker encoder: the vector of a voice, from recordings of it.

A base that brings one has it in ``listeners/xvector.safetensors``, a network of
:mod:`tunesmith.analysis.speech_nets`. It takes the log-mels that the speech model makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from tunesmith.analysis import speech_nets
from tunesmith.analysis.speech_mels import SAMPLE_RATE_HZ, SIZE, log_mels
from tunesmith.errors import UserError
from tunesmith.families.speecht5 import speaker
from tunesmith.types import Audio

FILE = Path("listeners") / "xvector.safetensors"
"""Where it lies in a base's folder."""


def encoder(base: Path, size: int) -> Any:
    """The speaker encoder that lies in a base's folder; None where none does.

    Args:
        base: the folder.
        size: numbers that the base wants of a speaker.

    Raises:
        UserError: it does not load, or makes vectors of another size.
    """
    path = base / FILE
    if not path.is_file():
        return None
    network, config = speech_nets.opened(path, "xvector")
    if (made := config["network"]["size"]) != size:
        raise UserError(
            f"{path} makes vectors of {made} numbers, where the base wants {size}",
            "download the base again",
        )
    return network


@torch.inference_mode()
def heard(network: Any, sounds: Sequence[Audio]) -> Tensor:
    """The direction between the vectors of all sounds: float32 ``[E]`` of length 1.

    A second or two of speech is little, ten sounds of three seconds are plenty: how a sentence goes is
    in its vector, too, and only means of several are free of it.

    Args:
        network: of :func:`encoder`.
        sounds: any rates, levels and numbers of channels (their mean is heard).

    Raises:
        UserError: no sounds, or one that is shorter than 33 ms, silent, or not finite.
    """
    if not sounds:
        raise UserError("no recording to hear a speaker in", "give one or more")
    found = []
    for number, audio in enumerate(sounds, 1):
        mono = audio.samples.mean(axis=0, dtype=np.float32)
        if audio.sample_rate_hz != SAMPLE_RATE_HZ:
            mono = soxr.resample(mono, audio.sample_rate_hz, SAMPLE_RATE_HZ)
        if len(mono) <= SIZE // 2 or not np.isfinite(mono).all() or not mono.any():
            raise UserError(
                f"recording {number} of a speaker is too short, silent or not finite",
                "leave it out",
            )
        wave = torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))
        mel = log_mels(wave[None], [len(wave)])[0]
        found.append(network(mel[None], torch.tensor([len(mel)]))[0])
    return speaker.mean(found)
