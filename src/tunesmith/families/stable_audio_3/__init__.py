"""Stable Audio 3 (Stability AI 2026, arXiv:2605.17991): flow matching over an autoencoder's latents.

Checkpoints in the layout of diffusers' ``StableAudio3Pipeline``. The hub's are in the layout of their
first trainer: diffusers' ``scripts/convert_stable_audio_3_to_diffusers.py`` makes such a folder of them.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.families._bases import Base
    from tunesmith.families.stable_audio_3.bundle import StableAudio3Bundle

SPEC = {
    "summary": "Stable Audio 3: text and duration to sound, inpainting; needs a converted folder",
    "matches": [
        {"file": "model_index.json", "_class_name": "StableAudio3Pipeline"},
        {"file": "model_index.json", "_class_name": "StableAudio3InpaintPipeline"},
        {"file": "model_index.json", "_class_name": "StableAudio3AudioToAudioPipeline"},
    ],
    # Gated, and to be converted; the second is distilled and only serves.
    "checkpoints": ["stabilityai/stable-audio-3-medium-base", "stabilityai/stable-audio-3-medium"],
    "licence": "Stability AI Community License",
    "sample_rate_hz": 44100,
    "channels": 2,
    "max_s": 384.0,
    "library": "diffusers",
    "parts": ["transformer", "duration_embedder", "text_encoder", "vae"],
    "loss_unit": "squared error",
    "roles": ["self_attention", "cross_attention", "feed_forward", "text_embedding", "conditioner"],
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
    vae, duration = (
        json.loads((base.path / part / "config.json").read_text(encoding="utf-8"))
        for part in ("vae", "duration_embedder")
    )
    max_s = min(float(duration["max_val"]), float(base.notes.get("max_s", math.inf)))
    return int(vae["sampling_rate"]), int(vae["audio_channels"]), max_s


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> StableAudio3Bundle:
    """Load a base; ``device="meta"`` gives its modules without weights."""
    from tunesmith.families.stable_audio_3.loading import load as load_bundle

    return load_bundle(base, device=device, dtype=dtype)


def tiny(seed: int = 0, *, width: int = 48) -> StableAudio3Bundle:
    """The same architecture in a size for tests, with random weights."""
    from tunesmith.families.stable_audio_3._tiny import tiny_bundle

    return tiny_bundle(seed, width=width)
