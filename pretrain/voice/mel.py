"""The corpus's log-mels: those of :mod:`tunesmith.analysis.speech_mels`, of many clips at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import SpeechT5FeatureExtractor

from pretrain.common import read_jsonl
from tunesmith.analysis.speech_mels import (
    BINS,
    HOP,
    SAMPLE_RATE_HZ,
    SIZE,
    filters,
    log_mel,
    log_mels,
)

__all__ = [
    "BINS", "HOP", "SAMPLE_RATE_HZ", "SIZE", "corpus_mels", "extractor", "filters", "frames_of", "log_mel",
    "log_mels", "places", "read_split",
]  # fmt: skip

_CHUNK_FRAMES = 40_000  # at once: 1 GB of float64 at work


def extractor() -> SpeechT5FeatureExtractor:
    """The library's own recipe: its defaults are these numbers."""
    return SpeechT5FeatureExtractor()


def frames_of(samples: int | Tensor) -> int | Tensor:
    """Frames that so many samples give."""
    return samples // HOP + 1


def corpus_mels(
    sound: Tensor, starts: Tensor, lengths: Tensor, dtype: torch.dtype = torch.float16
) -> tuple[Tensor, Tensor]:
    """Mels of many clips, one behind the other, and where each begins.

    Args:
        sound: int16 samples ``[N]`` of all clips, joined, on the device that does the work.
        starts, lengths: of each clip, in samples, ``[C]`` on the CPU.
        dtype: to keep the mels in. float16 of log10 mels is off by at most 0.004, less than
            a tenth of a decibel.

    Returns:
        ``(mels [sum of frames, M], offsets [C + 1])``, the first on the device of ``sound``.
    """
    frames = lengths // HOP + 1
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), frames.cumsum(0)])
    made = torch.empty(int(offsets[-1]), BINS, dtype=dtype, device=sound.device)
    order = lengths.argsort().tolist()  # neighbours of one length need little filling up
    at = 0
    while at < len(order):
        count = max(1, _CHUNK_FRAMES // (int(frames[order[at]]) + 2))
        rows = order[at : at + count]
        longest = int(lengths[rows].max())
        index = starts[rows].to(sound.device)[:, None]
        index = index + torch.arange(longest, device=sound.device)
        waves = sound[index.clamp_max(len(sound) - 1)].float() / 32768
        for row, mels in zip(rows, log_mels(waves, lengths[rows]), strict=True):
            begin = int(offsets[row])
            made[begin : begin + len(mels)] = mels.to(dtype)
        at += count
    return made, offsets


def read_split(work: Path, split: str) -> tuple[Tensor, list[dict[str, Any]]]:
    """All clips of a split: int16 samples ``[N]``, joined, and their rows.

    A row's ``start`` is its place in what is returned, its ``length`` in samples too. Shards whose other
    half is not there yet are left out.
    """
    sounds, rows, at = [], [], 0
    for path in sorted((work / "corpus").glob(f"{split}-*.npy")):
        if not path.with_suffix(".jsonl").exists():
            continue
        sound = np.load(path, allow_pickle=False)
        rows += [
            {**row, "start": row["start"] + at} for row in read_jsonl(path.with_suffix(".jsonl"))
        ]
        sounds.append(sound)
        at += len(sound)
    if not rows:
        raise FileNotFoundError(f"{work / 'corpus'}: no shard of split {split}")
    return torch.from_numpy(np.concatenate(sounds)), rows


def places(rows: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Starts and lengths of rows, in samples, ``[C]`` each."""
    return (
        torch.tensor([row["start"] for row in rows]),
        torch.tensor([row["length"] for row in rows]),
    )
