"""Stable Audio Open (Evans et al. 2024, arXiv:2407.14358): diffusion over an autoencoder's latents.

Checkpoints in the layout of diffusers' ``StableAudioPipeline``.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.families._bases import Base
    from tunesmith.families.stable_audio.bundle import StableAudioBundle

SPEC = {
    "summary": "Stable Audio Open: text and timing to sound, a diffusion transformer over latents",
    "matches": [{"file": "model_index.json", "_class_name": "StableAudioPipeline"}],
    "checkpoints": ["stabilityai/stable-audio-open-1.0"],
    "licence": "Stability AI Community License",
    "sample_rate_hz": 44100,
    "channels": [1, 2],
    "max_s": 47.5,
    "roles": ["self_attention", "cross_attention", "feed_forward", "text_embedding", "conditioner"],
    "library": "diffusers",
    "parts": ["transformer", "projection_model", "text_encoder", "vae"],
    "loss_unit": "squared error",
    "pretraining_lr": 5e-5,
    "defaults": {
        "lora": {"train.lr": 1e-4, "train.steps": 1000},
        "full": {"train.lr": 5e-6, "train.epochs": 10, "train.weight_decay": 0.01},
        "bottleneck": {"train.lr": 3e-4, "train.steps": 1000},
        "prefix": {"train.lr": 1e-3, "train.steps": 1000, "train.weight_decay": 0.0},
        # In units of the embedding table's scale; see the method's rates.
        "textual_inversion": {
            "train.lr": 1e-2,
            "train.steps": 1000,
            "train.weight_decay": 0.0,
        },
        "dreambooth": {"train.steps": 400, "train.batch_size": 2},
    },
    "declines": {},
}


def limits(base: Base) -> tuple[int, int, float]:
    """``(sample_rate_hz, channels, max_s)`` from the config files alone."""
    vae, transformer = (
        json.loads((base.path / part / "config.json").read_text(encoding="utf-8"))
        for part in ("vae", "transformer")
    )
    rate_hz, hop = int(vae["sampling_rate"]), math.prod(vae["downsampling_ratios"])
    window_s = int(transformer["sample_size"]) * hop / rate_hz
    return rate_hz, int(vae["audio_channels"]), min(window_s, float(base.notes.get("max_s", 1e9)))


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> StableAudioBundle:
    """Load a base; ``device="meta"`` gives its modules without weights."""
    from tunesmith.families.stable_audio.loading import load as load_bundle

    return load_bundle(base, device=device, dtype=dtype)


def tiny(seed: int = 0, *, channels: int = 2, width: int = 48) -> StableAudioBundle:
    """The same architecture in a size for tests, with random weights."""
    from tunesmith.families.stable_audio._tiny import tiny_bundle

    return tiny_bundle(seed, channels=channels, width=width)
