"""The seam through which a model that makes sound from noise is told what of a sound is given.

Some models have an input of their own for it. For others the first linear is widened by the given
latents and by a mask that says where they are (Rombach et al. 2022, arXiv:2112.10752, section 4.5, do
so for images); the new weights begin at zero, so the widened model begins as the base exactly. Beside
them the given latents are added to the noisy ones, with two gains that begin at zero, too: what that says the
model understands already, and a few steps find how much of it helps, where a whole matrix first finds noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WidenedInput(nn.Module):
    """y = inner(x + s·g·given) + s·W·[given, mask], in the place of the linear that takes the noisy latents.

    g is g₁ where the mask is 1, and g₂ where it is 0 and something else is told.

    Args:
        inner: that linear.
        channels: C, of the latents.
        width: D, of what ``inner`` gives.

    Attributes:
        told: ``[B, T, C + 1]`` for the next call: given latents, zero where there are none, and a mask
            that is 1 where there are. Set by the family before each pass. None is the base.
        strength: s.
        extra: W, ``[D, C + 1]``.
        gains: ``[2]``, g₁ and g₂.
    """

    def __init__(self, inner: nn.Module, channels: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.inner = inner
        self.extra = nn.Parameter(torch.zeros(width, channels + 1, device=device))
        self.gains = nn.Parameter(torch.zeros(2, device=device))
        self.told: Tensor | None = None
        self.strength = 1.0

    @property
    def weight(self) -> Tensor:
        """The wrapped linear's, which some models look at."""
        return self.inner.weight  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, C]`` to ``[B, T, D]``."""
        if self.told is None or self.strength == 0:
            return self.inner(x)
        told = self.told.to(self.extra.dtype)
        mask = told[..., -1:]
        gain = self.strength * (self.gains[0] * mask + self.gains[1] * (1 - mask))
        y = self.inner(x + (gain * told[..., :-1]).to(x.dtype))
        return y + (self.strength * F.linear(told, self.extra)).to(y.dtype)


BANDED = 0.5
"""The mask of frames that are given without a band of their frequencies."""


def told_of(latents: Tensor, given: Tensor, instead: Tensor | None = None) -> Tensor:
    """``[B, T, C + 1]`` of latents ``[B, C, T]`` and where they are given, ``[B, T]``.

    ``instead`` ``[B, C, T]`` stands where they are not, with the mask 0: a guess. None is zero.
    """
    mask = given[..., None].to(latents.dtype)
    shown = latents.transpose(1, 2) * mask
    if instead is not None:
        shown = shown + instead.transpose(1, 2) * (1 - mask)
    return torch.cat([shown, mask], dim=-1)


def told_banded(latents: Tensor) -> Tensor:
    """``[B, T, C + 1]`` of latents ``[B, C, T]`` of sounds that lack a band."""
    mask = torch.full_like(latents[:, :1], BANDED)
    return torch.cat([latents, mask], dim=1).transpose(1, 2)


__all__ = ["WidenedInput", "told_banded", "told_of"]
