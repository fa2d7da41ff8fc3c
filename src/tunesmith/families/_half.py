"""Frozen linears kept in the precision that they are multiplied in.

Autocast rounds a frozen float32 weight anew at each use, forward and back, and keeps no copy of it.
Rounded once, the products are the same bits, the passes over memory are saved, and the weights take
half of the room. What trains, and whatever stands outside of the seams (embeddings, text encoder, codec),
stays as it is. A norm's result is rounded once too, where linears are all that read it: autocast would
round it in each of them, and each would keep a copy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunesmith.families._bundle import Bundle


class HalfLinear(nn.Linear):
    """A linear whose weight is in half precision, and which may be given float32 outside of autocast."""

    def forward(self, input: Tensor) -> Tensor:
        dtype = self.weight.dtype
        if input.dtype == dtype or torch.is_autocast_enabled(input.device.type):
            return F.linear(input, self.weight, self.bias)
        return F.linear(input.to(dtype), self.weight, self.bias).to(input.dtype)


class HalfNorm(nn.LayerNorm):
    """A layer norm computed in float32, whose result comes in autocast's precision while that is on."""

    def forward(self, input: Tensor) -> Tensor:
        normed = super().forward(input)
        kind = input.device.type
        if not torch.is_autocast_enabled(kind):
            return normed
        return normed.to(torch.get_autocast_dtype(kind))


def halve(bundle: Bundle, dtype: torch.dtype) -> int:
    """Round the frozen float32 linears at a base's seams to ``dtype``, for good, and norms' results.

    Args:
        bundle: the base, with a method attached.
        dtype: ``bfloat16`` or ``float16``.

    Returns:
        How many linears that were.
    """
    for norm in bundle.module.norms():
        if type(norm) is nn.LayerNorm:
            norm.__class__ = HalfNorm
    done = 0
    places = {
        (site.component, path)
        for site in bundle.sites
        for path in (*site.inputs.values(), site.output)
        if path
    }
    for component, path in sorted(places):
        # A method may have put a module of its own there, with the linear in it.
        for linear in bundle.components[component].get_submodule(path).modules():
            if type(linear) is not nn.Linear or linear.weight.dtype != torch.float32:
                continue
            if any(parameter.requires_grad for parameter in linear.parameters()):
                continue
            linear.to(dtype)
            linear.__class__ = HalfLinear
            done += 1
    return done


__all__ = ["HalfLinear", "HalfNorm", "halve"]
