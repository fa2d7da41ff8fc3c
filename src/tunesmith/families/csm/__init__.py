"""CSM, the Conversational Speech Model (Sesame 2025): text to speech, a language model over Mimi codes.

A Llama-like backbone writes the first codebook of each frame, a small depth decoder the others, in the
layout of ``transformers``' ``CsmForConditionalGeneration``. What is spoken is the caption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.families._bases import Base
    from tunesmith.families.csm.bundle import CsmBundle

SPEC = {
    "summary": "CSM: text and a voice to speech, two transformers over Mimi codes",
    "matches": [{"file": "config.json", "model_type": "csm"}],
    "checkpoints": ["sesame/csm-1b", "unsloth/csm-1b"],
    "licence": "Apache-2.0",
    "sample_rate_hz": 24000,
    "channels": [1],
    "max_s": 30.0,
    "columns": ["speaker"],
    "roles": ["self_attention", "feed_forward", "text_embedding"],
    # Guidance is nothing that this model was made for, so no row has to do without its words.
    "defaults": {
        "lora": {"train.lr": 1e-4, "train.steps": 600, "train.caption_dropout": 0.0},
        "full": {
            "train.lr": 5e-6,
            "train.epochs": 10,
            "train.weight_decay": 0.01,
            "train.caption_dropout": 0.0,
        },
        "bottleneck": {"train.lr": 3e-4, "train.steps": 600, "train.caption_dropout": 0.0},
        "prefix": {
            "train.lr": 1e-3,
            "train.steps": 600,
            "train.weight_decay": 0.0,
            "train.caption_dropout": 0.0,
        },
        # In units of the embedding table's scale; see the method's rates.
        "textual_inversion": {
            "train.lr": 1e-2,
            "train.steps": 600,
            "train.weight_decay": 0.0,
            "train.caption_dropout": 0.0,
        },
        "dreambooth": {"train.steps": 400, "train.batch_size": 2, "train.caption_dropout": 0.0},
    },
    "declines": {},
}


def limits(base: Base) -> tuple[int, int, float]:
    """``(sample_rate_hz, channels, max_s)`` from the config files alone."""
    codec = base.config.get("codec_config", {})
    sample_rate_hz = int(codec.get("sampling_rate", SPEC["sample_rate_hz"]))
    return sample_rate_hz, 1, float(base.notes.get("max_s", SPEC["max_s"]))


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> CsmBundle:
    """Load a base; ``device="meta"`` gives its modules without weights."""
    from tunesmith.families.csm.loading import load as load_bundle

    return load_bundle(base, device=device, dtype=dtype)


def tiny(seed: int = 0, *, width: int = 32) -> CsmBundle:
    """The same architecture in a size for tests, with random weights."""
    from tunesmith.families.csm._tiny import tiny_bundle

    return tiny_bundle(seed, width=width)
