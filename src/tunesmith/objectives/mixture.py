"""Several losses as one: L = Σ_s λ_s · L_s over streams of data.

Prior preservation (DreamBooth, Ruiz et al. 2023, arXiv:2208.12242, equation 2) is the sum of two
streams, L = L_concept + λ·L_prior; replay of general data has the same form. Each stream's terms are
means over its own clips of the whole accumulated, global batch, so neither its number of clips nor
how the batch was sliced changes its weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from tunesmith.types import Loss


def total_loss(terms: Loss, counts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ over terms of weight · sum / count, the counts being those of the whole global batch."""
    parts = [
        weights.get(name, 1.0) * sums.sum() / counts[name].clamp(min=1)
        for name, (sums, _) in terms.items()
    ]
    return torch.stack(parts).sum()


def sum_counts(counts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Counts ``[B]`` of several slices as one number a term."""
    total: dict[str, Tensor] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, torch.zeros(())) + count.sum()
    return total
