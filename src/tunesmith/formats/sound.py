"""Sound files that say how they were made: wav and flac with the recipe in their comment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tunesmith.errors import ResourceError, UserError
from tunesmith.types import Audio

FORMATS = ("wav", "flac")


def write_sound(path: Path, audio: Audio, made_of: Mapping[str, Any] | None = None) -> None:
    """Write 16-bit wav or flac atomically; ``made_of`` goes into the file's comment as JSON.

    Raises:
        UserError: another suffix than .wav or .flac.
        ResourceError: the disk is full.
    """
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise UserError(f"{path.name}: no format '{kind}'", f"give {' or '.join(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with soundfile.SoundFile(
            temporary, "w", audio.sample_rate_hz, audio.channels, "PCM_16", format=kind.upper()
        ) as file:
            if made_of:
                # libsndfile wants its strings before the sound; a title shows in any player.
                if prompt := str(made_of.get("prompt", "")):  # it refuses an empty one
                    file.title = prompt
                file.software = "Tunesmith"
                file.comment = json.dumps(dict(made_of), ensure_ascii=False)
            file.write(np.clip(audio.samples.T, -1.0, 1.0))
        os.replace(temporary, path)
    except (OSError, soundfile.SoundFileError) as error:
        temporary.unlink(missing_ok=True)
        if "space" in str(error).lower():
            raise ResourceError(f"the disk is full ({path})", "free space and run again") from error
        raise UserError(
            f"{path} cannot be written ({error})", "give another folder with -o"
        ) from error


def read_made_of(path: Path) -> dict[str, Any]:
    """What :func:`write_sound` put into a file's comment; empty if nothing is there."""
    with soundfile.SoundFile(path) as file:
        try:
            value = json.loads(file.comment)
        except (ValueError, TypeError):
            return {}
    return value if isinstance(value, dict) else {}


def read(file: str | Path) -> Audio:
    """A sound file as it is.

    Raises:
        UserError: it cannot be read.
    """
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{file} cannot be read ({error})", "replace or remove it") from None
    return Audio(np.ascontiguousarray(samples.T), int(rate))
