"""SpeechT5 (Ao et al. 2022, arXiv:2110.07205): text and a speaker's vector to speech.

Checkpoints in the layout of transformers' ``SpeechT5ForTextToSpeech``, with a ``SpeechT5HifiGan`` as
vocoder, which lies in a folder ``vocoder`` of the base, beside it, or on the hub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.families._bases import Base
    from tunesmith.families.speecht5.bundle import SpeechT5Bundle

SPEC = {
    "summary": "SpeechT5: text and a speaker's vector to speech, a transformer over mels and a vocoder",
    "matches": [{"file": "config.json", "model_type": "speecht5"}],
    "checkpoints": ["microsoft/speecht5_tts"],
    "licence": "MIT",
    "sample_rate_hz": 16000,
    "channels": [1],
    "columns": ["speaker"],
    "max_s": 20.0,
    "roles": ["self_attention", "cross_attention", "feed_forward", "text_embedding", "vocoder"],
    "loss_unit": "log10 mel distance and stop",
    "pretraining_lr": 1e-4,
    "defaults": {
        # The text is what is said, not a description: a clip without it teaches nothing.
        "lora": {"train.lr": 1e-5, "train.steps": 1000, "train.caption_dropout": 0.0},
        "full": {
            "train.lr": 5e-6,
            "train.epochs": 10,
            "train.weight_decay": 0.01,
            "train.caption_dropout": 0.0,
        },
        "bottleneck": {"train.lr": 3e-4, "train.steps": 1000, "train.caption_dropout": 0.0},
        # In units of the embedding table's scale; see the method's rates.
        "textual_inversion": {
            "train.lr": 1e-2,
            "train.steps": 1000,
            "train.weight_decay": 0.0,
            "train.caption_dropout": 0.0,
        },
        "dreambooth": {"train.steps": 400, "train.batch_size": 2, "train.caption_dropout": 0.0},
    },
    "declines": {
        "prefix": "its attention has no place where keys and values could be joined; the voice is told "
        "to it by a speaker's vector instead"
    },
}


def limits(base: Base) -> tuple[int, int, float]:
    """``(sample_rate_hz, channels, max_s)`` from the config files alone."""
    from tunesmith.families.speecht5.loading import limits as limits_of

    return limits_of(base)


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> SpeechT5Bundle:
    """Load a base; ``device="meta"`` gives its modules without weights."""
    from tunesmith.families.speecht5.loading import load as load_bundle

    return load_bundle(base, device=device, dtype=dtype)


def tiny(seed: int = 0, *, width: int = 32) -> SpeechT5Bundle:
    """The same architecture in a size for tests, with random weights."""
    from tunesmith.families.speecht5._tiny import tiny_bundle

    return tiny_bundle(seed, width=width)
