"""Kernels of a decoding step on a GPU, in Triton: a step of few rows is as fast as weights can be read.

At batch 1 a library's product reads a small weight at a third of the memory's speed, and norms, additions
and copies between products cost as much as they do. Here a layer is eight kernels, each of which reads its
weights or its cache once; where a cache ends is read on the device, so one CUDA graph serves every length.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, nn

OUTS, PART = 16, 256
"""Outputs of one program, and the most inputs that it takes at a time; a layer's sizes are multiples."""
_TILES = {16: (PART, 4), 32: (PART // 2, 5), 64: (PART // 4, 6)}
"""By rows: inputs at a time and how many are on their way; more rows leave fewer registers for each."""
_WARPS = 4
_SPAN, _SPAN_WARPS, _SPAN_STAGES = 128, 4, 2  # places that attention takes at a time
ACTIVATIONS = {"": 0, "gelu": 1, "relu": 2}


@triton.jit
def _product(
    x, weight, gain, scaled, shifted, out, rows, width, outs, eps,
    ROWS: tl.constexpr, OUTS: tl.constexpr, PART: tl.constexpr,
    NORM: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
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
):  # fmt: skip
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
        self.gain, self.eps = norm.weight.detach(), norm.eps
        self.scaled = weight.float() @ self.gain.float()
        self.shifted = weight.float() @ norm.bias.detach().float()


def product(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    norm: Norm | None = None,
    activation: str = "",
    add: bool = False,
) -> None:
    """``out = activation(W norm(x))``, or added to what ``out`` holds.

    Args:
        x: ``[R, k]``, contiguous as all are; k a multiple of :data:`PART`.
        weight: ``[d, k]``; d a multiple of :data:`OUTS`.
        out: ``[R, d]``.
        norm: of x.
        activation: a key of :data:`ACTIVATIONS`.
        add: to ``out``.
    """
    rows, width = x.shape
    outs, padded = len(weight), max(16, triton.next_power_of_2(rows))
    part, stages = _TILES[padded]
    of = (weight, weight, weight) if norm is None else (norm.gain, norm.scaled, norm.shifted)
    _product[(outs // OUTS,)](  # type: ignore[index]
        x, weight, *of, out, rows, width, outs, 0.0 if norm is None else norm.eps,
        ROWS=padded, OUTS=OUTS, PART=part,
        NORM=norm is not None, ACTIVATION=ACTIVATIONS[activation], ADD=add,
        num_warps=_WARPS, num_stages=stages,
    )  # fmt: skip


def attend(
    query: Tensor,
    cache: Tensor,
    lengths: Tensor,
    out: Tensor,
    size: int,
    mask: Tensor | None = None,
) -> None:
    """What one query of each row hears, ``[R, D]``.

    Args:
        query: ``[R, D]``; without a mask ``[R, 3 D]``, its key and value behind it, which go into the
            cache and are heard, too.
        cache: ``[R, L, 2 D]``, keys before values.
        lengths: ``[S]``, places of the cache that are heard; row r is of slot ``r % S``.
        out: ``[R, D]``.
        size: of a head.
        mask: ``[R, L]`` float32, added to what is heard; None for a sequence's own cache.
    """
    rows, positions, both = cache.shape
    width = both // 2
    _attend[(rows, width // size)](  # type: ignore[index]
        query, cache, cache if mask is None else mask, lengths, out, len(lengths), query.shape[1],
        width, positions, size**-0.5,
        SIZE=size, SPAN=_SPAN if mask is None else 16, STAGES=_SPAN_STAGES, OWN=mask is None,
        num_warps=_SPAN_WARPS if mask is None else 1,
    )  # fmt: skip


__all__ = ["ACTIVATIONS", "OUTS", "PART", "Norm", "attend", "product"]
