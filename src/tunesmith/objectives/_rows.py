"""One number per example beside a whole tensor per example, in a precision that bears it."""

from __future__ import annotations

from torch import Tensor


def widened(values: Tensor) -> Tensor:
    """Half precision as float32; all else as it is."""
    return values.float() if values.itemsize < 4 else values


def beside(like: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Values ``[B]`` as ``[B, 1, ...]``, on the device of ``like`` and at least in float32."""
    shape = (-1, *(1 for _ in like.shape[1:]))
    return tuple(widened(v).to(like.device).view(shape) for v in values)
