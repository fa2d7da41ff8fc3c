"""What the rows of a batch ask of the adapters that are loaded: worked out once, read by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Segment = tuple[int, int, float]
"""Ranks ``begin:end`` and the weight that a row has them with."""


@dataclass(slots=True)
class Rows:
    """The wishes of ``n`` rows. A batch of ``k·n`` rows has them k times over, as guidance stacks them.

    Attributes:
        weights: ``[n, slots]`` of each adapter.
        tokens: ``[n, slots]``, the strength of each adapter's own words.
        ranks: ``[n, W]``, the weight of each rank from ``begin`` on, or of those in ``index``; None if
            no row wants a low-rank change.
        begin: the first rank.
        index: ``[W]``, which ranks, where the wanted ones lie far apart.
        version: changes with ``index`` and with what stands in it.
        segments: of each row, where a product for each row costs less than one for all; else None.
        used: slots that some row wants; None where the layers must not ask, in a compiled step.
        fixed: every layer computes its product, also one that no adapter touches.
        bottlenecks: slots of the bottleneck adapters to compute.
        prefixes: of each row, the slot of its prefix and its strength; empty where no row has one.
    """

    weights: Tensor
    tokens: Tensor
    ranks: Tensor | None = None
    begin: int = 0
    index: Tensor | None = None
    version: int = 0
    segments: tuple[tuple[Segment, ...], ...] | None = None
    used: frozenset[int] | None = None
    fixed: bool = False
    bottlenecks: tuple[int, ...] = ()
    prefixes: tuple[tuple[int, float], ...] = ()


class Current:
    """Where layers look for the rows of the batch that they are in; ``rows`` is None for the base."""

    def __init__(self) -> None:
        self.rows: Rows | None = None


def over(values: Tensor, batch: int) -> Tensor:
    """Values ``[n, ...]`` of the rows as ``[batch, ...]``, repeated as guidance repeats rows.

    Raises:
        ValueError: the batch is no multiple of the rows.
    """
    rows = values.shape[0]
    if batch == rows:
        return values
    return values.repeat(times(batch, rows), *[1] * (values.dim() - 1))


def times(batch: int, rows: int) -> int:
    """How often the rows stand in a batch.

    Raises:
        ValueError: the batch is no multiple of the rows.
    """
    if batch % rows:
        raise ValueError(f"a batch of {batch} rows, where weights were given for {rows}")
    return batch // rows


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """``[begin, end)`` of each run of successive numbers; they are sorted."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


def weighted(weights: Tensor, owners: Tensor) -> Tensor:
    """``[n, W]``: the weight of each rank, from ``[n, slots]`` and the slot of each rank ``[W]``.

    A rank of nobody has the number that follows the last slot.
    """
    return torch.nn.functional.pad(weights, (0, 1))[:, owners]


__all__ = ["Current", "Rows", "Segment", "over", "runs", "times", "weighted"]
