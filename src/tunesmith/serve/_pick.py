"""Sampling where every slot has settings of its own, all of which are tensors: nothing of it asks the host."""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.types import GenerationSettings


class Choice:
    """Guidance, then :func:`tunesmith.families._sampling.pick`, for slots that are sampled differently.

    Args:
        slots: S.
        codes: V.
        device: where.
    """

    def __init__(self, slots: int, codes: int, device: torch.device) -> None:
        self._codes = codes
        shape = (slots, 1, 1)
        self._guidance = torch.ones(shape, device=device)
        self._unguided = torch.ones(shape, dtype=torch.bool, device=device)
        self._temperature = torch.ones(shape, device=device)
        self._greedy = torch.zeros(shape, dtype=torch.bool, device=device)
        self._keep = torch.full(shape, codes, device=device)
        self._mass = torch.full(shape, torch.inf, device=device)
        self._ranks = torch.arange(codes, device=device)

    def set(self, slot: int, settings: GenerationSettings) -> None:
        """How a slot is sampled from now on."""
        self._guidance[slot] = settings.guidance
        self._unguided[slot] = settings.guidance == 1
        self._greedy[slot] = settings.temperature == 0
        self._temperature[slot] = settings.temperature or 1.0
        self._keep[slot] = min(settings.top_k or self._codes, self._codes)
        self._mass[slot] = settings.top_p if settings.top_p < 1 else torch.inf

    def __call__(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[S, K]`` and whether each slot's logits are numbers, ``[S]``.

        Args:
            logits: ``[2S, K, V]`` float32, with the text and without.
            uniform: ``[S, K]`` in [0, 1).
        """
        given, without = logits.chunk(2)
        guided = without + self._guidance * (given - without)
        mixed = torch.where(self._unguided, given, guided)
        # All are sorted, so that a slot's numbers are the same whatever the others keep.
        values, ids = mixed.sort(dim=-1, descending=True)
        values = (values / self._temperature).masked_fill(self._ranks >= self._keep, -torch.inf)
        probabilities = values.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        cumulative = (probabilities * (before < self._mass)).cumsum(dim=-1)
        threshold = uniform[..., None] * cumulative[..., -1:]
        chosen = (cumulative <= threshold).sum(-1, keepdim=True).minimum(self._keep - 1)
        chosen = chosen.masked_fill(self._greedy, 0)
        return ids.gather(-1, chosen)[..., 0], mixed.sum((1, 2)).isfinite()


__all__ = ["Choice"]
