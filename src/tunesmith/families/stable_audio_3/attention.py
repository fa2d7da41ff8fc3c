"""Stable Audio 3's attention with two seams: a child named ``joined``, and a mask for self-attention.

Its attention is differential: Attn(Q₁, K₁, V) − Attn(Q₂, K₂, V), so a layer of H heads has 2·H heads of
keys. Without a child or a mask, what is computed is what diffusers' own processors compute, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_stable_audio3 import (
    StableAudio3CrossAttention,
    StableAudio3SelfAttention,
    _apply_rotary_partial,
)
from torch import Tensor, nn

from tunesmith.families._attention import JOINED


class Places(NamedTuple):
    """What self-attention is told beside its input.

    Attributes:
        rope: angles of the positions, ``[L, d']``.
        mask: boolean ``[B, 1, 1, L]``, true where a position is seen; None where all are.
    """

    rope: Tensor
    mask: Tensor | None


class _Processor:
    """What diffusers asks of a processor beside being called."""

    _attention_backend = None
    _parallel_config = None

    def _attend(
        self,
        attn: Any,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        value: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """``[B, L, D]`` from one or two sets of queries and keys and from values, ``[B, ., H, d]``.

        A child ``joined`` is called with both sets as 2·H heads ``[B, 2·H, S, d]``, each with the
        values, after positions were put into the keys.
        """
        parts = len(keys)
        values: Sequence[Tensor] = [value] * parts
        joined = attn._modules.get(JOINED)
        if joined is not None:
            wide = [torch.cat(list(one), 2).transpose(1, 2) for one in (keys, values, queries)]
            key, more, mask = joined(wide[0], wide[1], mask, wide[2])
            keys, values = (one.transpose(1, 2).chunk(parts, dim=2) for one in (key, more))
        made = [
            dispatch_attention_fn(
                *one,
                attn_mask=mask,
                backend=self._attention_backend,
                parallel_config=self._parallel_config,
            )
            for one in zip(queries, keys, values, strict=True)
        ]
        out = made[0] - made[1] if parts == 2 else made[0]
        return attn.to_out(out.flatten(2, 3))


def _heads(attn: Any, states: Tensor, parts: int) -> list[Tensor]:
    """Parts of a fused projection, ``[B, L, H, d]`` each."""
    return [one.unflatten(-1, (attn.heads, attn.dim_heads)) for one in states.chunk(parts, dim=-1)]


class JoinableSelfAttention(_Processor):
    """In the place of diffusers' ``StableAudio3SelfAttnProcessor``."""

    def __call__(self, attn: Any, hidden_states: Tensor, rope: Tensor | Places) -> Tensor:
        """``[B, L, D]`` from ``[B, L, D]``; diffusers' own forward gives plain angles."""
        places = rope if isinstance(rope, Places) else Places(rope, None)
        sets = 2 if attn.use_differential else 1
        made = _heads(attn, attn.to_qkv(hidden_states), 2 * sets + 1)
        queries = [_apply_rotary_partial(attn.q_norm(one), places.rope) for one in made[:sets]]
        keys = [_apply_rotary_partial(attn.k_norm(one), places.rope) for one in made[sets:-1]]
        return self._attend(attn, queries, keys, made[-1], places.mask)


class JoinableCrossAttention(_Processor):
    """In the place of diffusers' ``StableAudio3CrossAttnProcessor``."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, context: Tensor, context_mask: Tensor | None = None
    ) -> Tensor:
        """``[B, L, D]`` from ``[B, L, D]`` and a context ``[B, S, D]``.

        Args:
            attn: the attention module.
            hidden_states: what asks.
            context: what is looked at.
            context_mask: ``[B, S]``, 1 where it is seen, or ``[B, 1, 1, S]`` to be added to the logits.
        """
        if context_mask is not None and context_mask.dim() == 2:
            context_mask = context_mask[:, None, None, :].bool()
        sets = 2 if attn.use_differential else 1
        queries = [attn.q_norm(one) for one in _heads(attn, attn.to_q(hidden_states), sets)]
        *keys, value = _heads(attn, attn.to_kv(context), sets + 1)
        return self._attend(attn, queries, [attn.k_norm(one) for one in keys], value, context_mask)


def make_joinable(transformer: nn.Module) -> None:
    """Let every attention of a transformer call its child ``joined``."""
    kinds: Any = {
        StableAudio3SelfAttention: JoinableSelfAttention,
        StableAudio3CrossAttention: JoinableCrossAttention,
    }
    for module in transformer.modules():
        attn: Any = module
        if type(attn) in kinds:
            attn.set_processor(kinds[type(attn)]())
