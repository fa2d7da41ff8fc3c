"""Which ranks belong to which adapter, and which of them a batch has to compute."""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.serve._rows import Rows, runs, weighted

_SMALLEST = 16  # ranks of a compiled step, at least


class Plan:
    """The ranks of all adapters, given out and taken back.

    Args:
        slots: adapters at a time.
        rank: of one at most.
        ranks: of all together, all of which every step computes; 0: ``slots * rank``, as far as used.

    Attributes:
        ranks: how many there are.
    """

    def __init__(self, slots: int, rank: int, ranks: int) -> None:
        self.ranks = ranks or slots * rank
        self._fixed = bool(ranks)
        self._nobody = slots
        self._of: dict[int, list[int]] = {}
        self._owner = torch.full((self.ranks,), slots)

    def room(self, rank: int, without: int | None = None) -> bool:
        """Whether so many are free, those of a slot counted in that would be given up."""
        free = int((self._owner == self._nobody).sum())
        return rank <= free + len(self._of.get(-1 if without is None else without, ()))

    def take(self, slot: int, rank: int) -> list[int]:
        """The lowest free ranks, sorted."""
        free = (self._owner == self._nobody).nonzero().flatten()[:rank]
        self._owner[free] = slot
        self._of[slot] = free.tolist()
        return self._of[slot]

    def free(self, slot: int) -> None:
        """Take a slot's ranks back."""
        self._owner[self._of.pop(slot, [])] = self._nobody

    def rows(self, weights: Tensor, used: frozenset[int], version: int, by_row: bool) -> Rows:
        """Rows ``[n, slots]`` for layers that compute what these rows need and nothing else.

        Args:
            weights: of the rows.
            used: slots that any of them asks for.
            version: of what the ranks hold.
            by_row: whether products for each row are worth a thought on this device.
        """
        wanted = sorted(rank for slot in used for rank in self._of.get(slot, ()))
        rows = Rows(weights, weights, used=used)
        if not wanted:
            return rows
        begin, end = wanted[0], wanted[-1] + 1
        if 2 * len(wanted) >= end - begin:
            rows.begin = begin
            rows.ranks = weighted(weights, self._owner[begin:end])
        else:  # little of the span is used: gathered once, and kept while the rows stay
            rows.index = torch.tensor(wanted)
            rows.version = hash((version, tuple(wanted)))
            rows.ranks = weighted(weights, self._owner[rows.index])
        if by_row:
            parts = [
                [
                    (*run, weight)
                    for slot, weight in enumerate(row)
                    if weight
                    for run in runs(self._of.get(slot, []))
                ]
                for row in weights.tolist()
            ]
            each = sum(end - begin for row in parts for begin, end, _ in row)
            # A product for all rows has every rank for every row; below half of that, small ones win.
            if 2 * each <= len(weights) * rows.ranks.shape[1]:
                rows.segments = tuple(map(tuple, parts))
        return rows

    def static(self, weights: Tensor, used: frozenset[int]) -> Rows:
        """Rows for a step whose shapes stay: as many ranks as are given out, in powers of two.

        None where no row asks for an adapter, unless the number is fixed.
        """
        width = self.ranks
        if not self._fixed and not used:
            width = 0
        elif not self._fixed:
            top = max((one[-1] + 1 for one in self._of.values() if one), default=0)
            width = 0 if not top else min(self.ranks, max(_SMALLEST, 1 << (top - 1).bit_length()))
        ranks = weighted(weights, self._owner[:width]) if width else None
        return Rows(weights.clone(), weights.clone(), ranks, fixed=self._fixed)


__all__ = ["Plan"]
