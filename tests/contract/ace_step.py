"""A tiny ACE-Step in the hub's layout, ours and diffusers' view of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.families import find_base, load
from tunesmith.families._diffusers import quiet

SONG = {
    "lyrics": "[verse]\nwe go\n\n[chorus]\nwe go on",
    "language": "de",
    "bpm": 97,
    "key": "F# minor",
    "time_signature": "3",
}
"""A detail for every column."""


def save_ace_step(folder: Path, seed: int = 0, *, turbo: bool = False) -> Path:
    """1,600 Hz stereo, 25 frames a second, up to 1.28 s."""
    from diffusers import AceStepPipeline

    from tunesmith.families.ace_step._tiny import NOTES, tiny_parts

    with quiet():
        AceStepPipeline(**tiny_parts(seed, turbo=turbo)).save_pretrained(folder)
    notes = {"max_s": NOTES["max_s"], "licence": "Apache-2.0"} if turbo else NOTES
    (folder / "tunesmith.json").write_text(json.dumps(notes))
    return folder


def opened(folder: Path) -> Any:
    return load(find_base(str(folder)))


def pipeline(folder: Path) -> Any:
    from diffusers import AceStepPipeline

    with quiet():
        pipe: Any = AceStepPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe
