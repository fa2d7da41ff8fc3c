"""Kernels of a decoding step on a GPU, in Triton: a step of few rows is as fast as weights can be read.

Norms, additions and copies between products cost as much as these do. Here a layer is eight kernels, each
of which reads its weights or its cache once; where a cache ends is read on the device, so one CUDA graph
serves every length. Which way of a product is the fastest depends on its shape, its rows and the device:
:mod:`tunesmith.serve._tuned` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn import functional as F

OUTS, PART = 64, 256
"""A layer's sizes are multiples of these: outputs of a program, and inputs that it takes at a time."""
FEW = 4
"""The most rows of a product whose rows are multiplied one by one."""
ACTIVATIONS = {"": 0, "gelu": 1, "relu": 2}


@dataclass(frozen=True, slots=True)
class Way:
    """How a product is made.

    Attributes:
        kind: ``few`` rows, a matrix-vector product; ``tile``, with the matrix units; ``library``.
        outs: of a program.
        part: inputs that it takes at a time.
        warps: of a program.
        stages: parts that are on their way, of a tile.
    """

    kind: str
    outs: int = 0
    part: int = 0
    warps: int = 4
    stages: int = 1


@dataclass(frozen=True, slots=True)
class Span:
    """How attention is made.

    Attributes:
        places: at a time.
        warps: of a program.
        stages: of places that are on their way.
    """

    places: int
    warps: int
    stages: int


LIBRARY = Way("library")
TEXT = Span(16, 1, 2)
"""Of attention to a text, which is short."""


def ways(rows: int, width: int) -> list[Way]:
    """Those worth trying for so many rows and inputs, the likeliest first."""
    few: list[tuple[int, int, int]] = []
    if rows <= 2:
        few = [(4, 1024, 4), (4, 512, 4), (2, 2048, 4), (2, 1024, 4), (8, 512, 4), (8, 256, 4)]
        few += [(8, 1024, 8)]
    elif rows <= FEW:
        few = [(4, 512, 4), (2, 1024, 4), (8, 256, 4), (2, 512, 4), (8, 512, 8)]
    padded = max(16, triton.next_power_of_2(rows))
    tiles = {
        16: [(16, 256, 2, 4), (64, 128, 4, 4)],
        32: [(64, 128, 4, 3), (16, 256, 4, 3), (16, 128, 4, 4)],
        64: [(64, 64, 4, 4), (16, 64, 4, 6)],
    }[padded]
    found = [Way("few", *one) for one in few if width % one[1] == 0]
    return found + [Way("tile", *one) for one in tiles if width % one[1] == 0]


def spans(rows: int) -> list[Span]:
    """Those worth trying for attention to a sequence, the likeliest first."""
    few = [(256, 8, 2), (128, 4, 3), (64, 4, 2)]
    many = [(32, 1, 2), (64, 2, 2), (128, 4, 2)]
    return [Span(*one) for one in (few + many[:1] if rows <= FEW else many + few[:1])]


@triton.jit
def _few(
    x, weight, gain, scaled, shifted, out, outs, eps,
    ROWS: tl.constexpr, OUTS: tl.constexpr, PART: tl.constexpr, WIDTH: tl.constexpr,
    NORM: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    n = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    k = tl.arange(0, PART)
    r = tl.arange(0, ROWS)
    rows = weight + n[None, :, None] * WIDTH + k[None, None, :]
    w = tl.load(rows, eviction_policy="evict_first")
    if EARLY:  # weights are on their way before what they are multiplied with is there
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((ROWS, OUTS, PART), tl.float32)
    sums = tl.zeros((ROWS, 1, PART), tl.float32)
    squares = tl.zeros((ROWS, 1, PART), tl.float32)
    for begin in tl.static_range(0, WIDTH, PART):
        here = w.to(tl.float32)
        if begin + PART < WIDTH:
            w = tl.load(rows + (begin + PART), eviction_policy="evict_first")
        inputs = tl.load(x + r[:, None, None] * WIDTH + (begin + k)[None, None, :]).to(tl.float32)
        if NORM:
            sums += inputs
            squares += inputs * inputs
            inputs = inputs * tl.load(gain + (begin + k)[None, None, :]).to(tl.float32)
        total += here * inputs
    found = tl.sum(total, 2)
    if NORM:
        mean = tl.sum(sums, 2) / WIDTH
        spread = tl.maximum(tl.sum(squares, 2) / WIDTH - mean * mean, 0.0)
        rate = 1.0 / tl.sqrt(spread + eps)
        found = found * rate - tl.load(scaled + n)[None, :] * (mean * rate)
        found += tl.load(shifted + n)[None, :]
    if ACTIVATION == 1:
        found = 0.5 * found * (1.0 + tl.math.erf(found * 0.7071067811865476))
    if ACTIVATION == 2:
        found = tl.maximum(found, 0.0)
    place = out + r[:, None] * outs + n[None, :]
    if ADD:
        found += tl.load(place).to(tl.float32)
    tl.store(place, found.to(out.dtype.element_ty))


@triton.jit
def _tile(
    x, weight, gain, scaled, shifted, out, rows, width, outs, eps,
    ROWS: tl.constexpr, OUTS: tl.constexpr, PART: tl.constexpr,
    NORM: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    n = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    r = tl.arange(0, ROWS)
    k = tl.arange(0, PART)
    live = r < rows
    total = tl.zeros((OUTS, ROWS), tl.float32)
    sums = tl.zeros((PART, ROWS), tl.float32)
    squares = tl.zeros((PART, ROWS), tl.float32)
    for begin in range(0, width, PART):
        w = tl.load(weight + n[:, None] * width + (begin + k)[None, :])
        inputs = tl.load(
            x + r[None, :] * width + (begin + k)[:, None], mask=live[None, :], other=0.0
        )
        if NORM:
            wide = inputs.to(tl.float32)
            sums += wide
            squares += wide * wide
            inputs = (wide * tl.load(gain + begin + k).to(tl.float32)[:, None]).to(w.dtype)
        total = tl.dot(w, inputs, total, input_precision="ieee")
    if NORM:
        mean = tl.sum(sums, 0) / width
        spread = tl.maximum(tl.sum(squares, 0) / width - mean * mean, 0.0)
        rate = 1.0 / tl.sqrt(spread + eps)
        total = total * rate[None, :] - tl.load(scaled + n)[:, None] * (mean * rate)[None, :]
        total += tl.load(shifted + n)[:, None]
    if ACTIVATION == 1:
        total = 0.5 * total * (1.0 + tl.math.erf(total * 0.7071067811865476))
    if ACTIVATION == 2:
        total = tl.maximum(total, 0.0)
    place = out + r[None, :] * outs + n[:, None]
    if ADD:
        total += tl.load(place, mask=live[None, :], other=0.0).to(tl.float32)
    tl.store(place, total.to(out.dtype.element_ty), mask=live[None, :])


@triton.jit
def _attend(
    query, cache, mask, lengths, out, slots, stride, width, positions, scale,
    SIZE: tl.constexpr, SPAN: tl.constexpr, STAGES: tl.constexpr, OWN: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0)
    d = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    length = tl.load(lengths + row % slots).to(tl.int32)
    q = tl.load(query + row * stride + d).to(tl.float32) * scale
    begins = cache + row.to(tl.int64) * positions * 2 * width
    if OWN:  # the newest place is on its way into the cache
        key = tl.load(query + row * stride + width + d)
        value = tl.load(query + row * stride + 2 * width + d)
        tl.store(begins + length * 2 * width + d, key)
        tl.store(begins + length * 2 * width + width + d, value)
        top = tl.sum(q * key.to(tl.float32), 0)
        total = top * 0.0 + 1.0
        heard = value.to(tl.float32)
    else:
        top = tl.sum(q, 0) * 0.0 - float("inf")
        total = tl.sum(q, 0) * 0.0
        heard = q * 0.0
    for begin in tl.range(0, length, SPAN, num_stages=STAGES):
        at = begin + tl.arange(0, SPAN)
        there = at < length
        where = begins + at[:, None] * 2 * width + d[None, :]
        keys = tl.load(where, mask=there[:, None], other=0.0).to(tl.float32)
        values = tl.load(where + width, mask=there[:, None], other=0.0).to(tl.float32)
        score = tl.sum(keys * q[None, :], 1)
        if not OWN:
            score += tl.load(mask + row * positions + at, mask=there, other=0.0)
        score = tl.where(there, score, -float("inf"))
        higher = tl.maximum(top, tl.max(score, 0))
        fade = tl.exp(top - higher)
        share = tl.exp(score - higher)
        total = total * fade + tl.sum(share, 0)
        heard = heard * fade + tl.sum(share[:, None] * values, 0)
        top = higher
    tl.store(out + row * width + d, (heard / total).to(out.dtype.element_ty))


class Norm:
    """A layer norm that is part of the product behind it.

    W((x − μ)/σ ∘ g + b) = (W(x ∘ g) − μ W g)/σ + W b, of which μ and σ come out of the same pass over x.

    Args:
        norm: with ``weight`` g ``[k]``, ``bias`` b ``[k]`` and ``eps``.
        weight: W ``[d, k]``.
    """

    def __init__(self, norm: nn.LayerNorm, weight: Tensor) -> None:
        self.gain, self.bias, self.eps = norm.weight.detach(), norm.bias.detach(), norm.eps
        self.scaled = weight.float() @ self.gain.float()
        self.shifted = weight.float() @ self.bias.float()


def product(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    way: Way,
    *,
    norm: Norm | None = None,
    activation: str = "",
    add: bool = False,
    early: bool = False,
    compiling: bool = False,
) -> None:
    """``out = activation(W norm(x))``, or added to what ``out`` holds.

    Args:
        x: ``[R, k]``, contiguous as all are; k a multiple of :data:`PART`.
        weight: ``[d, k]``; d a multiple of :data:`OUTS`.
        out: ``[R, d]``.
        way: one of :func:`ways`, or :data:`LIBRARY`.
        norm: of x.
        activation: a key of :data:`ACTIVATIONS`.
        add: to ``out``.
        early: begin while the kernel before is still at work, as far as nothing of it is needed
            (programmatic dependent launch, from compute capability 9.0).
        compiling: only compile it.
    """
    if way.kind == "library":
        if not compiling:
            _product_of_library(x, weight, out, norm, activation, add)
        return
    rows, width = x.shape
    outs, padded = len(weight), max(16, triton.next_power_of_2(rows))
    of = (weight, weight, weight) if norm is None else (norm.gain, norm.scaled, norm.shifted)
    eps = 0.0 if norm is None else norm.eps
    more = {"launch_pdl": True} if early else {}
    tells = (norm is not None, ACTIVATIONS[activation], add, early)
    kernel: Any = _few if way.kind == "few" else _tile
    grid = (outs // way.outs,)
    launch = partial(kernel.warmup, grid=grid) if compiling else kernel[grid]
    if way.kind == "few":
        launch(
            x, weight, *of, out, outs, eps, rows, way.outs, way.part, width, *tells,
            num_warps=way.warps, **more,
        )  # fmt: skip
    else:
        launch(
            x, weight, *of, out, rows, width, outs, eps, padded, way.outs, way.part, *tells,
            num_warps=way.warps, num_stages=way.stages, **more,
        )  # fmt: skip


def _product_of_library(
    x: Tensor, weight: Tensor, out: Tensor, norm: Norm | None, activation: str, add: bool
) -> None:
    if norm is not None:
        x = F.layer_norm(x, (x.shape[1],), norm.gain, norm.bias, norm.eps)
    if add and not activation:
        out.addmm_(x, weight.t())
        return
    into = out if out.dtype == x.dtype and not add else None
    made = torch.mm(x, weight.t()) if into is None else torch.mm(x, weight.t(), out=into)
    if activation:
        made = (F.gelu if activation == "gelu" else F.relu)(made)
    if add:
        out.add_(made)
    elif made is not out:
        out.copy_(made)


def attend(
    query: Tensor,
    cache: Tensor,
    lengths: Tensor,
    out: Tensor,
    size: int,
    span: Span,
    mask: Tensor | None = None,
    *,
    early: bool = False,
) -> None:
    """What one query of each row hears, ``[R, D]``.

    Args:
        query: ``[R, D]``; without a mask ``[R, 3 D]``, its key and value behind it, which go into the
            cache and are heard, too.
        cache: ``[R, L, 2 D]``, keys before values.
        lengths: ``[S]``, places of the cache that are heard; row r is of slot ``r % S``.
        out: ``[R, D]``.
        size: of a head.
        span: one of :func:`spans`, or :data:`TEXT`.
        mask: ``[R, L]`` float32, added to what is heard; None for a sequence's own cache.
        early: see :func:`product`.
    """
    rows, positions, both = cache.shape
    width = both // 2
    more = {"launch_pdl": True} if early else {}
    _attend[(rows, width // size)](  # type: ignore[index]
        query, cache, cache if mask is None else mask, lengths, out, len(lengths), query.shape[1],
        width, positions, size**-0.5,
        SIZE=size, SPAN=span.places, STAGES=span.stages, OWN=mask is None, EARLY=early,
        num_warps=span.warps, **more,
    )  # fmt: skip


__all__ = [
    "ACTIVATIONS", "FEW", "LIBRARY", "OUTS", "PART", "TEXT", "Norm", "Span", "Way", "attend", "product",
    "spans", "ways",
]  # fmt: skip
