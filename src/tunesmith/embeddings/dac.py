"""DAC's latents (Kumar et al. 2023, "High-Fidelity Audio Compression with Improved RVQGAN", arXiv:2306.06546).

A row is the mean over a second of what the encoder gives before the quantiser. Means alone, because
these latents are wide already (1,024 for Descript's): FAD wants five times as many rows.
"""

from __future__ import annotations

from transformers import DacModel

from tunesmith.embeddings._codec import Codec

SPEC = {
    "name": "dac",
    "summary": "DAC latents before quantisation, mean a second: timbre and quality up to 44.1 kHz",
    "default": "descript/dac_44khz",
    "licence": "MIT",
    "hears": "sound",
    "text": False,
    "needs": [],
    "dimension": 1024,
    "matches": {"model_type": "dac"},
}


def load(name: str | None = None, device: str = "auto") -> Codec:
    """A DAC by hub id or folder; Descript's at 44.1 kHz by default."""
    return Codec(
        SPEC,
        DacModel,
        name,
        device,
        channels=lambda config: 1,
        encode=lambda model, sound: model.encoder(sound),
        window_s=1.0,
        spread=False,
    )
