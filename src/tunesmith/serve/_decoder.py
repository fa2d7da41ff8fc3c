"""A step of a MusicGen's decoder over caches that lie ready, for a fixed number of rows.

``transformers`` asks layer by layer what its cache, its masks and its attention are; for one token that
costs more than the token. Here all that is settled beforehand: queries, keys and values are one product,
so are all heads; keys and values of the text are computed once; a step appends to the caches in place.
The weights are the model's own, and so are adapters that a mixer has put on them.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor
from torch.nn import functional as F

from tunesmith.families.musicgen.loss import MusicgenLoss
from tunesmith.serve._fused import fused
from tunesmith.serve._layers import layer_of
from tunesmith.serve._parts import Parts
from tunesmith.serve._products import Product, joined
from tunesmith.serve._stepped import ROWS, stepped

BUCKET = 64
"""Attention looks at so many places at a time: shapes change every so many steps, not at each."""
_TEXT = 16  # the same of texts
_FIRST_GRAPH = (
    128  # places that the first of a GPU's graphs looks at; the next ones at twice as many
)


class Decoder:
    """Rows ``0..S-1`` are the slots with their text, rows ``S..2S-1`` the same without it (guidance).

    Args:
        module: the loss module; in evaluation mode while steps are made.
        slots: S.
        positions: the most that a sequence has.
        int8: weights of the linears in 8 bits, on a CPU.

    Attributes:
        codebooks, codes: K and V.
        device: where it lives; ``dtype``, of its numbers.
    """

    def __init__(
        self, module: MusicgenLoss, slots: int, positions: int, *, int8: bool = False
    ) -> None:
        self._module = module
        decoder = module.model.decoder
        config = decoder.config
        inner = decoder.model.decoder
        self.slots, self.positions = slots, positions
        self.codebooks, self.codes = len(decoder.lm_heads), int(config.vocab_size)
        self._width, self._heads = int(config.hidden_size), int(config.num_attention_heads)
        rows, size = 2 * slots, self._width // self._heads
        tables = joined([one.weight for one in inner.embed_tokens])
        device, self.dtype = tables.device, tables.dtype
        self.device = device
        self._tables = tables
        self._offsets = torch.arange(self.codebooks, device=device) * (self.codes + 1)
        self._places = inner.embed_positions.get_embedding(positions, self._width).to(tables)
        self._norm = inner.layer_norm
        native = device.type == "cpu" and rows <= ROWS
        self._logits = Product(list(decoder.lm_heads), int8=int8, native=native)
        # A longer text moves the cache, and graphs that read it are captured anew: on a GPU, more at once.
        self._texts = 4 * _TEXT if device.type == "cuda" else _TEXT
        self._lengths = [0] * slots
        self._heard = torch.ones(slots, dtype=torch.long, device=device)  # the same, at least 1
        self._text_mask = torch.full((rows, self._texts), -torch.inf, device=device)
        layers, self._wide = list(inner.layers), 2 * self._width
        own = torch.zeros(len(layers), rows, positions, self._wide, device=device, dtype=self.dtype)
        self._own, self._text = own, own.new_zeros(len(layers), rows, self._texts, self._wide)
        self._layers = [
            layer_of(plain, own, text, int8=int8, native=native)
            for plain, own, text in zip(layers, self._own, self._text, strict=True)
        ]
        self._text_products = Product(
            [
                one
                for plain in layers
                for one in (plain.encoder_attn.k_proj, plain.encoder_attn.v_proj)
            ]
        )
        activation = config.activation_function
        self._fused = fused(self._layers, self._norm, self._logits, rows, size, activation)
        self._stepped = stepped(
            self._layers, self._heads, self._text_mask, self._norm, self._logits, tables,
            self._places, self.codes, activation,
        )  # fmt: skip
        self._parts = self._stepped or Parts(self._layers, self._heads, self._text_mask)
        for slot in range(slots):
            self.clear(slot)

    # --- slots ---

    @torch.inference_mode()
    def begin(self, slots: int | list[int], states: Tensor, mask: Tensor) -> None:
        """Give n slots their texts. A mixer is in use with the slots' rows alone.

        Args:
            slots: which; one, or several whose texts are padded to one length.
            states: ``[2 n, L, D]``, projected: those with the text, then those without.
            mask: ``[2 n, L]``, 1 where a state is seen.
        """
        slots = [slots] if isinstance(slots, int) else slots
        states, mask = self._module.joined_text(states, mask)
        length = states.shape[1]
        self._make_room(length)
        lowest = torch.finfo(self.dtype).min
        if mask.dim() == 2:
            # Not −∞: a row that sees nothing still has to have a sum. What it sees is zero.
            mask = torch.where(mask.bool(), 0.0, lowest)[:, None, None]
        rows = torch.tensor([*slots, *(self.slots + slot for slot in slots)], device=self.device)
        self._text_mask[rows] = -torch.inf
        self._text_mask[rows, :length] = mask[:, 0, 0].clamp(min=lowest).to(self._text_mask)
        made = self._text_products(states).view(len(rows), length, len(self._layers), self._wide)
        self._text[:, rows, length:] = 0
        self._text[:, rows, :length] = made.permute(2, 0, 1, 3)
        for slot in slots:
            self._lengths[slot] = length
        self._heard[rows[: len(slots)]] = length

    def end(self, slot: int) -> None:
        """The slot is free."""
        self._lengths[slot] = 0

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Leave nothing of what was in a slot, such as numbers that are none."""
        rows = self._rows(slot)
        self._own[:, rows] = 0
        self._text[:, rows] = 0
        self._text_mask[rows] = -torch.inf
        self._text_mask[rows, 0] = 0
        self._lengths[slot] = 0
        self._heard[slot] = 1

    def _rows(self, slot: int) -> list[int]:
        return [slot, self.slots + slot]

    def _make_room(self, length: int) -> None:
        """Let texts be so long."""
        if length <= self._texts:
            return
        more = 1 << (length - 1).bit_length()
        self._text_mask = F.pad(self._text_mask, (0, more - self._texts), value=-torch.inf)
        self._text = F.pad(self._text, (0, 0, 0, more - self._texts))
        for layer, text in zip(self._layers, self._text, strict=True):
            layer.text = text
        self._texts = more
        self._parts.text_moved(self._text_mask)

    # --- steps ---

    def shapes(self, furthest: int) -> Hashable | None:
        """What decides which kernels a step launches on which tensors; None if this does not.

        Args:
            furthest: the largest place.
        """
        seen, texts = self._seen(furthest)
        if self._layers[0].qkv.plain:
            return (0, self._texts) if self._fused is not None else (seen, texts, self._texts)
        adapters = [one.shapes for layer in self._layers for one in layer.products]
        return None if None in adapters else (seen, texts, self._texts, tuple(adapters))

    def _seen(self, furthest: int) -> tuple[int, int]:
        """Places and texts that attention looks at."""
        seen = _rounded(furthest + 1, BUCKET)
        if self.device.type == "cuda":  # each is a graph more
            seen = max(_FIRST_GRAPH, 1 << furthest.bit_length())
        texts = _rounded(max(1, *self._lengths), _TEXT)
        return min(self.positions, seen), min(self._texts, texts)

    @torch.inference_mode()
    def step(self, tokens: Tensor, places: Tensor, furthest: int) -> Tensor:
        """Logits ``[2S, K, V]`` in float32 of what follows; the next step may write over them.

        Args:
            tokens: ``[S, K]``, the last of each slot.
            places: ``[S]``, where they stand: the slot's position.
            furthest: the largest of these, or more.
        """
        plain = self._layers[0].qkv.plain
        seen, texts = self._seen(furthest)
        if plain and self._stepped is not None:
            logits = self._stepped(tokens, places, texts)
        elif plain and self._fused is not None:
            logits = self._fused(self._embed(tokens, places), places, self._text_mask, self._heard)
        else:
            logits = self._run(tokens, places, seen, texts)
        return logits.view(2 * self.slots, self.codebooks, -1)

    def _embed(self, tokens: Tensor, places: Tensor) -> Tensor:
        """``[S, D]``."""
        return F.embedding(tokens + self._offsets, self._tables).sum(1) + self._places[places]

    def _run(self, tokens: Tensor, places: Tensor, seen: int, texts: int) -> Tensor:
        """Logits ``[R, K V]``, product by product, so that adapters can add to each."""
        parts = self._parts
        parts.begin(places, seen, texts)
        if self._stepped is not None:
            x = self._stepped.embed(tokens)
        else:
            x = self._embed(tokens, places)
            x = torch.cat([x, x])
        for number, layer in enumerate(self._layers):
            plain = layer.plain
            qkv = layer.qkv(parts.norm(x, plain.self_attn_layer_norm))
            x = x + layer.out(parts.attend(number, qkv))
            query = layer.text_q(parts.norm(x, plain.encoder_attn_layer_norm))
            x = x + layer.text_out(parts.attend_text(number, query))
            wide = parts.activate(layer.up(parts.norm(x, plain.final_layer_norm)))
            x = x + layer.down(wide)
        return self._logits(parts.norm(x, self._norm)).float()


def _rounded(length: int, unit: int) -> int:
    return -(-length // unit) * unit


__all__ = ["BUCKET", "Decoder"]
