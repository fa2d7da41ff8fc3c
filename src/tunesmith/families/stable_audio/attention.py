"""The seam for keys and values in Stable Audio's attention: a child of it named ``joined``.

Without one, what is computed is what diffusers' ``StableAudioAttnProcessor2_0`` computes, bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn
from torch.nn import functional as F

from tunesmith.families._attention import JOINED

Rotary = Any
"""Cosines and sines, ``(Tensor [L, d'], Tensor [L, d'])``; diffusers' own annotation is of one."""


class JoinableAttention:
    """A processor for diffusers' ``Attention`` that asks it for a child ``joined``.

    The child is called after positions were put into the keys, ``keys, values, mask = joined(keys,
    values, mask, queries)``, with keys and values ``[B, H, S, d]`` of the heads that keys have.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """``[B, L, D]`` from hidden states ``[B, L, D]``.

        Args:
            attn: the attention module.
            hidden_states: what asks.
            encoder_hidden_states: ``[B, S, E]`` that is looked at; by default what asks.
            attention_mask: ``[B, 1, 1, S]``, to be added to the logits; None where all is seen.
            rotary_emb: cosines and sines of positions, for queries and, in self-attention, keys.
        """
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen)
        head = query.shape[-1] // attn.heads
        query, key, value = (
            one.unflatten(-1, (-1, head)).transpose(1, 2) for one in (query, key, value)
        )
        if rotary_emb is not None:
            query = _turned(query, rotary_emb)
            if not attn.is_cross_attention:
                key = _turned(key, rotary_emb)
        joined = attn._modules.get(JOINED)
        if joined is not None:
            key, value, attention_mask = joined(key, value, attention_mask, query)
        if repeats := attn.heads // key.shape[1] - 1:
            key, value = (one.repeat_interleave(repeats + 1, dim=1) for one in (key, value))
        made = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        made = made.transpose(1, 2).flatten(2).to(query.dtype)
        return attn.to_out[1](attn.to_out[0](made))


def _turned(states: Tensor, rotary: Rotary) -> Tensor:
    """Queries or keys ``[B, H, L, d]`` with positions in the first part of each head."""
    wide = states.float()
    size = rotary[0].shape[-1]
    turned: Any = apply_rotary_emb(wide[..., :size], rotary, use_real=True, use_real_unbind_dim=-2)
    return torch.cat((turned, wide[..., size:]), dim=-1).to(states.dtype)


def make_joinable(transformer: nn.Module) -> None:
    """Let every attention of a transformer call its child ``joined``.

    Raises:
        ValueError: an attention with a norm, bias or residual that this processor does not know.
    """
    for module in transformer.modules():
        if not hasattr(module, "set_processor"):
            continue
        attn: Any = module
        plain = attn.norm_q is None and attn.norm_k is None and not attn.norm_cross
        if not plain or attn.residual_connection or attn.rescale_output_factor != 1:
            raise ValueError("an attention of another kind than Stable Audio Open's")
        attn.set_processor(JoinableAttention())
