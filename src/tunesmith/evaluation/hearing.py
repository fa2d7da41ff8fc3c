"""Files to embeddings to distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

from tunesmith.errors import UserError
from tunesmith.metrics import gap, tagger
from tunesmith.types import Audio

Embed = Callable[[Audio], np.ndarray]
"""Sound to ``[W, D]``, a row a window."""


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


def embed(files: Sequence[str | Path], ear: Embed | None = None) -> list[np.ndarray]:
    """Embeddings ``[W, D]`` of each file, by the embedded tagger if no other ear is given."""
    ear = ear or tagger.load().embed
    threads = torch.get_num_threads()
    # Seconds of sound through a small network: threads would only wait for each other, ten times as
    # long as the work takes where the cores are busy.
    torch.set_num_threads(1)
    try:
        return [ear(read(file)) for file in files]
    finally:
        torch.set_num_threads(threads)


def gap_closed(
    reference: Sequence[str | Path],
    ceiling: Sequence[str | Path],
    base: Sequence[str | Path],
    adapted: Sequence[Sequence[str | Path]],
    *,
    ear: Embed | None = None,
    seed: int = 0,
) -> gap.Gap:
    """:func:`tunesmith.metrics.gap.compute` of sound files.

    Args:
        reference: held-out recordings.
        ceiling: the same through the base's codec (:func:`tunesmith.evaluation.takes.through_codec`).
        base: takes of the base (:func:`tunesmith.evaluation.takes.make_takes`).
        adapted: takes of each training, of the same prompts and seeds.
        ear: what hears them; the embedded tagger by default.
        seed: of the permutation test.
    """
    return gap.compute(
        embed(reference, ear),
        embed(ceiling, ear),
        embed(base, ear),
        [embed(files, ear) for files in adapted],
        seed=seed,
    )
