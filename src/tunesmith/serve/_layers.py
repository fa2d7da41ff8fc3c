"""The layers of a MusicGen's decoder as a step needs them: their products, norms and caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tunesmith.serve._products import Product


@dataclass(slots=True)
class Layer:
    """A layer.

    Attributes:
        plain: the model's own.
        qkv, out: of attention to the sequence; ``text_q``, ``text_out``: to the text.
        up, down: of the feed-forward part.
        own: ``[R, positions, 2 D]``, keys before values of the sequence.
        text: ``[R, texts, 2 D]``, those of the text.
    """

    plain: Any
    qkv: Product
    out: Product
    text_q: Product
    text_out: Product
    up: Product
    down: Product
    own: Tensor
    text: Tensor

    @property
    def products(self) -> tuple[Product, ...]:
        """All that a step multiplies with."""
        return self.qkv, self.out, self.text_q, self.text_out, self.up, self.down


def layer_of(plain: Any, own: Tensor, text: Tensor, *, int8: bool, native: bool) -> Layer:
    """A layer of the model and its caches."""
    first, second = plain.self_attn, plain.encoder_attn

    def product(*linears: Any) -> Product:
        return Product(linears, int8=int8, native=native)

    return Layer(
        plain,
        qkv=product(first.q_proj, first.k_proj, first.v_proj),
        out=product(first.out_proj),
        text_q=product(second.q_proj),
        text_out=product(second.out_proj),
        up=product(plain.fc1),
        down=product(plain.fc2),
        own=own,
        text=text,
    )


__all__ = ["Layer", "layer_of"]
