"""What a decoding step is made of beside its products, with the library's kernels: norms and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tunesmith.families._attention import JOINED
from tunesmith.serve._layers import Layer


class Parts:
    """Norms, attention and activation of a step.

    Args:
        layers: of the decoder.
        heads: of an attention.
        text_mask: ``[R, T]`` float32, added to the scores of the text.
    """

    def __init__(self, layers: Sequence[Layer], heads: int, text_mask: Tensor) -> None:
        self.layers, self.heads = layers, heads
        rows, self.positions, wide = layers[0].own.shape
        self.width = wide // 2
        self.size = self.width // heads
        device = layers[0].own.device
        self._begins = torch.arange(rows, device=device) * self.positions
        self._span = torch.arange(self.positions, device=device)
        self.text_moved(text_mask)

    def text_moved(self, text_mask: Tensor) -> None:
        """Texts have other caches now, or another mask."""
        self._views: dict[tuple[int, int], list[tuple[Tensor, ...]]] = {}
        self._text_mask = text_mask

    def begin(self, places: Tensor, seen: int, texts: int) -> None:
        """A step begins.

        Args:
            places: ``[S]`` of the slots.
            seen: places that attention looks at.
            texts: the same of the texts.
        """
        key = seen, texts
        if key not in self._views:
            self._views[key] = [self._view(layer, seen, texts) for layer in self.layers]
        self._now = self._views[key]
        both = torch.cat([places, places])
        self._where = self._begins + both
        dtype = self.layers[0].own.dtype
        mask = torch.zeros((len(both), seen), dtype=dtype, device=both.device)
        mask.masked_fill_(self._span[:seen] > both[:, None], -torch.inf)
        self._mask = mask[:, None, None]
        self._unseen = self._text_mask[:, None, None, :texts].to(dtype)

    def norm(self, x: Tensor, norm: Any) -> Tensor:
        """``[R, D]``, normalised."""
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def activate(self, x: Tensor) -> Tensor:
        """``[R, wide]``, behind the activation; may be written over."""
        return self.layers[0].plain.activation_fn(x)

    def attend(self, number: int, qkv: Tensor) -> Tensor:
        """What a layer hears in the sequence ``[R, D]``, of which ``qkv`` ``[R, 3 D]`` becomes a part."""
        layer, width = self.layers[number], self.width
        layer.own.view(-1, 2 * width).index_copy_(0, self._where, qkv[:, width:])
        keys, values = self._now[number][:2]
        return self._heard(qkv[:, :width], keys, values, self._mask, layer.plain.self_attn)

    def attend_text(self, number: int, query: Tensor) -> Tensor:
        """What a layer hears in the text, ``[R, D]`` for as much."""
        keys, values = self._now[number][2:]
        attention = self.layers[number].plain.encoder_attn
        return self._heard(query, keys, values, self._unseen, attention)

    def _heard(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, attention: Any
    ) -> Tensor:
        query = query.view(-1, self.heads, 1, self.size)
        prefix = attention._modules.get(JOINED)
        if prefix is not None:
            keys, values, mask = prefix(keys, values, mask, query)
        heard = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return heard.reshape(-1, self.width)

    def _view(self, layer: Layer, seen: int, texts: int) -> tuple[Tensor, ...]:
        """Keys and values ``[R, H, L, d]`` of the sequence, then of the text."""
        shape = (2, self.heads, self.size)
        own, text = layer.own[:, :seen].unflatten(2, shape), layer.text[:, :texts]
        parts = (own, text.unflatten(2, shape))
        return tuple(one[:, :, part].transpose(1, 2) for one in parts for part in (0, 1))


__all__ = ["Parts"]
