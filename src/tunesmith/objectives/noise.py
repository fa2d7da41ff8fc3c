"""Random numbers that belong to an example: drawn from its own seed, so that company changes nothing.

A trainer that draws noise and timesteps for a batch at once gives a clip other numbers as soon as
the batch is larger, sorted otherwise, or padded further. Here each row has its own stream, and
within a row the numbers of a frame depend on the seed and on the frame alone. Numbers are drawn on
the processor, so that a GPU trains on the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 64  # frames drawn at once; a longer clip only adds blocks, so what came before stays


def _digest(seed: int, purpose: str) -> int:
    """63 bits; purposes share no numbers, or a timestep would tell of the noise drawn with it."""
    digest = hashlib.blake2b(f"{purpose}\x1f{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniforms(seeds: Sequence[int], purpose: str) -> Tensor:
    """One number strictly between 0 and 1 per row, ``[B]`` float64.

    Args:
        seeds: one per example.
        purpose: what it is for; different purposes give independent numbers.
    """
    return torch.tensor(
        [((_digest(seed, purpose) >> 11) + 0.5) / 2**52 for seed in seeds], dtype=torch.float64
    )


def noise_like(
    latents: Tensor, seeds: Sequence[int], *, time_dim: int = -1, purpose: str = "noise"
) -> Tensor:
    """ε ~ N(0, 1) with the shape, dtype and device of ``latents``; row i from ``seeds[i]`` alone.

    Frames that exist at two padded lengths have the same noise at both.

    Args:
        latents: ``[B, C, T]`` or ``[B, T, C]``; only its shape, dtype and device are looked at.
        seeds: one per row.
        time_dim: which dimension is time: -1 for ``[B, C, T]``, 1 for ``[B, T, C]``.
        purpose: what it is for; different purposes give independent noise.

    Raises:
        ValueError: there is not one seed per row.
    """
    if len(seeds) != latents.shape[0]:
        raise ValueError(f"{len(seeds)} seeds for {latents.shape[0]} rows")
    last = latents.movedim(time_dim, -1)  # the rest keeps its order, so both layouts share numbers
    frames, inner = last.shape[-1], last.shape[1:-1]
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(_digest(seed, purpose))
        blocks = [
            torch.randn((_BLOCK, *inner), generator=generator) for _ in range(0, frames, _BLOCK)
        ]
        rows.append(torch.cat(blocks)[:frames] if blocks else torch.zeros((0, *inner)))
    drawn = torch.stack(rows) if rows else torch.zeros((0, frames, *inner))
    return drawn.movedim(1, time_dim).contiguous().to(latents)
