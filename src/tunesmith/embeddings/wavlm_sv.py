"""WavLM's x-vectors: whose voice it is (Chen et al. 2022, arXiv:2110.13900; Snyder et al. 2018, "X-vectors").

A row is the vector of ten seconds, of length 1, so that products of rows are cosines.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import WavLMForXVector

from tunesmith.embeddings._wave import Wave

SPEC = {
    "name": "wavlm_sv",
    "summary": "WavLM x-vectors: whose voice it is, for speaker similarity",
    "default": None,
    "suggests": "microsoft/wavlm-base-plus-sv@REVISION",
    "licence": "CC-BY-SA-3.0",
    "hears": "speech",
    "text": False,
    "needs": [],
    "dimension": 512,
    "matches": {"model_type": "wavlm", "architectures": ["WavLMForXVector"]},
}


def _hear(model: Any, sound: Tensor) -> Tensor:
    """Rows ``[B, D]`` of length 1 of ``[B, T]``."""
    return functional.normalize(model(sound).embeddings.double(), dim=-1)


def load(name: str | None = None, device: str = "auto") -> Wave:
    """A WavLM with an x-vector head, by hub id or folder."""
    return Wave(
        SPEC,
        WavLMForXVector,
        name,
        device,
        window_s=10.0,
        width=lambda config: int(config.xvector_output_dim),
        hear=_hear,
    )
