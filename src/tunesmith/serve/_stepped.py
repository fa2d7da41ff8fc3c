"""A step of a MusicGen's decoder on a CPU with our own kernels: whole, or in parts; see :mod:`._native`."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from tunesmith.families._attention import JOINED
from tunesmith.serve._layers import Layer
from tunesmith.serve._native import (
    LANES,
    NativeProduct,
    NormStruct,
    ProductStruct,
    library,
    room_of,
)
from tunesmith.serve._parts import Parts
from tunesmith.serve._products import Product

_LOG = logging.getLogger(__name__)
ROWS = 32
"""The most rows of a step; of more, a library's products are as fast."""
_ACTIVATIONS = {"gelu": 1, "relu": 0}
_PRODUCTS = ("qkv", "out", "text_q", "text_out", "up", "down")
_NORMS = {
    "own_norm": "self_attn_layer_norm",
    "text_norm": "encoder_attn_layer_norm",
    "wide_norm": "final_layer_norm",
}


class _LayerStruct(ctypes.Structure):
    _fields_ = [
        *((name, ProductStruct) for name in _PRODUCTS),
        *((name, NormStruct) for name in _NORMS),
        ("own", c_void_p),
        ("text", c_void_p),
    ]


class _ModelStruct(ctypes.Structure):
    _fields_ = [
        *(
            (name, c_int64)
            for name in (
                "rows", "width", "wide", "heads", "layers", "positions", "texts", "codebooks",
                "codes", "gelu",
            )
        ),
        ("layer", c_void_p),
        ("norm", NormStruct),
        ("logits", ProductStruct),
        *(
            (name, c_void_p)
            for name in (
                "tables", "places", "text_mask", "x", "qkv", "heard", "inner", "query", "scratch",
            )
        ),
        ("room", c_int64),
    ]  # fmt: skip


class Stepped(Parts):
    """The parts of a step and, where no row asks for adapters, the step in one call.

    Rows come out the same to the last bit in both, so that a sound does not depend on its company.

    Args:
        layers: of the decoder, in float32 on a CPU.
        heads: of an attention.
        text_mask: ``[R, T]`` float32.
        norm: before the heads of the codebooks.
        logits: those heads.
        tables: ``[K (V + 1), D]``, embeddings of all codebooks.
        places: ``[positions, D]``, those of the positions.
        codes: V.
        activation: its name in the model's configuration.

    Raises:
        ValueError: these layers are not what the kernels are for, with the reason.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        heads: int,
        text_mask: Tensor,
        norm: Any,
        logits: Product,
        tables: Tensor,
        places: Tensor,
        codes: int,
        activation: str,
    ) -> None:
        kernels = library()
        rows, positions, wide = layers[0].own.shape
        width = wide // 2
        if kernels is None:
            raise ValueError("there are no kernels")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"the activation is {activation}")
        if (width // heads) % LANES:
            raise ValueError(f"heads have size {width // heads}")
        if rows > ROWS:
            raise ValueError(f"{rows} rows")
        self._kernels, self._gelu = kernels, _ACTIVATIONS[activation]
        inner = _native(layers[0].up).outputs
        # What the source has addresses of has to live as long as these.
        self._kept = [
            tables.new_empty(rows, size) for size in (width, wide + width, width, inner, width)
        ]
        self._tables, self._places = tables.contiguous(), places.contiguous()
        self._logits = tables.new_empty(rows, _native(logits).outputs)
        self._rounding = room_of(rows, max(_native(one).inputs for one in layers[0].products))
        self._scratch, self._threads = tables.new_empty(0), 0
        self._structs = (_LayerStruct * len(layers))()
        for struct, layer in zip(self._structs, layers, strict=True):
            for name in _PRODUCTS:
                setattr(struct, name, _native(getattr(layer, name)).struct)
            for name, of in _NORMS.items():
                setattr(struct, name, _norm(getattr(layer.plain, of)))
            struct.own = layer.own.data_ptr()
        books = len(tables) // (codes + 1)
        self._struct = _ModelStruct(
            rows, width, inner, heads, len(layers), positions, 0, books, codes, self._gelu,
            ctypes.addressof(self._structs), _norm(norm), _native(logits).struct,
            self._tables.data_ptr(), self._places.data_ptr(), 0,
            *(one.data_ptr() for one in self._kept), 0, 0,
        )  # fmt: skip
        self._model = ctypes.addressof(self._struct)
        super().__init__(layers, heads, text_mask)

    def text_moved(self, text_mask: Tensor) -> None:
        super().text_moved(text_mask)
        rows, texts = text_mask.shape
        self._struct.texts, self._struct.text_mask = texts, text_mask.data_ptr()
        for struct, layer in zip(self._structs, self.layers, strict=True):
            struct.text = layer.text.data_ptr()
        scores = max(texts, self.positions) + LANES
        self._struct.room = -(-(rows * self.width + max(self._rounding, scores)) // LANES) * LANES
        self._threads = 0

    def _with_threads(self) -> int:
        """As many threads as the library has now, each with room of its own."""
        threads = torch.get_num_threads()
        if threads != self._threads:
            self._scratch = self._tables.new_empty(threads * self._struct.room)
            self._struct.scratch, self._threads = self._scratch.data_ptr(), threads
        return threads

    def __call__(self, tokens: Tensor, places: Tensor, texts: int) -> Tensor:
        """Logits ``[R, K V]``; the next step writes over them.

        Args:
            tokens: ``[S, K]`` int64, the last of each slot.
            places: ``[S]`` int64, where they stand.
            texts: places of the text that attention looks at.
        """
        threads, tokens, places = self._with_threads(), tokens.contiguous(), places.contiguous()
        at = (one.data_ptr() for one in (tokens, places))
        self._kernels.tunesmith_step(self._model, *at, texts, self._logits.data_ptr(), threads)
        return self._logits

    # --- in parts ---

    def begin(self, places: Tensor, seen: int, texts: int) -> None:
        super().begin(places, seen, texts)
        self._at, self._texts = places.contiguous(), texts

    def embed(self, tokens: Tensor) -> Tensor:
        """``[R, D]`` of tokens ``[S, K]`` at the places of this step."""
        tokens = tokens.contiguous()
        self._kernels.tunesmith_embed(self._model, tokens.data_ptr(), self._at.data_ptr())
        return self._kept[0].clone()

    def norm(self, x: Tensor, norm: Any) -> Tensor:
        x, struct = x.contiguous(), _norm(norm)
        y = torch.empty_like(x)
        self._kernels.tunesmith_norm(ctypes.addressof(struct), x.data_ptr(), y.data_ptr(), *x.shape)
        return y

    def activate(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        self._kernels.tunesmith_activate(x.data_ptr(), x.numel(), self._gelu)
        return x

    def attend(self, number: int, qkv: Tensor) -> Tensor:
        qkv, threads = qkv.contiguous(), self._with_threads()
        heard = qkv.new_empty(len(qkv), self.width)
        at = (one.data_ptr() for one in (qkv, self._at, heard))
        self._kernels.tunesmith_attend(self._model, number, *at, threads)
        prefixed = self._prefixed(self.layers[number].plain.self_attn, len(qkv))
        if prefixed is None:
            return heard
        return torch.where(prefixed, super().attend(number, qkv), heard)

    def attend_text(self, number: int, query: Tensor) -> Tensor:
        query, threads = query.contiguous(), self._with_threads()
        heard = torch.empty_like(query)
        self._kernels.tunesmith_attend_text(
            self._model, number, query.data_ptr(), self._texts, heard.data_ptr(), threads
        )
        prefixed = self._prefixed(self.layers[number].plain.encoder_attn, len(query))
        if prefixed is None:
            return heard
        return torch.where(prefixed, super().attend_text(number, query), heard)

    def _prefixed(self, attention: Any, rows: int) -> Tensor | None:
        """``[R, 1]``: which rows see a prefix here; None if none does."""
        prefix = attention._modules.get(JOINED)
        return None if prefix is None else prefix.asking(rows)


def stepped(layers: Sequence[Layer], *args: Any) -> Stepped | None:
    """The step, where this device and these layers are what it is for; else None, and the log says why."""
    if layers[0].own.device.type != "cpu" or library() is None:
        return None
    try:
        return Stepped(layers, *args)
    except ValueError as error:
        _LOG.info("no kernels of our own, a step takes the library's: %s", error)
        return None


def _native(product: Product) -> NativeProduct:
    if product.native is None:
        raise ValueError("linears are quantised, of another shape or type, or have biases")
    return product.native


def _norm(norm: Any) -> NormStruct:
    return NormStruct(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)


__all__ = ["ROWS", "Stepped", "stepped"]
