"""A step of a MusicGen's decoder on a GPU in few kernels of its own; see :mod:`tunesmith.serve._kernels`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.serve._layers import Layer
from tunesmith.serve._products import Product

_LOG = logging.getLogger(__name__)
_ROWS = 64
"""The most rows of a step; of more, a library's products are as fast."""
_TYPES = (torch.bfloat16, torch.float16)


@dataclass(slots=True)
class Site:
    """A product that every layer has; its inputs and outputs are the same tensors in each.

    Attributes:
        weights: ``[d, k]`` of each layer.
        norms: in front of it.
        x: ``[R, k]``.
        out: ``[R, d]``.
        activation: behind it.
        add: to ``out``.
    """

    weights: list[Tensor]
    norms: list[Any]
    x: Tensor
    out: Tensor
    activation: str = ""
    add: bool = False


class Fused:
    """A step of layers whose rows ask for no adapters, from embedded tokens to logits.

    Args:
        layers: of the decoder.
        norm: before the heads.
        logits: the heads.
        rows: R of a step.
        size: of an attention's head.
        activation: its name in the model's configuration.

    Attributes:
        sites: the products, by name.
        ways: how each is made.
        span: how attention to a sequence is made.
        early: whether kernels begin before the one in front of them has ended.
        measured: what was measured to choose these, by name, in words.

    Raises:
        ImportError: there is no Triton.
        ValueError: these layers are not what the kernels are for, with the reason.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        norm: Any,
        logits: Product,
        rows: int,
        size: int,
        activation: str,
    ) -> None:
        from tunesmith.serve import _kernels as kernels

        self._kernels = kernels
        weights = [one.weight for layer in layers for one in layer.products] + [logits.weight]
        for weight in weights:
            if weight is None:
                raise ValueError("linears are quantised, or have biases")
            if weight.shape[0] % kernels.OUTS or weight.shape[1] % kernels.PART:
                raise ValueError(f"a weight has shape {list(weight.shape)}")
        if size < 16 or size & (size - 1):
            raise ValueError(f"heads have size {size}")
        if activation not in kernels.ACTIVATIONS:
            raise ValueError(f"the activation is {activation}")
        self.size, self.layers = size, layers
        like = _weight(logits)
        width = like.shape[1]
        self._x, query, heard = (like.new_empty(rows, width) for _ in range(3))
        qkv = like.new_empty(rows, 3 * width)
        wide = like.new_empty(rows, len(_weight(layers[0].up)))
        out = like.new_empty(rows, len(like), dtype=torch.float32)

        def site(name: str, norm: str, x: Tensor, out: Tensor, **more: Any) -> Site:
            of = [_weight(getattr(layer, name)) for layer in layers]
            norms = [
                kernels.Norm(getattr(layer.plain, norm), weight) if norm else None
                for layer, weight in zip(layers, of, strict=True)
            ]
            return Site(of, norms, x, out, **more)

        self.sites = {
            "qkv": site("qkv", "self_attn_layer_norm", self._x, qkv),
            "out": site("out", "", heard, self._x, add=True),
            "text_q": site("text_q", "encoder_attn_layer_norm", self._x, query),
            "text_out": site("text_out", "", heard, self._x, add=True),
            "up": site("up", "final_layer_norm", self._x, wide, activation=activation),
            "down": site("down", "", wide, self._x, add=True),
            "heads": Site([like], [kernels.Norm(norm, like)], self._x, out),
        }
        self.ways = dict.fromkeys(self.sites, kernels.LIBRARY)
        self.span, self.early = kernels.spans(rows)[0], False
        self.measured: dict[str, str] = {}

    def make(self, name: str, number: int, way: Any = None, *, compiling: bool = False) -> None:
        """A layer's product, in the way that was chosen or in another; or only compile it."""
        site = self.sites[name]
        self._kernels.product(
            site.x,
            site.weights[number],
            site.out,
            self.ways[name] if way is None else way,
            norm=site.norms[number],
            activation=site.activation,
            add=site.add,
            early=self.early,
            compiling=compiling,
        )

    def attend(self, number: int, places: Tensor, span: Any = None) -> None:
        """A layer's attention to the sequence."""
        qkv, heard = self.sites["qkv"].out, self.sites["out"].x
        span = self.span if span is None else span
        own = self.layers[number].own
        self._kernels.attend(qkv, own, places, heard, self.size, span, early=self.early)

    def attend_text(self, number: int, texts: Tensor, mask: Tensor) -> None:
        """A layer's attention to the text."""
        kernels, layer = self._kernels, self.layers[number]
        query, heard = self.sites["text_q"].out, self.sites["text_out"].x
        kernels.attend(
            query, layer.text, texts, heard, self.size, kernels.TEXT, mask, early=self.early
        )

    def __call__(self, x: Tensor, places: Tensor, text_mask: Tensor, texts: Tensor) -> Tensor:
        """Logits ``[R, K V]`` in float32; the next step writes over them.

        Args:
            x: ``[S, D]``, the embedded tokens of each slot.
            places: ``[S]``, where they stand.
            text_mask: ``[R, T]`` float32.
            texts: ``[S]``, lengths of the texts.
        """
        torch.cat([x, x], out=self._x)
        for number in range(len(self.layers)):
            self.make("qkv", number)
            self.attend(number, places)
            self.make("out", number)
            self.make("text_q", number)
            self.attend_text(number, texts, text_mask)
            self.make("text_out", number)
            self.make("up", number)
            self.make("down", number)
        self.make("heads", 0)
        return self.sites["heads"].out


def fused(
    layers: Sequence[Layer], norm: Any, logits: Product, rows: int, size: int, activation: str
) -> Fused | None:
    """The step, where this device and these layers are what it is for; else None, and the log says why."""
    like = logits.weight
    if like is None or like.device.type != "cuda" or like.dtype not in _TYPES or rows > _ROWS:
        return None
    try:
        from tunesmith.serve._tuned import tune

        made = Fused(layers, norm, logits, rows, size, activation)
        with torch.inference_mode():
            tune(made)
    except Exception as error:  # Triton and its compilers have errors of all kinds
        _LOG.warning("no kernels of our own, a step takes the library's: %s", error)
        return None
    return made


def _weight(product: Product) -> Tensor:
    assert product.weight is not None
    return product.weight


__all__ = ["Fused", "Site", "fused"]
