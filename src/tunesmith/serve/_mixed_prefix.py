"""Prefixes of many adapters at a time: each row sees its own, and a row without one sees none.

What :mod:`tunesmith.methods._prefix_vectors` does for a whole batch, row by row: keys of a row that has
fewer, or none, have the weight 0 (−∞ in the mask), those of a prefix at strength s the weight s.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.serve._rows import Current, Rows, over


class _Vectors(nn.Module):
    """The vectors ``[N, P, d]`` of each slot at one place."""

    def __init__(self, current: Current, device: torch.device) -> None:
        super().__init__()
        self._current, self._device = current, device
        self._of: dict[int, Tensor] = {}
        self._kept: tuple[Any, Tensor, Tensor, Tensor] | None = None

    def write(self, slot: int, vectors: Tensor) -> None:
        """Give a slot its vectors."""
        self._of[slot] = vectors.to(self._device)
        self._kept = None

    def forget(self, slot: int) -> None:
        """Take them away."""
        self._of.pop(slot, None)
        self._kept = None

    def _asked(self) -> Rows | None:
        """The rows, if any of them has vectors here."""
        rows = self._current.rows
        if rows is None or not any(slot in self._of for slot, _ in rows.prefixes):
            return None
        return rows

    def _stacked(self, rows: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors ``[n, N, P, d]``, their log weights ``[n, 1, 1, P]``, and ``[n, 1, 1, 1]`` of nothing.

        Nothing is what a row attends to that sees none of its own keys; a prefix of strength below 1
        leaves it the rest.
        """
        key = (rows.prefixes, dtype)
        if self._kept is None or self._kept[0] != key:
            found = [self._of.get(slot) for slot, _ in rows.prefixes]
            shape = max((one.shape for one in found if one is not None), key=lambda one: one[1])
            whole = torch.zeros(len(found), *shape, dtype=dtype, device=self._device)
            weight = torch.full((len(found), shape[1]), -math.inf, dtype=dtype)
            rest = torch.full((len(found),), -math.inf, dtype=dtype)
            for number, (one, (_, strength)) in enumerate(zip(found, rows.prefixes, strict=True)):
                if one is not None and strength > 0:
                    whole[number, :, : one.shape[1]] = one.to(dtype)
                    weight[number, : one.shape[1]] = math.log(strength)
                    if strength < 1:
                        rest[number] = math.log1p(-strength)
            weight, rest = weight[:, None, None].to(self._device), rest[:, None, None, None]
            self._kept = (key, whole, weight, rest.to(self._device))
        return self._kept[1], self._kept[2], self._kept[3]


def _columns(mask: Tensor, weight: Tensor, rest: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask ``[B, ., L, 1 + P + S]``: nothing, prefix, own keys.

    Args:
        mask: ``[B or 1, H or 1, L, S]``, boolean or additive.
        weight: ``[B, 1, 1, P]``.
        rest: ``[B, 1, 1, 1]``.
        dtype: of what attends.
    """
    own = mask.to(dtype)
    if not mask.dtype.is_floating_point:
        own = torch.where(mask.bool(), 0.0, -math.inf).to(dtype)
    own = own.expand(len(weight), -1, -1, -1)
    # A row that sees nothing: there its own keys, all equally unseen, must not weigh against a prefix.
    blind = (own <= torch.finfo(dtype).min / 2).all(-1, keepdim=True)
    nothing = torch.where(blind, rest, -math.inf).to(dtype)
    return torch.cat([nothing, weight.expand(*own.shape[:-1], -1), own], -1)


class MixedKeys(_Vectors):
    """A child ``joined`` of an attention; vectors are ``[2·H, P, d]``, keys before values."""

    def forward(
        self, keys: Tensor, values: Tensor, mask: Tensor | None, queries: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values ``[B, H, S', d]`` and their mask; see ``methods._prefix_vectors.JoinedKeys``."""
        rows = self._asked()
        if rows is None:
            return keys, values, mask
        whole, weight, rest = (over(one, len(keys)) for one in self._stacked(rows, keys.dtype))
        if mask is None:
            mask = keys.new_zeros((1, 1, queries.shape[2], keys.shape[2]))
        null = keys.new_zeros((*keys.shape[:2], 1, keys.shape[3]))
        first, second = whole.chunk(2, dim=1)
        columns = _columns(mask, weight, rest, keys.dtype)
        return torch.cat([null, first, keys], 2), torch.cat([null, second, values], 2), columns

    def asking(self, batch: int) -> Tensor | None:
        """``[batch, 1]``: which rows have vectors here; None if none has."""
        rows = self._asked()
        if rows is None:
            return None
        found = torch.tensor([[slot in self._of] for slot, _ in rows.prefixes])
        return over(found.to(self._device), batch)


class MixedStates(_Vectors):
    """A child ``joined_states`` of a loss module; vectors are ``[1, P, D]``."""

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[B, 1 + P + S, D]`` and an additive mask ``[B, 1, 1, 1 + P + S]``."""
        rows = self._asked()
        if rows is None:
            return states, mask
        whole, weight, rest = (over(one, len(states)) for one in self._stacked(rows, states.dtype))
        if mask.dim() == 2:
            mask = mask.bool()[:, None, None]
        columns = _columns(mask, weight, rest, states.dtype)
        null = states.new_zeros((len(states), 1, states.shape[2]))
        return torch.cat([null, whole[:, 0], states], 1), columns


__all__ = ["MixedKeys", "MixedStates"]
