"""The seam for keys and values in ACE-Step's attention: a child of it named ``joined``.

Without one, what is computed is what diffusers' ``AceStepAttnProcessor2_0`` computes, bit for bit.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.ace_step_transformer import AceStepAttention
from torch import Tensor, nn

from tunesmith.families._attention import JOINED

Rotary = Any
"""Cosines and sines, ``(Tensor [L, d], Tensor [L, d])``; diffusers' own annotation is of one."""


class JoinableAttention:
    """A processor for diffusers' ``AceStepAttention`` that asks it for a child ``joined``.

    The child is called after norms and positions were put into the keys, ``keys, values, mask =
    joined(keys, values, mask, queries)``, with keys and values ``[B, H_kv, S, d]`` of the heads that
    keys have, which are fewer than those of queries.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """``[B, L, D]`` from ``[B, L, D]``.

        Args:
            attn: the attention module.
            hidden_states: what asks.
            encoder_hidden_states: ``[B, S, D]`` that is looked at, in cross-attention.
            attention_mask: ``[B, 1, 1 or L, S]``, boolean (true where seen) or to be added to the
                logits; None where all is seen.
            image_rotary_emb: cosines and sines of positions, in self-attention.
        """
        cross = attn.is_cross_attention and encoder_hidden_states is not None
        seen = encoder_hidden_states if cross else hidden_states
        query = attn.norm_q(attn.to_q(hidden_states).unflatten(-1, (attn.heads, attn.head_dim)))
        key = attn.norm_k(attn.to_k(seen).unflatten(-1, (attn.kv_heads, attn.head_dim)))
        value = attn.to_v(seen).unflatten(-1, (attn.kv_heads, attn.head_dim))
        if not cross and image_rotary_emb is not None:
            query, key = (_turned(one, image_rotary_emb) for one in (query, key))
        joined = attn._modules.get(JOINED)
        if joined is not None:
            asked = (one.transpose(1, 2) for one in (key, value))
            key, value, attention_mask = joined(*asked, attention_mask, query.transpose(1, 2))
            key, value = key.transpose(1, 2), value.transpose(1, 2)
        grouped = attn.heads != attn.kv_heads
        if grouped and attention_mask is not None and query.is_cuda:
            # Of CUDA's kernels one takes masks and another takes groups; where both are wanted, all
            # logits would be held at once.
            key, value = (
                one.repeat_interleave(attn.heads // attn.kv_heads, dim=2) for one in (key, value)
            )
            grouped = False
        made = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=attn.dropout if attn.training else 0.0,
            scale=attn.scaling,
            enable_gqa=grouped,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return attn.to_out[1](attn.to_out[0](made.flatten(2, 3).to(query.dtype)))


def _turned(states: Tensor, rotary: Rotary) -> Any:
    """Queries or keys ``[B, L, H, d]`` with positions in them."""
    return apply_rotary_emb(states, rotary, use_real=True, use_real_unbind_dim=-2, sequence_dim=1)


def make_joinable(transformer: nn.Module) -> None:
    """Let every attention of a transformer call its child ``joined``."""
    for module in transformer.modules():
        if isinstance(module, AceStepAttention):
            module.set_processor(JoinableAttention())  # type: ignore[arg-type]
