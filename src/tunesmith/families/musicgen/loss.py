"""MusicGen's training loss: cross-entropy of each codebook under the delay pattern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from tunesmith.families._bundle import LossModule
from tunesmith.families.musicgen.delay import apply_delay, delays
from tunesmith.objectives.cross_entropy import IGNORE, codebook_cross_entropy
from tunesmith.types import Batch, Loss


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
        return self.model.decoder.model(
            input_ids=tokens.flatten(0, 1),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state

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
