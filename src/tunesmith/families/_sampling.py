"""How families that are language models draw tokens: each row from numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.types import GenerationSettings


def pick(logits: Tensor, uniform: Tensor, settings: GenerationSettings) -> Tensor:
    """Sample by inverting the cumulative distribution at given uniforms.

    Args:
        logits: ``[..., V]``.
        uniform: ``[...]`` in [0, 1).
        settings: temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020).

    Returns:
        Token ids ``[...]``.
    """
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    keep = min(settings.top_k, logits.shape[-1]) if settings.top_k else logits.shape[-1]
    values, ids = (logits.float() / settings.temperature).topk(keep, dim=-1)
    probabilities = values.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    if settings.top_p < 1:
        probabilities = probabilities * (before < settings.top_p)
    cumulative = probabilities.cumsum(dim=-1)
    # Scaling by the total rather than dividing keeps the last kept token reachable and final.
    threshold = (uniform.to(cumulative)[..., None] * cumulative[..., -1:]).contiguous()
    chosen = torch.searchsorted(cumulative, threshold, right=True).clamp(max=keep - 1)
    return ids.gather(-1, chosen)[..., 0]


class Streams:
    """One stream of uniform numbers per row, each from its own seed."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]

    def draw(self, count: int) -> Tensor:
        """``[B, count]`` uniforms in [0, 1)."""
        return torch.stack([torch.rand(count, generator=one) for one in self._generators])
