"""MusicGen's training loss: cross-entropy of each codebook under the delay pattern."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MusicgenForConditionalGeneration

from tunesmith.families._attention import JOINED
from tunesmith.families._bundle import LossModule
from tunesmith.families.musicgen.delay import apply_delay, delays
from tunesmith.objectives.cross_entropy import IGNORE, codebook_cross_entropy
from tunesmith.types import Batch, Loss

_FRAMES, _WORDS = 64, 16
"""Multiples of the lengths that :meth:`MusicgenLoss.static` gives codes and text."""


class MusicgenLoss(LossModule):
    """Decoder, projection and text encoder of a MusicGen; calling it gives the loss.

    The terms ``codebook_0`` ... are sums of nats over the codes of each example, and how many codes
    those are. ``MusicgenForConditionalGeneration`` itself does not delay its labels, so its own
    ``labels=`` argument would train another model than the one that generates.
    """

    def __init__(self, model: MusicgenForConditionalGeneration) -> None:
        super().__init__()
        self.model: Any = model  # its parts are modules to a type checker, and no more
        decoder = self.model.decoder.config
        self.shifts = delays(decoder.num_codebooks, decoder.audio_channels)
        self.pad = int(decoder.pad_token_id)
        self.register_module("joined_states", None)

    def text_states(
        self, text: Mapping[str, Tensor], *, fresh: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Projected text states ``[B, S, D]`` and their mask ``[B, S]``.

        Cached states are used only while nothing upstream of them trains; otherwise the encoder
        runs, so that its gradient is real. ``fresh`` says that they were encoded just now.
        """
        mask = text["mask"]
        encoder = self.model.text_encoder
        if not fresh and any(parameter.requires_grad for parameter in encoder.parameters()):
            live = encoder(input_ids=text["ids"], attention_mask=text["present"])
            states = live.last_hidden_state
        else:
            states = text["states"]
        if hasattr(self.model, "enc_to_dec_proj"):
            projection = self.model.enc_to_dec_proj
            states = projection(states.to(next(projection.parameters()).dtype))
        # As in generation: an unconditional row is zero after the projection and masked as well.
        return states * mask[..., None].to(states.dtype), mask

    def joined_text(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What cross-attention reads: text states and mask, after the child ``joined_states``."""
        return (states, mask) if self.joined_states is None else self.joined_states(states, mask)

    def hidden(self, tokens: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Last hidden states ``[B, L, D]`` for tokens ``[B, K, L]``, all positions at once."""
        states, mask = self.joined_text(*self.text_states(text))
        decoder = self.model.decoder.model.decoder
        joined = any(JOINED in layer.encoder_attn._modules for layer in decoder.layers)
        sdpa = str(decoder.config._attn_implementation).endswith("sdpa")
        if joined or self.joined_states is not None or not sdpa:
            return self.model.decoder.model(
                input_ids=tokens.flatten(0, 1),
                encoder_hidden_states=states,
                encoder_attention_mask=mask,
                use_cache=False,
            ).last_hidden_state
        return self._one_pass(decoder, tokens, states, mask.bool())

    @staticmethod
    def _one_pass(decoder: Any, tokens: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        """The library's ``MusicgenDecoder.forward`` without a cache, and without asking a device anything.

        Self-attention gets no mask but the causal flag (padding stands at the end, where only padding
        looks), and cross-attention one ``[B, 1, 1, S]`` for all queries. The text of an unconditional
        row is zero, and so are its keys and values (these linears have no bias): whatever its queries
        see, they read zero, and no gradient flows. So it may see all; a row that sees nothing has no
        softmax.
        """
        seen = (seen | ~seen.any(dim=-1, keepdim=True))[:, None, None]
        embedded = sum(table(tokens[:, k]) for k, table in enumerate(decoder.embed_tokens))
        # Read from the table: releases before 5.23 make the positions on the processor and send them.
        places, length = decoder.embed_positions, tokens.shape[-1]
        if length > len(places.weights):
            places.make_weights(length, places.embedding_dim)
        hidden = embedded + places.weights[:length]
        hidden = F.dropout(hidden, p=decoder.dropout, training=decoder.training)
        for layer in decoder.layers:
            # Drawn whether or not it is used, as the library does.
            if random.uniform(0, 1) < decoder.layerdrop and decoder.training:
                continue
            hidden = layer(hidden, None, states, encoder_attention_mask=seen, use_cache=False)
        return decoder.layer_norm(hidden)

    def norms(self) -> Sequence[nn.Module]:
        names = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
        layers = self.model.decoder.model.decoder.layers
        return [getattr(layer, name) for layer in layers for name in names]

    def static(self, batch: Batch) -> Batch | None:
        decoder = self.model.decoder.model.decoder
        if decoder.layerdrop or decoder.gradient_checkpointing:
            return None  # other layers each time; random states that are read back
        more = -batch.codes.shape[-1] % _FRAMES
        words = -batch.text["ids"].shape[1] % _WORDS
        text = {
            name: F.pad(value, (0, 0) * (value.ndim - 2) + (0, words))
            for name, value in batch.text.items()
        }
        return replace(batch, codes=F.pad(batch.codes, (0, more)), text=text)

    def heads(self) -> Tensor:
        """The heads' weights ``[K, V, D]``."""
        return torch.stack([head.weight for head in self.model.decoder.lm_heads])

    def forward(self, batch: Batch) -> Loss:
        tokens, mask = apply_delay(batch.codes, batch.frames, self.shifts, self.pad)
        hidden = self.hidden(tokens[..., :-1], batch.text)
        labels = tokens[..., 1:].masked_fill(~mask[..., 1:], IGNORE).transpose(1, 2)  # [B, L, K]
        losses = codebook_cross_entropy(hidden.flatten(0, 1), self.heads(), labels.flatten(0, 1))
        sums = losses.view(labels.shape).sum(dim=1)
        counts = self.count(batch)
        return {name: (sums[:, k], counts[name]) for k, name in enumerate(counts)}

    def count(self, batch: Batch) -> Mapping[str, Tensor]:
        return {f"codebook_{k}": batch.frames.float() for k in range(len(self.shifts))}
