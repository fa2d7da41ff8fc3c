"""A tiny SpeechT5 in the hub's layout, ours and the library's view of it."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

from transformers import SpeechT5ForTextToSpeech, SpeechT5HifiGan

from tunesmith.families import find_base, load
from tunesmith.families._tiny import byte_tokenizer
from tunesmith.families._transformers import quiet
from tunesmith.families.speecht5._tiny import MAX_S, tiny_parts, tiny_sound

VOICE = [0.5, -0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
"""The vector of a speaker of the tiny model."""


def save_speecht5(folder: Path, seed: int = 0, *, vocoder: str = "vocoder") -> Path:
    """1,600 Hz, 50 frames a second, up to 4 s; ``vocoder`` is where that goes, from the base's folder."""
    model, hifigan = tiny_parts(seed)
    with quiet():
        model.save_pretrained(folder)
        if vocoder:
            hifigan.save_pretrained(folder / vocoder)
    byte_tokenizer().save_pretrained(folder)
    tiny_sound().save_pretrained(folder)
    (folder / "tunesmith.json").write_text(json.dumps({"max_s": MAX_S, "licence": "Apache-2.0"}))
    return folder


def opened(folder: Path) -> Any:
    return load(find_base(str(folder)))


def plain(folder: Path) -> tuple[Any, Any]:
    """The library's own model and vocoder."""
    with quiet():
        model: Any = SpeechT5ForTextToSpeech.from_pretrained(folder)
        vocoder: Any = SpeechT5HifiGan.from_pretrained(folder / "vocoder")
    return model.eval(), vocoder.eval()


def same_dropout(model: Any, kept: list[Any]) -> None:
    """Let the library's prenet keep these units, ``[B, L, U]`` of each layer, instead of drawn ones."""
    layers, prenet = cycle(kept), model.speecht5.decoder.prenet
    prenet._consistent_dropout = lambda states, p: (
        states * next(layers)[:, : states.shape[1]] / (1 - p)
    )
