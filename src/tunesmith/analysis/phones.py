"""Which phones are heard in speech: a small network that ships with the package, and no download.

It was trained on synthetic speech of many voices in English, German, Spanish, French and Italian, and
writes what it hears as IPA without stress. Of a recording of a person it is a rough judge: compare with what
it makes of real recordings of the same voice.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from tunesmith.analysis import speech_nets
from tunesmith.analysis.speech_mels import SAMPLE_RATE_HZ, SIZE, log_mels
from tunesmith.errors import UserError
from tunesmith.types import Audio

FILE = Path(__file__).parents[1] / "pocket" / "listeners" / "phones.safetensors"
"""The weights that ship."""

_SILENCE = 1e-4  # -80 dBFS: the network hears at any level, and would hear phones in dither


class PhoneRecogniser:
    """Hears phones; always on the CPU, the same every time. Open one with :meth:`load`.

    Args:
        network: a :class:`~tunesmith.analysis.speech_nets.Recogniser` in evaluation mode.
        inventory: its phones in IPA; output 0 is none of them.
        version: hash of its weights.
    """

    def __init__(self, network: Any, inventory: list[str], version: str) -> None:
        self._network, self.inventory, self.version = network, tuple(inventory), version
        self.label = f"phones@{version[:12]}"

    @classmethod
    def load(cls, path: Path | None = None) -> PhoneRecogniser:
        """The recogniser of a file.

        Args:
            path: a safetensors file of ``pretrain.voice.recogniser``; None for the one that ships.

        Raises:
            UserError: there is none, or it is no recogniser.
        """
        return _opened((path or FILE).resolve())

    @torch.inference_mode()
    def phones(self, audio: Audio) -> list[str]:
        """What is heard, in order, in IPA.

        Args:
            audio: any rate, length, level and number of channels (their mean is heard).

        Returns:
            Nothing where there is less than 32 ms of sound, or silence (below -80 dBFS).

        Raises:
            UserError: NaN or infinity among the samples.
        """
        mono = audio.samples.mean(axis=0, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise UserError("NaN or infinity among the samples", "leave this sound out")
        if audio.sample_rate_hz != SAMPLE_RATE_HZ:
            mono = soxr.resample(mono, audio.sample_rate_hz, SAMPLE_RATE_HZ)
        if (
            len(mono) <= SIZE // 2
            or float(np.sqrt(np.square(mono, dtype=np.float64).mean())) < _SILENCE
        ):
            return []
        mel = log_mels(torch.from_numpy(np.ascontiguousarray(mono))[None], [len(mono)])[0]
        scores, sizes = self._network(mel[None], torch.tensor([len(mel)]))
        return [self.inventory[one - 1] for one in speech_nets.best_path(scores, sizes)[0]]


@cache
def _opened(path: Path) -> PhoneRecogniser:
    network, config = speech_nets.opened(path, "recogniser")
    version = hashlib.sha256(path.read_bytes()).hexdigest()
    return PhoneRecogniser(network, config["phones"], version)
