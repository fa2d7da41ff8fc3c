"""A linear with its low-rank adapter as one operation: y = Wx + b + s·B(Ax).

PEFT's own forward makes B(Ax), its product with s and the sum with Wx as tensors of their own, each as
large as y, and their gradients again on the way back: six passes over memory more than the products
need. Here the adapter's part is added where Wx already stands, and likewise for the gradient of x.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F

from tunesmith.families._half import HalfLinear


class _Adapted(torch.autograd.Function):
    """x ``[N, k]``, W ``[d, k]``, b ``[d]`` or None, A ``[r, k]``, B ``[d, r]``; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        inner = x @ down.T
        ctx.save_for_backward(x, weight, down, up, inner)
        ctx.scale = scale
        return F.linear(x, weight, bias).addmm_(inner, up.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, inner = ctx.saved_tensors
        (slope,) = grads
        through = (slope @ up).mul_(ctx.scale)
        of_x = (slope @ weight).addmm_(through, down) if ctx.needs_input_grad[0] else None
        of_down = through.T @ x if ctx.needs_input_grad[3] else None
        of_up = (slope.T @ inner).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        return of_x, None, None, of_down, of_up, None


class LoraLinear(Linear):
    """PEFT's layer, quicker where it is what it mostly is: one plain adapter on one frozen linear.

    Dropout, an adapter per row, a merged or disabled adapter, a base that trains or is no plain linear:
    all that goes PEFT's own way.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, active = self.base_layer, self.active_adapters
        (name,) = active if len(active) == 1 else ("",)
        if (
            args
            or kwargs
            or self.disable_adapters
            or self.merged
            or name not in self.lora_A
            or name in self.lora_variant
            or type(base) not in (nn.Linear, HalfLinear)
            or base.weight.requires_grad
            or not isinstance(self.lora_dropout[name], nn.Identity)
        ):
            return super().forward(x, *args, **kwargs)
        tensors = (base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight)
        # A custom function is outside autocast's reach, and mixed tensors have no product.
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        elif {x.dtype, base.weight.dtype} == {tensors[2].dtype}:
            dtype = x.dtype
        else:  # a base in half precision, whose adapter is computed in full
            return super().forward(x)
        weight, bias, down, up = (None if one is None else one.to(dtype) for one in tensors)
        flat = x.to(dtype).reshape(-1, x.shape[-1])
        y = _Adapted.apply(flat, weight, bias, down, up, float(self.scaling[name]))
        return y.view(*x.shape[:-1], -1)  # type: ignore[union-attr]


__all__ = ["LoraLinear"]
