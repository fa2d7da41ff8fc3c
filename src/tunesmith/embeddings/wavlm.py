"""WavLM: what is said and how (Chen et al. 2022, arXiv:2110.13900).

A row is the mean over all transformer layers and all frames of four seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import WavLMModel

from tunesmith.embeddings._wave import Wave

SPEC = {
    "name": "wavlm",
    "summary": "WavLM, mean of all layers over four seconds: speech",
    "default": None,
    "suggests": "microsoft/wavlm-base-plus@REVISION",
    "licence": "CC-BY-SA-3.0",
    "hears": "speech",
    "text": False,
    "needs": [],
    "dimension": 768,
    "matches": {"model_type": "wavlm"},
}


def _hear(model: Any, sound: Tensor) -> Tensor:
    """Rows ``[B, D]`` of ``[B, T]``. The first hidden state is no layer's, and left out."""
    layers = model(sound, output_hidden_states=True).hidden_states[1:]
    return torch.stack([layer.double().mean(dim=1) for layer in layers]).mean(dim=0)


def load(name: str | None = None, device: str = "auto") -> Wave:
    """A WavLM by hub id or folder; Microsoft's main branches have no safetensors, so none by default."""
    return Wave(
        SPEC,
        WavLMModel,
        name,
        device,
        window_s=4.0,
        width=lambda config: int(config.hidden_size),
        hear=_hear,
    )
