"""Mean squared error of a predicted velocity, over the frames that are real.

    L_i = w_i · Σ_f m_if · (1/C) Σ_c (v̂_icf − v_icf)²     summed over the frames of example i

Returned as sum and count, as every loss of this house: the mean over all frames of the global batch
is then exact, whatever its slices. Weights w are in the sum and not in the count (Hang et al. 2023,
arXiv:2303.09556: a weighted sum, not a weighted mean).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.objectives._rows import beside, widened


def valid_frames(frames: Tensor, length: int) -> Tensor:
    """Boolean ``[B, length]``: True for the first ``frames[i]`` frames of row i.

    Args:
        frames: ``[B]`` whole numbers, as in ``Batch.frames``.
        length: frames of the padded batch.
    """
    return torch.arange(length, device=frames.device) < frames[:, None]


def velocity_loss(
    predicted: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    time_dim: int = -1,
) -> tuple[Tensor, Tensor]:
    """``(sum[B], count[B])``: squared error, mean over channels, sum over frames.

    Args:
        predicted: ``[B, C, T]`` or ``[B, T, C]``.
        target: of the same shape.
        mask: ``[B, T]`` boolean, False where a frame is padding or is not to be learned. What the
            network says there may be anything, NaN included.
        weights: ``[B]``, such as :func:`tunesmith.objectives.weighting.min_snr`.
        time_dim: which dimension is time: -1 for ``[B, C, T]``, 1 for ``[B, T, C]``.

    Raises:
        ValueError: the shapes differ; broadcasting would give a loss all the same.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted is {tuple(predicted.shape)}, target {tuple(target.shape)}")
    gaps = widened(predicted).movedim(time_dim, 1) - widened(target).movedim(time_dim, 1)
    gaps = gaps.flatten(2)  # [B, T, C]
    if mask is None:
        mask = torch.ones(gaps.shape[:2], dtype=torch.bool)
    if mask.shape != gaps.shape[:2]:
        raise ValueError(f"mask is {tuple(mask.shape)}, frames are {tuple(gaps.shape[:2])}")
    mask = mask.to(gaps.device, torch.bool)
    # Before the square: after it, a NaN would come back through the gradient as 0 · NaN.
    sums = gaps.masked_fill(~mask[..., None], 0.0).square().mean(dim=2).sum(dim=1)
    if weights is not None:
        sums = sums * beside(sums, weights)[0]
    return sums, mask.sum(dim=1).float()
