"""MusicGen (Copet et al. 2023, arXiv:2306.05284): a language model over codec tokens.

Mono and stereo checkpoints, in the layout of ``transformers``' ``MusicgenForConditionalGeneration``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.families._bases import Base
    from tunesmith.families.musicgen.bundle import MusicgenBundle

SPEC = {
    "summary": "MusicGen: text to music, a transformer over EnCodec tokens (mono and stereo)",
    "matches": [{"file": "config.json", "model_type": "musicgen"}],
    "checkpoints": [
        "facebook/musicgen-small",
        "facebook/musicgen-medium",
        "facebook/musicgen-large",
        "facebook/musicgen-stereo-small",
        "facebook/musicgen-stereo-medium",
        "facebook/musicgen-stereo-large",
    ],
    "licence": "CC-BY-NC-4.0",
    "sample_rate_hz": 32000,
    "channels": [1, 2],
    "max_s": 30.0,
    "roles": ["self_attention", "cross_attention", "feed_forward", "text_embedding", "conditioner"],
    "pretraining_lr": 1e-4,
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
    sample_rate_hz = int(base.config["audio_encoder"]["sampling_rate"])
    channels = int(base.config["decoder"].get("audio_channels", 1))
    return sample_rate_hz, channels, float(base.notes.get("max_s", SPEC["max_s"]))


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> MusicgenBundle:
    """Load a base; ``device="meta"`` gives its modules without weights."""
    from tunesmith.families.musicgen.loading import load as load_bundle

    return load_bundle(base, device=device, dtype=dtype)


def tiny(seed: int = 0, *, channels: int = 1) -> MusicgenBundle:
    """The same architecture in a size for tests, with random weights."""
    from tunesmith.families.musicgen._tiny import tiny_bundle

    return tiny_bundle(seed, channels=channels)
