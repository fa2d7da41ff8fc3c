"""The trained vectors of prefix tuning, and the modules that join them to what a model attends to."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Trunk(nn.Module):
    """The part of the reparametrisation that all places share: tanh(W·E + b) of embeddings E ``[P, m]``.

    Args:
        length: P.
        width: m.
        device: where it lives.
    """

    def __init__(self, length: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(length, width, device=device))
        self.layer = nn.Linear(width, width, device=device, dtype=torch.float32)

    def forward(self) -> Tensor:
        """``[P, m]``."""
        return torch.tanh(self.layer(self.embeddings))


class Vectors(nn.Module):
    """Trained vectors ``[N, P, d]``; while a trunk is given, V + MLP(E), else V alone.

    MLP(E) starts at zero and is added to V, which trains along (Razdaibiedina et al. 2023,
    arXiv:2305.03937): in Li & Liang's own form nothing could start from real activations.

    Args:
        start: ``[N, P, d]`` float32.
        trunk: shared by all places of an adapter; None for plain vectors.
    """

    def __init__(self, start: Tensor, trunk: Trunk | None) -> None:
        super().__init__()
        self.own = nn.Parameter(start)
        self.trunk = trunk
        self.head = None
        if trunk is not None:
            size = start.shape[0] * start.shape[2]
            self.head = nn.Linear(trunk.layer.out_features, size, device=start.device)
            self._forget()

    def _forget(self) -> None:
        if self.head is not None:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self) -> Tensor:
        """``[N, P, d]``."""
        if self.trunk is None or self.head is None:
            return self.own
        places, length, size = self.own.shape
        more = self.head(self.trunk()).view(length, places, size).transpose(0, 1)
        return self.own + more.to(self.own.dtype)

    @torch.no_grad()
    def take(self, values: Tensor) -> None:
        """Be these values ``[N, P, d]``, exactly."""
        self.own.copy_(values)
        self._forget()


class JoinedKeys(nn.Module):
    """Keys and values that one attention sees before its own (Li & Liang 2021, equation 7).

    With a strength s between 0 and 1, log s is added to the logits of the joined keys: their share
    of the attention is weighted by s. A row that sees none of its own keys (an unconditional row)
    attends to nothing in the base. There a null key of weight 1 − s stands for that nothing, or the
    prefix would have all of the attention however small s is.

    Args:
        vectors: ``[2·H, P, d]``, keys before values.
    """

    def __init__(self, vectors: Vectors) -> None:
        super().__init__()
        self.vectors = vectors
        self.strength = 1.0

    def forward(
        self, keys: Tensor, values: Tensor, mask: Tensor | None, queries: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values ``[B, H, P + S, d]``, and the mask that goes with them.

        Args:
            keys, values: ``[B, H, S, d]``, cached ones included.
            mask: ``[B or 1, H or 1, L, S]``, boolean (true where seen) or to be added to the logits;
                None where every query sees every key.
            queries: ``[B, H, L, d]``.
        """
        if self.strength == 0:
            return keys, values, mask
        own = self.vectors().to(keys.dtype).expand(keys.shape[0], -1, -1, -1)
        first, second = own.chunk(2, dim=1)
        extra = first.shape[2]
        if self.strength == 1:
            seen = None if mask is None else _widened(mask, extra)
            return torch.cat([first, keys], 2), torch.cat([second, values], 2), seen
        length, size = queries.shape[2], keys.shape[2]
        if mask is None:
            mask = keys.new_zeros((1, 1, length, size))
        columns = _weighted(mask, extra, self.strength, keys.dtype)
        null = [keys.new_zeros((*keys.shape[:2], columns.shape[-1] - extra - size, keys.shape[3]))]
        return torch.cat([*null, first, keys], 2), torch.cat([*null, second, values], 2), columns


class JoinedStates(nn.Module):
    """Vectors before the sequence that cross-attention reads; strength as in :class:`JoinedKeys`.

    Args:
        vectors: ``[1, P, D]``.
    """

    def __init__(self, vectors: Vectors) -> None:
        super().__init__()
        self.vectors = vectors
        self.strength = 1.0

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[B, P + S, D]`` and their mask, from ``[B, S, D]`` and ``[B, S]``.

        The mask is ``[B, P + S]``, or ``[B, 1, 1, P + S]`` and to be added to the logits where the
        strength asks for weights.
        """
        if self.strength == 0:
            return states, mask
        own = self.vectors().to(states.dtype).expand(states.shape[0], -1, -1)
        extra = own.shape[1]
        if self.strength == 1:
            return torch.cat([own, states], 1), _widened(mask, extra)
        columns = _weighted(mask.bool()[:, None, None], extra, self.strength, states.dtype)
        nulls = columns.shape[-1] - extra - states.shape[1]
        null = states.new_zeros((states.shape[0], nulls, states.shape[2]))
        return torch.cat([null, own, states], 1), columns


def _widened(mask: Tensor, extra: int) -> Tensor:
    """A mask with columns before it that everything sees."""
    additive = mask.dtype.is_floating_point
    return torch.cat([mask.new_full((*mask.shape[:-1], extra), 0 if additive else 1), mask], -1)


def _weighted(mask: Tensor, extra: int, strength: float, dtype: torch.dtype) -> Tensor:
    """Additive mask ``[..., 1 + P + S]`` (null key, prefix, own keys); no null key above strength 1."""
    lowest = torch.finfo(dtype).min
    own = mask.to(dtype)
    if not mask.dtype.is_floating_point:
        own = torch.where(mask.bool(), 0.0, lowest).to(dtype)
    joined = own.new_full((*own.shape[:-1], extra), math.log(strength))
    if strength > 1:
        return torch.cat([joined, own], -1)
    blind = (own <= lowest / 2).all(-1, keepdim=True)
    null = torch.where(blind, math.log1p(-strength), lowest).to(dtype)
    return torch.cat([null, joined, own], -1)


__all__ = ["JoinedKeys", "JoinedStates", "Trunk", "Vectors"]
