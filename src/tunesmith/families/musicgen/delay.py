"""The delay pattern (Copet et al. 2023, section 2.2): codebook k runs k steps behind the first.

Position 0 holds the start token, the code of frame t in codebook k stands at 1 + t + d_k, and every
other place holds padding. Stereo models interleave left and right, which share their delay. The
layout is the one of ``MusicgenForCausalLM.build_delay_pattern_mask``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def delays(codebooks: int, channels: int) -> list[int]:
    """Delay d_k of each codebook: ``0 1 2 3``, for stereo ``0 0 1 1 2 2 3 3``."""
    return [codebook // channels for codebook in range(codebooks)]


def apply_delay(
    codes: Tensor, frames: Tensor, shifts: list[int], pad: int
) -> tuple[Tensor, Tensor]:
    """Lay codes out as the sequence that the decoder sees.

    Args:
        codes: ``[B, K, T]``.
        frames: ``[B]`` real lengths; what stands beyond them is treated as padding.
        shifts: d_k of each codebook.
        pad: the start and padding token.

    Returns:
        Tokens ``[B, K, 1 + T + max(d)]`` and a mask of the same shape, true where a code stands.
    """
    batch, codebooks, length = codes.shape
    real = torch.arange(length, device=codes.device)[None, :] < frames[:, None]
    tokens = codes.new_full((batch, codebooks, 1 + length + max(shifts)), pad)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for codebook, shift in enumerate(shifts):
        place = slice(1 + shift, 1 + shift + length)
        tokens[:, codebook, place] = codes[:, codebook].masked_fill(~real, pad)
        mask[:, codebook, place] = real
    return tokens, mask


def undo_delay(tokens: Tensor, frames: int, shifts: list[int]) -> Tensor:
    """Codes ``[B, K, frames]`` back from tokens ``[B, K, L]``."""
    rows = [tokens[:, k, 1 + shift : 1 + shift + frames] for k, shift in enumerate(shifts)]
    return torch.stack(rows, dim=1)
