"""log10 mels of amplitude as SpeechT5 hears and makes them, batched, on any device.

Equal to what transformers' ``SpeechT5FeatureExtractor`` makes of a clip as ``audio_target``; that one
takes a clip at a time in NumPy, this whole batches in torch. It is done in float64: bins far below the
loudest of their frame would be rounding in float32, and the logarithm would show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

SAMPLE_RATE_HZ, BINS, HOP, SIZE = 16000, 80, 256, 1024
LOWEST_HZ, HIGHEST_HZ, FLOOR = 80, 7600, 1e-10
_KNEE_HZ, _LINEAR_HZ, _LOGARITHMIC = 1000.0, 200 / 3, 27 / math.log(6.4)


@cache
def filters(device: str, dtype: torch.dtype) -> Tensor:
    """Triangles ``[F, M]``, F = 513, of one area, on the mel scale of Slaney 1998 ("Auditory Toolbox").

    Linear up to 1 kHz (200/3 Hz a mel), logarithmic above (a factor of 6.4 in 27 mels).
    """
    low, high = _mel(LOWEST_HZ), _mel(HIGHEST_HZ)
    mels = low + (high - low) * torch.arange(BINS + 2, dtype=torch.float64) / (BINS + 1)
    knee = _KNEE_HZ / _LINEAR_HZ
    above = _KNEE_HZ * ((mels - knee).clamp_min(0) / _LOGARITHMIC).exp()
    edges = torch.where(mels < knee, mels * _LINEAR_HZ, above)
    bins = torch.arange(SIZE // 2 + 1, dtype=torch.float64)[:, None] * SAMPLE_RATE_HZ / SIZE
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bank = torch.minimum(rising, falling).clamp_min(0) * 2 / (edges[2:] - edges[:-2])
    return bank.to(device, dtype)


def _mel(hz: float) -> float:
    if hz < _KNEE_HZ:
        return hz / _LINEAR_HZ
    return _KNEE_HZ / _LINEAR_HZ + math.log(hz / _KNEE_HZ) * _LOGARITHMIC


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

    Raises:
        ValueError: one has 512 samples or fewer.
    """
    sizes = torch.as_tensor(lengths, device=waves.device)
    if int(sizes.min()) <= SIZE // 2:
        raise ValueError(f"a clip of {int(sizes.min())} samples is too short to be mirrored")
    half = SIZE // 2
    room = int(sizes.max()) + half
    waves = functional.pad(waves, (0, max(0, room - waves.shape[1])))[:, :room]
    # Behind its end each row is mirrored, as the transform does at the end of a row that stands alone.
    places = torch.arange(half, device=waves.device)
    ends = sizes[:, None] + places
    waves = waves.scatter(1, ends, waves.gather(1, sizes[:, None] - 2 - places))
    made = log_mel(waves, dtype)
    return [row[: size // HOP + 1] for row, size in zip(made, sizes.tolist(), strict=True)]
