"""Layers that serve many adapters at a time: a linear or a convolution, and what rows add to it.

    y_b = W x_b + Σ_i w_bi B_i A_i x_b            (low rank: exact for any weights)
    y_b + w_bi U_i φ_i(D_i y_b + d_i) + u_i        (a bottleneck, after it)

A and B of all adapters lie one below the other, a rank a line. Short inputs (a step of decoding) have
one product for all rows, with a weight for each rank and row; long ones a product for each row and
adapter, which multiplies nothing with zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunesmith.serve._rows import Current, Rows, over, runs, times

LONG = 16
"""Positions from which on a product for each row is considered."""


@lru_cache(maxsize=8)
def _eye(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.eye(size, device=device, dtype=dtype)


class Mixed(nn.Module):
    """A wrapped layer and the factors of all adapters; see :class:`MixedLinear`.

    Args:
        inner: the wrapped layer.
        sizes: ``(d, k)``.
        ranks: of all adapters together.
        current: where the rows of the batch are looked up.
        device: of the factors, and ``dtype``.
    """

    def __init__(
        self,
        inner: nn.Module,
        sizes: tuple[int, int],
        ranks: int,
        current: Current,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.inner: Any = inner
        self.sizes = sizes
        self._current = current
        self.down: Tensor
        self.up: Tensor
        # Zeros are not touched before they are written: on a CPU what no adapter needs takes no memory.
        self.register_buffer(
            "down", torch.zeros(ranks, sizes[1], device=device, dtype=dtype), persistent=False
        )
        self.register_buffer(
            "up", torch.zeros(ranks, sizes[0], device=device, dtype=dtype), persistent=False
        )
        self.slots: set[int] = set()
        self.touched = (
            False  # a compiled step would ask for the very slots, and compile anew for others
        )
        self._written: set[int] = set()
        self._picked: tuple[int, Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The wrapped layer's, which some models look at."""
        return self.inner.weight

    @property
    def bias(self) -> Tensor | None:
        return self.inner.bias

    def write(self, slot: int, ranks: Sequence[int], factors: tuple[Tensor, Tensor] | None) -> None:
        """Put an adapter's factors into these ranks; None, or fewer ranks, leaves zeros there.

        Args:
            slot: of the adapter.
            ranks: sorted.
            factors: A ``[r, k]`` and B ``[d, r]``.
        """
        size = 0 if factors is None else factors[0].shape[0]
        if factors is not None:
            down, up = (one.to(self.down.device, self.down.dtype) for one in factors)
            one, done = _eye(size, up.device, up.dtype), 0
            for begin, end in runs(ranks[:size]):
                part = slice(done, done + end - begin)
                self.down[begin:end].copy_(down[part])
                # 1 times it: exact, and on a CPU the product transposes in half of the time of a copy.
                torch.mm(one[part], up.T, out=self.up[begin:end])
                done += end - begin
            self.slots.add(slot)
            if not self.touched:  # setting a module's attribute costs more than asking
                self.touched = True
        if stale := sorted(self._written.intersection(ranks[size:])):
            for begin, end in runs(stale):
                self.up[begin:end].zero_()
        self._written.update(ranks[:size])

    def forget(self, slot: int) -> None:
        """No row asks for this slot any more; what lies in its ranks is overwritten by the next."""
        self.slots.discard(slot)
        if self.touched and not self.slots:
            self.touched = False

    def _factors(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """A ``[W, k]`` and B ``[W, d]`` of the ranks that the rows have weights for."""
        assert rows.ranks is not None
        if rows.index is None:
            span = slice(rows.begin, rows.begin + rows.ranks.shape[1])
            return self.down[span], self.up[span]
        if self._picked is None or self._picked[0] != rows.version:
            self._picked = (rows.version, self.down[rows.index], self.up[rows.index])
        return self._picked[1], self._picked[2]

    def _wanted(self, rows: Rows) -> bool:
        if rows.ranks is None:
            return False
        if rows.used is None:  # in a compiled step
            return rows.fixed or self.touched
        return not self.slots.isdisjoint(rows.used)


class MixedLinear(Mixed):
    """A linear, the low-rank changes of all adapters and, where asked for, their bottlenecks."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.out_features, self.in_features = self.sizes
        self.bottlenecks: dict[int, nn.Module] = {}

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """``[B, ..., k]`` to ``[B, ..., d]``."""
        return self.changed(x, self.inner(x, *args, **options))

    @property
    def asked(self) -> bool:
        """Whether a row of the batch asks for anything, here or elsewhere."""
        rows = self._current.rows
        if rows is None:
            return False
        return rows.ranks is not None or bool(rows.bottlenecks or rows.prefixes)

    @property
    def shapes(self) -> Hashable | None:
        """What decides which kernels it launches on which tensors; None if the rows' numbers do."""
        rows = self._current.rows
        if rows is None:
            return ()
        if rows.used is not None or rows.bottlenecks or rows.prefixes:
            return None
        where = () if rows.ranks is None else (rows.ranks.data_ptr(), rows.ranks.shape)
        return (*where, self._wanted(rows))

    def changed(self, x: Tensor, y: Tensor) -> Tensor:
        """What the rows make of y, the wrapped layer's answer to x; it may be written over."""
        rows = self._current.rows
        if rows is None:
            return y
        if self._wanted(rows):
            y = self._mixed(x.to(self.down.dtype), y, rows)
        for slot in rows.bottlenecks:
            if slot in self.bottlenecks:
                weight = over(rows.weights[:, slot], len(y))
                more = self.bottlenecks[slot](y) * weight.view(-1, *[1] * (y.dim() - 1))
                y = y + more.to(y.dtype)
        return y

    def _mixed(self, x: Tensor, y: Tensor, rows: Rows) -> Tensor:
        assert rows.ranks is not None
        # In place where it can be: another copy of y would cost as much as a small adapter.
        alone = y.is_contiguous() and y.dtype == x.dtype and not y.requires_grad
        if rows.segments is not None and alone and x.dim() == 3 and x.shape[1] >= LONG:
            times(len(x), len(rows.segments))
            for number in range(len(x)):
                for begin, end, weight in rows.segments[number % len(rows.segments)]:
                    narrow = x[number] @ self.down[begin:end].T
                    y[number].addmm_(narrow, self.up[begin:end], alpha=weight)
            return y
        down, up = self._factors(rows)
        weight = over(rows.ranks, len(x))
        narrow = F.linear(x, down)
        narrow = narrow * weight.view(len(x), *[1] * (x.dim() - 2), -1)
        if alone:
            y.view(-1, y.shape[-1]).addmm_(narrow.view(-1, narrow.shape[-1]), up)
            return y
        return y + (narrow @ up).to(y.dtype)


class MixedConvolution(Mixed):
    """A one-dimensional convolution; k is channels times the kernel's width."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T]`` to ``[B, d, T']``."""
        y = self.inner(x)
        rows = self._current.rows
        if rows is None or not self._wanted(rows):
            return y
        assert rows.ranks is not None
        down, up = self._factors(rows)
        inner = self.inner
        narrow = F.conv1d(
            x.to(down.dtype),
            down.view(len(down), x.shape[1], -1),
            None,
            inner.stride,
            inner.padding,
            inner.dilation,
        )
        return y + (up.T @ (narrow * over(rows.ranks, len(x))[..., None])).to(y.dtype)


class Narrow(nn.Module):
    """What a bottleneck adapter adds to y: U·φ(D·y + d) + u, in float32.

    Args:
        tensors: ``down.weight`` ``[w, d]``, ``down.bias``, ``up.weight`` ``[d, w]``, ``up.bias``.
        activation: φ.
        device: where it lives.
    """

    def __init__(self, tensors: dict[str, Tensor], activation: Any, device: torch.device) -> None:
        super().__init__()
        self.tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.activation = activation

    def forward(self, y: Tensor) -> Tensor:
        """``[..., d]`` to ``[..., d]``."""
        of = self.tensors
        y = y.to(of["down.weight"].dtype)
        narrow = self.activation(F.linear(y, of["down.weight"], of["down.bias"]))
        return F.linear(narrow, of["up.weight"], of["up.bias"])


__all__ = ["LONG", "Mixed", "MixedConvolution", "MixedLinear", "Narrow"]
