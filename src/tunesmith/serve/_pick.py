"""Sampling where every slot has settings of its own, all of which are tensors: nothing of it asks the host."""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.types import GenerationSettings


class Choice:
    """Guidance, then :func:`tunesmith.families._sampling.pick`, for slots that are sampled differently.

    Args:
        slots: S.
        device: where.
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        def held(value: float) -> Tensor:
            return torch.full((slots, 1, 1), value, device=device)

        self._guidance, self._temperature, self._top_p = held(1.0), held(1.0), held(1.0)
        self._top_k = held(0.0).long()

    def set(self, slot: int, settings: GenerationSettings) -> None:
        """How a slot is sampled from now on."""
        self._guidance[slot] = settings.guidance
        self._temperature[slot] = settings.temperature
        self._top_k[slot] = settings.top_k
        self._top_p[slot] = settings.top_p

    def __call__(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[S, K]`` and whether each slot's logits are numbers, ``[S]``.

        Args:
            logits: ``[2S, K, V]`` float32, with the text and without.
            uniform: ``[S, K]`` in [0, 1).
        """
        given, without = logits.chunk(2)
        mixed = torch.where(
            self._guidance == 1, given, without + self._guidance * (given - without)
        )
        codes = mixed.shape[-1]
        # All are sorted, so that a slot's numbers are the same whatever the others keep.
        values, ids = mixed.sort(dim=-1, descending=True)
        greedy = self._temperature == 0
        values = values / torch.where(greedy, 1.0, self._temperature)
        ranks = torch.arange(codes, device=logits.device)
        keep = torch.where((self._top_k == 0) | (self._top_k > codes), codes, self._top_k)
        probabilities = values.masked_fill(ranks >= keep, -torch.inf).softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities * ((before < self._top_p) | (self._top_p >= 1))
        cumulative = probabilities.cumsum(dim=-1)
        threshold = uniform[..., None] * cumulative[..., -1:]
        chosen = (cumulative <= threshold).sum(-1, keepdim=True).minimum(keep - 1)
        chosen = torch.where(greedy, 0, chosen)
        return ids.gather(-1, chosen)[..., 0], mixed.sum((1, 2)).isfinite()


__all__ = ["Choice"]
