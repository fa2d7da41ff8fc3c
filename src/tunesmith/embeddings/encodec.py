"""EnCodec's latents: how a sound is made up, not what it means (Défossez et al. 2022, arXiv:2210.13438).

A row is the mean and the standard deviation over a second of what the encoder gives before the
quantiser, D = 2 x 128 for Meta's. It hears noise, bandwidth and timbre well, and composition hardly.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import EncodecModel

from tunesmith.embeddings._codec import Codec

SPEC = {
    "name": "encodec",
    "summary": "EnCodec latents before quantisation, mean and deviation a second: timbre and quality",
    "default": "facebook/encodec_24khz",
    "licence": "see its model card",
    "hears": "sound",
    "text": False,
    "needs": [],
    "dimension": 256,
    "matches": {"model_type": "encodec"},
}


def _encode(model: Any, sound: Tensor) -> Tensor:
    """Latents ``[B, D, F]`` of ``[B, C, T]``, levelled first where the model was trained so."""
    if model.config.normalize:
        power = sound.mean(dim=1, keepdim=True).pow(2).mean(dim=-1, keepdim=True)
        sound = sound / (power.sqrt() + 1e-8)
    return model.encoder(sound)


def load(name: str | None = None, device: str = "auto") -> Codec:
    """An EnCodec by hub id or folder; Meta's at 24 kHz by default."""
    return Codec(
        SPEC,
        EncodecModel,
        name,
        device,
        channels=lambda config: int(config.audio_channels),
        encode=_encode,
        window_s=1.0,
        spread=True,
    )
