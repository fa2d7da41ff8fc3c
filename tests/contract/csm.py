"""A tiny CSM on the disk, and what to ask transformers' processor for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import CsmProcessor, EncodecFeatureExtractor

from tunesmith.families.csm._tiny import tiny_model, tiny_tokenizer
from tunesmith.families.csm.bundle import TEMPLATE
from tunesmith.types import Audio, GenerationSettings

GREEDY = GenerationSettings(guidance=1.0, temperature=0.0)
# How the tiny codec shortens a sound, as the processor wants to be told it.
SHORTENED = {
    "kernel_sizes": [7, 3, 1, 8, 3, 1, 16, 3, 4],
    "strides": [1, 1, 1, 4, 1, 1, 8, 1, 2],
    "dilations": [1] * 9,
    "use_causal_conv": True,
}
BEYOND = [32, 33, 34]  # codes that the model has and the codec has not


def save_csm(folder: Path, seed: int = 0, **notes: Any) -> Path:
    """A tiny CSM in the hub's layout: 1,600 Hz, 25 frames a second, up to 2 s."""
    tiny_model(seed).save_pretrained(folder)
    sound = EncodecFeatureExtractor(1, 1600)
    CsmProcessor(sound, tiny_tokenizer(), TEMPLATE).save_pretrained(folder)
    (folder / "tunesmith.json").write_text(json.dumps({"max_s": 2.0, **notes}))
    return folder


def talk(*turns: tuple[str, int, bool]) -> list[dict[str, Any]]:
    """A conversation for the chat template: text, speaker, and whether its sound is there."""
    return [
        {
            "role": str(speaker),
            "content": [{"type": "text", "text": text}, *[{"type": "audio"}] * heard],
        }
        for text, speaker, heard in turns
    ]


def inputs(processor: Any, talks: list[Any], sounds: list[Audio], **options: Any) -> Any:
    texts = [processor.apply_chat_template(one, tokenize=False) for one in talks]
    audio = [one.samples[0] for one in sounds] or None
    more = {"sampling_rate": 1600, "encoded_length_kwargs": SHORTENED} if sounds else {}
    return processor(text=texts, audio=audio, **more, **options)
