"""Whose voice it is, by a small network that ships with the package: no download, nothing to install.

It learnt to tell synthetic voices apart, from judge's share of the corpus of ``pretrain.voice``, and never
steered any: the base ``pocket-voice`` is told its speaker by another network that hears otherwise. It is made
for such voices; between people it tells less than an encoder that has heard thousands of them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from tunesmith.analysis import speech_nets
from tunesmith.embeddings._embedder import cut, exactly, key_of, sound_at
from tunesmith.errors import UserError
from tunesmith.types import Audio

SPEC = {
    "name": "voiceprint",
    "summary": "the embedded voice encoder: whose voice it is, offline; made for synthetic voices",
    "default": None,
    "licence": "Apache-2.0",
    "hears": "speech",
    "text": False,
    "needs": [],
    "dimension": 256,
    "matches": {},
}

FILE = Path(__file__).parents[1] / "pocket" / "listeners" / "voiceprint.safetensors"
"""The weights that ship."""

WINDOW_S = 10.0
LEAST_S = 1.5
"""Shorter sounds are heard again from their start until they are as long: its shortest in training."""

_RATE_HZ = speech_nets.Voiceprint.RATE_HZ


def available() -> bool:
    """Whether it can be opened without installing anything."""
    return FILE.is_file()


class Voiceprint:
    """An :class:`~tunesmith.embeddings.Embedder`: a row of length 1 for each ten seconds; on the CPU.

    A sound of up to fifteen seconds is one row. Silence has a row, too, which means nothing.

    Raises:
        UserError: the weights are not there, or not those of a voiceprint.
    """

    window_s = WINDOW_S
    small = True

    def __init__(self) -> None:
        self._network, config = speech_nets.opened(FILE, "voiceprint")
        self.dimension = int(config["network"]["size"])
        version = hashlib.sha256(FILE.read_bytes()).hexdigest()
        self.label = f"voiceprint@{version[:12]}"
        self.key = key_of("voiceprint", version, WINDOW_S, LEAST_S)

    def embed(self, audio: Audio) -> np.ndarray:
        """float64 ``[W, 256]``."""
        mono = sound_at(audio, _RATE_HZ)[0]
        least = round(LEAST_S * _RATE_HZ)
        if len(mono) < least:
            mono = np.resize(mono, least)
        # One at a time: a batch's sums are rounded otherwise, and a row is to be the same every time.
        size = round(WINDOW_S * _RATE_HZ)
        windows = [mono] if len(mono) < 1.5 * size else cut(mono, size)
        with exactly():
            rows = [self._network(torch.from_numpy(one.copy())[None])[0] for one in windows]
        made = torch.stack(rows).double()
        return (made / made.norm(dim=1, keepdim=True).clamp_min(1e-12)).numpy()


def load(name: str | None = None, device: str = "auto") -> Voiceprint:
    """The embedded network.

    Args:
        name: None; it has no other weights.
        device: not used, it runs on the CPU.

    Raises:
        UserError: a name is given.
    """
    del device
    if name is not None:
        raise UserError(
            "embedding 'voiceprint' takes no model", f"write 'voiceprint', not 'voiceprint:{name}'"
        )
    return Voiceprint()
