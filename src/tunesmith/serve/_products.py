"""Products of a decoding step: several linears of one input as one, in full precision or in 8 bits.

Adapters that a mixer has put on the linears stay as they are: what they add is added to the product.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunesmith.errors import UserError
from tunesmith.serve._mixed import MixedLinear
from tunesmith.serve._native import NativeProduct, native_product


class Product:
    """``y = W x`` for linears that share x, ``[R, k]`` to ``[R, Σd]``.

    Where there are several, their weights are laid into one tensor, of which each linear's own becomes a
    part: nothing is held twice, and whoever changes a linear in place changes the product.

    Args:
        linears: of one input; some may be a mixer's.
        int8: multiply in 8 bits.
        native: with our own kernels for a CPU, where there are some; for an even, small number of rows.

    Raises:
        UserError: int8, where this machine or these weights cannot.

    Attributes:
        native: the product by these kernels, of which no linear has a bias; None if by others.
    """

    def __init__(self, linears: Sequence[Any], *, int8: bool = False, native: bool = False) -> None:
        self._inner = [one.inner if isinstance(one, MixedLinear) else one for one in linears]
        self._mixed: list[tuple[MixedLinear, int, int]] = []
        end = 0
        for one in linears:
            begin, end = end, end + int(one.out_features)
            if isinstance(one, MixedLinear):
                self._mixed.append((one, begin, end))
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._packed: Int8 | None = None
        # Four-bit weights are no tensors that could be laid side by side; they are asked one by one.
        if all(type(one) is nn.Linear for one in self._inner):
            self._weight = joined([one.weight for one in self._inner])
            if any(one.bias is not None for one in self._inner):
                self._bias = torch.cat(
                    [self._weight.new_zeros(one.out_features) if one.bias is None else one.bias
                     for one in self._inner]
                )  # fmt: skip
        self._int8 = int8
        self.native: NativeProduct | None = None
        if native and self._weight is not None and self._bias is None:
            self.native = native_product(self._weight, int8=int8)
        if int8 and self.native is None:
            if self._weight is None:
                raise UserError("these weights are quantised already", "leave --int8 out")
            self._packed = Int8(self._weight)

    @property
    def weight(self) -> Tensor | None:
        """``[Σd, k]``, if the product is that with it and no more where no row asks for adapters."""
        return self._weight if self._bias is None and not self._int8 else None

    @property
    def plain(self) -> bool:
        """Whether no row of the batch asks a mixer for anything."""
        return not any(layer.asked for layer, _, _ in self._mixed)

    @property
    def shapes(self) -> Hashable | None:
        """What of the adapters decides which kernels it launches; None if that changes with the rows."""
        found = tuple(layer.shapes for layer, _, _ in self._mixed)
        return None if None in found else found

    def __call__(self, x: Tensor) -> Tensor:
        if self.native is not None:
            y = self.native(x)
        elif self._packed is not None:
            y = self._packed(x)
            y = y if self._bias is None else y.add_(self._bias)
        elif self._weight is not None:
            y = F.linear(x, self._weight, self._bias)
        elif len(self._inner) == 1:
            y = self._inner[0](x)
        else:
            y = torch.cat([one(x) for one in self._inner], -1)
        for layer, begin, end in self._mixed:
            part = y[..., begin:end]
            changed = layer.changed(x, part)
            if changed is not part:
                if changed.shape == y.shape:
                    y = changed
                else:
                    y[..., begin:end] = changed
        return y


@torch.no_grad()
def joined(weights: Sequence[nn.Parameter]) -> Tensor:
    """``[Σd, k]``, of which each of the weights ``[d, k]`` is a part from now on."""
    if len(weights) == 1:
        return weights[0].detach()
    whole = torch.cat([one.detach() for one in weights])
    begin = 0
    for one in weights:
        one.data = whole[begin : begin + len(one)]
        begin += len(one)
    return whole


class Int8:
    """A product in 8 bits: weights scaled by output (symmetric), inputs by row as they come.

    Each row has a scale of its own, so that it comes out the same whoever is in the batch with it; the
    library's dynamic linears take one scale for all rows.

    Args:
        weight: ``[d, k]`` float32 on the CPU.

    Raises:
        UserError: this machine, or this release of the library, has no such product.
    """

    def __init__(self, weight: Tensor) -> None:
        try:
            self._packed = _packed(weight)
            self._steps = _steps()
        except (RuntimeError, AttributeError) as error:
            raise UserError("this machine cannot multiply in int8", "leave --int8 out") from error

    def __call__(self, x: Tensor) -> Tensor:
        """``[R, k]`` to ``[R, d]``."""
        largest = x.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
        return _multiply(x / largest, self._steps, self._packed).mul_(largest)


def _packed(weight: Tensor) -> Any:
    """A weight ``[d, k]`` as the library's 8-bit products want it."""
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    rounded = (weight / scale[:, None]).round().to(torch.int8)
    zeros = torch.zeros(len(scale), dtype=torch.long)
    with (
        warnings.catch_warnings()
    ):  # tensors of such a type will go, the products' own form not yet
        warnings.filterwarnings("ignore", ".*quantized tensor creation functions.*", UserWarning)
        held = torch._make_per_channel_quantized_tensor(rounded, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(held, None)


def _multiply(x: Tensor, steps: int, packed: Any) -> Tensor:
    """The product for x in -1..1, which is held in so many steps to either side of 128."""
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
    return multiply(x, 1 / steps, 128, packed)


@cache
def _steps() -> int:
    """Steps from zero to the largest input: 127, or 63 where sums of two products overflow.

    Processors without VNNI add pairs of products in 16 bits. Asked by trying the largest there are.
    """
    size = 64
    ones = torch.ones(size, size)
    found = _multiply(torch.ones(2, size), 127, _packed(ones))
    return 127 if torch.allclose(found, torch.full((2, size), float(size)), rtol=1e-3) else 63


__all__ = ["Int8", "Product", "joined"]
