"""log10 mels equal to those of transformers' ``SpeechT5FeatureExtractor``, batched, on any device.

The library's recipe runs a clip at a time in NumPy. Here whole batches go through one transform. It is
done in float64: bins far below the loudest of their frame would be rounding in float32, and the
logarithm would show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SpeechT5FeatureExtractor
from transformers.audio_utils import mel_filter_bank

from pretrain.common import read_jsonl

SAMPLE_RATE_HZ, BINS, HOP, SIZE = 16000, 80, 256, 1024
LOWEST_HZ, HIGHEST_HZ, FLOOR = 80, 7600, 1e-10
_CHUNK_FRAMES = 40_000  # at once: 1 GB of float64 at work


def extractor() -> SpeechT5FeatureExtractor:
    """The library's own recipe: its defaults are these numbers."""
    return SpeechT5FeatureExtractor()


def frames_of(samples: int | Tensor) -> int | Tensor:
    """Frames that so many samples give."""
    return samples // HOP + 1


@cache
def filters(device: str, dtype: torch.dtype) -> Tensor:
    """``[F, M]``, F = 513: Slaney's mel scale and norm."""
    bank = mel_filter_bank(
        num_frequency_bins=SIZE // 2 + 1,
        num_mel_filters=BINS,
        min_frequency=LOWEST_HZ,
        max_frequency=HIGHEST_HZ,
        sampling_rate=SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(np.ascontiguousarray(bank)).to(device, dtype)


def log_mel(waves: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """log10 mels ``[B, T, M]`` float32, T = N // 256 + 1, of waves ``[B, N]`` in [-1, 1], N > 512.

    Args:
        waves: all of one length; shorter ones, filled up with zeros, differ from what they give alone
            in their last two frames (which mirror the end). :func:`log_mels` takes care of that.
        dtype: that it is computed in; float32 is faster and within about 1e-3 where sound is loud.
    """
    waves = waves.to(dtype)
    window = torch.hann_window(SIZE, periodic=True, device=waves.device, dtype=dtype)
    made = torch.stft(waves, SIZE, HOP, SIZE, window, pad_mode="reflect", return_complex=True)
    power = made.real.square() + made.imag.square()
    mels = power.sqrt().transpose(1, 2) @ filters(str(waves.device), dtype)
    return mels.clamp_min(FLOOR).log10().float()


def log_mels(
    waves: Tensor, lengths: Sequence[int] | Tensor, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """log10 mels ``[T_i, M]`` float32 of each row of waves ``[B, N]``, ``lengths`` ``[B]`` samples each.

    Each is what the row gives on its own. N is at least 512 more than the longest, or the rows are
    extended here.
    """
    sizes = torch.as_tensor(lengths, device=waves.device)
    if int(sizes.min()) <= SIZE // 2:
        raise ValueError(f"a clip of {int(sizes.min())} samples is too short to be mirrored")
    half = SIZE // 2
    room = int(sizes.max()) + half
    waves = F.pad(waves, (0, max(0, room - waves.shape[1])))[:, :room]
    # Behind its end each row is mirrored, as the transform does at the end of a row that stands alone.
    places = torch.arange(half, device=waves.device)
    ends = sizes[:, None] + places
    waves = waves.scatter(1, ends, waves.gather(1, sizes[:, None] - 2 - places))
    made = log_mel(waves, dtype)
    return [row[: size // HOP + 1] for row, size in zip(made, sizes.tolist(), strict=True)]


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
