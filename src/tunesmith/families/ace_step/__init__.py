"""ACE-Step 1.5 (ACE Studio and StepFun 2026, arXiv:2602.00744): songs by flow matching over latents.

Checkpoints in the layout of diffusers' ``AceStepPipeline``. Base checkpoints train; turbo ones, distilled to
eight steps, only serve.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tunesmith.families._bases import Base
    from tunesmith.families.ace_step.bundle import AceStepBundle

SPEC = {
    "summary": "ACE-Step 1.5: caption, lyrics, tempo and key to songs of up to ten minutes",
    "matches": [{"file": "model_index.json", "_class_name": "AceStepPipeline"}],
    "checkpoints": [
        "ACE-Step/acestep-v15-xl-base-diffusers",
        "Runware/acestep-v15-base-diffusers",
        "ACE-Step/acestep-v15-xl-turbo-diffusers",
        "Runware/acestep-v15-turbo-diffusers",
    ],
    "licence": "MIT",
    "sample_rate_hz": 48000,
    "channels": [2],
    "max_s": 600.0,
    "library": "diffusers",
    "parts": ["transformer", "condition_encoder", "text_encoder", "vae"],
    "loss_unit": "squared error",
    "columns": ["lyrics", "language", "bpm", "key", "time_signature"],
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
    vae = json.loads((base.path / "vae" / "config.json").read_text(encoding="utf-8"))
    max_s = min(float(SPEC["max_s"]), float(base.notes.get("max_s", math.inf)))  # type: ignore[arg-type]
    return int(vae["sampling_rate"]), int(vae["audio_channels"]), max_s


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> AceStepBundle:
    """Load a base; ``device="meta"`` gives its modules without weights."""
    from tunesmith.families.ace_step.loading import load as load_bundle

    return load_bundle(base, device=device, dtype=dtype)


def save_lora(adapter: Path, out: Path) -> None:
    """Write the LoRA of a saved adapter as ``AceStepPipeline.load_lora_weights`` opens it."""
    from tunesmith.families.ace_step.lora import save_lora as save

    save(adapter, out)


def tiny(seed: int = 0, *, width: int = 32) -> AceStepBundle:
    """The same architecture in a size for tests, with random weights."""
    from tunesmith.families.ace_step._tiny import tiny_bundle

    return tiny_bundle(seed, width=width)
