"""A tiny base and a tiny data set on the disk, for whatever needs real folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

TINY_HZ = 1600


def save_base(folder: Path, seed: int = 0, channels: int = 1) -> Path:
    """A tiny MusicGen in the hub's layout."""
    from tunesmith.families.musicgen._tiny import byte_tokenizer, tiny_model

    tiny_model(seed, channels).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "tunesmith.json").write_text(json.dumps({"max_s": 4.0, "licence": "Apache-2.0"}))
    return folder


def save_stable_audio(folder: Path, seed: int = 0, channels: int = 2) -> Path:
    """A tiny Stable Audio in the hub's layout: 1,600 Hz, 25 frames a second, windows of 1.28 s."""
    from diffusers import StableAudioPipeline

    from tunesmith.families._diffusers import quiet
    from tunesmith.families.stable_audio._tiny import NOTES, tiny_parts

    with quiet():
        StableAudioPipeline(**tiny_parts(seed, channels)).save_pretrained(folder)
    (folder / "tunesmith.json").write_text(json.dumps({"licence": "Apache-2.0", **NOTES}))
    return folder


def write_noise(
    path: Path, seconds: float, seed: int, *, rate_hz: int = TINY_HZ, channels: int = 1
) -> Path:
    """A clip of noise: busy, and unlike any other seed's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    sound = draw.uniform(-0.5, 0.5, (round(seconds * rate_hz), channels))
    soundfile.write(path, sound, rate_hz, subtype="PCM_16")
    return path


def write_data(folder: Path, seconds: tuple[float, ...], *, valid: int = 2, **sound: Any) -> Path:
    """An AudioFolder of noise with captions: the last ``valid`` clips are for validation."""
    for index, length in enumerate(seconds):
        side = "valid" if index >= len(seconds) - valid else "train"
        write_noise(folder / side / f"{index}.wav", length, index, **sound)
        caption = "noise number " + ["one", "two", "three", "four", "five", "six"][index % 6]
        (folder / side / f"{index}.txt").write_text(caption)
    return folder


def save_stable_audio_3(folder: Path, seed: int = 0, *, distilled: bool = False) -> Path:
    """A tiny Stable Audio 3 in the hub's layout: 1,600 Hz, 25 frames a second, up to 1.28 s."""
    from diffusers import StableAudio3Pipeline

    from tunesmith.families._diffusers import quiet
    from tunesmith.families.stable_audio_3._tiny import NOTES, tiny_parts

    with quiet():
        StableAudio3Pipeline(**tiny_parts(seed, distilled=distilled)).save_pretrained(folder)
    notes = {"licence": "Apache-2.0"} | ({} if distilled else NOTES)
    (folder / "tunesmith.json").write_text(json.dumps(notes))
    return folder
