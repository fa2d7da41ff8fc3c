"""Cross-entropy straight from hidden states, for heads that predict several codebooks at once.

A codec language model has K heads of V entries over one hidden state. Going through the K·V logits
of every position keeps several copies of the largest tensor of the step alive until the backward
pass. With frozen heads (every adapter method) only ∂L/∂h is wanted, and for a softmax that is known
as soon as the logits are: ∂L_k/∂h = (softmax(W_k h) − onehot(y_k)) W_k. So it is formed on the way
forward, in slices, and no logits survive.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100
"""Label of a position without a target."""

_ROWS = 1024  # a slice's logits stay in the cache and are reused, instead of streaming from memory


class _FrozenHeads(torch.autograd.Function):
    """Per-position losses of frozen heads; the gradient is kept, the logits are not."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        rows, codebooks = labels.shape
        losses = hidden.new_empty((rows, codebooks), dtype=torch.float32)
        slopes = (
            hidden.new_empty((rows, codebooks, hidden.shape[-1]))
            if ctx.needs_input_grad[0]
            else None
        )
        for start in range(0, rows, _ROWS):
            part = slice(start, min(start + _ROWS, rows))
            target, wanted = labels[part].clamp(min=0), labels[part] != IGNORE
            logits = torch.einsum("nd,kvd->nkv", hidden[part], weight).float()
            hit = logits.gather(-1, target[..., None])[..., 0]
            # logsumexp by hand: its exponentials, taken once, are the softmax's too.
            top = logits.amax(dim=-1, keepdim=True)
            exponentials = logits.sub_(top).exp_()
            mass = exponentials.sum(dim=-1, keepdim=True)
            losses[part] = ((mass.log() + top)[..., 0] - hit) * wanted
            if slopes is not None:
                probabilities = exponentials.div_(mass)
                probabilities.scatter_add_(-1, target[..., None], -torch.ones_like(hit)[..., None])
                probabilities.mul_(wanted[..., None])
                slopes[part] = torch.einsum("nkv,kvd->nkd", probabilities.to(weight.dtype), weight)
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        (slopes,) = ctx.saved_tensors
        return torch.einsum("nk,nkd->nd", grads[0].to(slopes.dtype), slopes), None, None


def codebook_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(W_k h)[y_k] for every position and codebook, in nats.

    Args:
        hidden: ``[N, D]`` states.
        weight: ``[K, V, D]`` head weights, without bias.
        labels: ``[N, K]`` targets; :data:`IGNORE` where there is none.

    Returns:
        ``[N, K]`` float32 losses, 0 where ignored.
    """
    # A custom function is outside autocast's reach; giving both sides one dtype keeps the products
    # in the precision that autocast would have chosen for them.
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if not weight.requires_grad:
        return _FrozenHeads.apply(hidden, weight, labels)  # type: ignore[no-any-return]
    logits = torch.einsum("nd,kvd->nkv", hidden, weight).float()
    flat = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return flat.view_as(labels)
