"""A step of a MusicGen's decoder on a GPU in few kernels of its own; see :mod:`tunesmith.serve._kernels`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunesmith.serve._layers import Layer
from tunesmith.serve._products import Product

_LOG = logging.getLogger(__name__)
_ROWS = 64
"""The most rows of a step; of more, a library's products are as fast."""
_TYPES = (torch.bfloat16, torch.float16)


class Fused:
    """A step of layers whose rows ask for no adapters, from embedded tokens to logits.

    Args:
        layers: of the decoder.
        norm: before the heads.
        logits: the heads.
        rows: R of a step.
        size: of an attention's head.
        activation: its name in the model's configuration.

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
        self._size, self._activation = size, activation
        self._layers, self._logits = layers, _weight(logits)
        self._norms = [
            tuple(
                kernels.Norm(one, _weight(product))
                for one, product in (
                    (layer.plain.self_attn_layer_norm, layer.qkv),
                    (layer.plain.encoder_attn_layer_norm, layer.text_q),
                    (layer.plain.final_layer_norm, layer.up),
                )
            )
            for layer in layers
        ]
        self._last = kernels.Norm(norm, self._logits)
        width, like = self._logits.shape[1], self._logits
        self._x, self._query, self._heard = (like.new_empty(rows, width) for _ in range(3))
        self._qkv = like.new_empty(rows, 3 * width)
        self._wide = like.new_empty(rows, len(_weight(layers[0].up)))
        self._out = like.new_empty(rows, len(like), dtype=torch.float32)

    def __call__(self, x: Tensor, places: Tensor, text_mask: Tensor, texts: Tensor) -> Tensor:
        """Logits ``[R, K V]`` in float32; the next step writes over them.

        Args:
            x: ``[S, D]``, the embedded tokens of each slot.
            places: ``[S]``, where they stand.
            text_mask: ``[R, T]`` float32.
            texts: ``[S]``, lengths of the texts.
        """
        product, attend = self._kernels.product, self._kernels.attend
        torch.cat([x, x], out=self._x)
        for layer, (first, second, third) in zip(self._layers, self._norms, strict=True):
            product(self._x, _weight(layer.qkv), self._qkv, norm=first)
            attend(self._qkv, layer.own, places, self._heard, self._size)
            product(self._heard, _weight(layer.out), self._x, add=True)
            product(self._x, _weight(layer.text_q), self._query, norm=second)
            attend(self._query, layer.text, texts, self._heard, self._size, text_mask)
            product(self._heard, _weight(layer.text_out), self._x, add=True)
            up, activation = _weight(layer.up), self._activation
            product(self._x, up, self._wide, norm=third, activation=activation)
            product(self._wide, _weight(layer.down), self._x, add=True)
        product(self._x, self._logits, self._out, norm=self._last)
        return self._out


def fused(
    layers: Sequence[Layer], norm: Any, logits: Product, rows: int, size: int, activation: str
) -> Fused | None:
    """The step, where this device and these layers are what it is for; else None, and the log says why."""
    like = logits.weight
    if like is None or like.device.type != "cuda" or like.dtype not in _TYPES or rows > _ROWS:
        return None
    try:
        made = Fused(layers, norm, logits, rows, size, activation)
        # Compiles, so that it fails here if it does. What it leaves in the caches nobody hears.
        nowhere = torch.zeros(rows // 2, dtype=torch.long, device=like.device)
        mask = torch.zeros(rows, layers[0].text.shape[1], device=like.device)
        with torch.inference_mode():
            made(like.new_zeros(rows // 2, like.shape[1]), nowhere, mask, nowhere + 1)
        torch.cuda.synchronize(like.device)
    except Exception as error:  # Triton and its compilers have errors of all kinds
        _LOG.warning("no kernels of our own, a step takes the library's: %s", error)
        return None
    return made


def _weight(product: Product) -> Tensor:
    assert product.weight is not None
    return product.weight


__all__ = ["Fused", "fused"]
