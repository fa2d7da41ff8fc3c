"""The seam for keys and values in models of ``transformers``: a child of the attention named ``joined``.

The library lets anyone register an attention function. Ours asks the attention module for a child
``joined``, lets it add keys and values after the cache, and calls the function that the model had
before. Nothing goes through ``past_key_values``: what stands there shifts the positions of models
that count them from the cache's length, as MusicGen does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

JOINED = "joined"
_NAME = "tunesmith_"
_KNOWN = ("sdpa", "eager")


def make_joinable(model: nn.Module) -> None:
    """Let every attention of a model call its child ``joined``; without one, all is as before.

    The name of the attention function lives in the model's configuration in memory only:
    ``save_pretrained`` does not write it.

    Args:
        model: a model of ``transformers``; its own and its parts' configurations are changed.

    Raises:
        ValueError: the model's attention is neither ``sdpa`` nor ``eager``, so that its masks are not
            what a child could extend.
    """
    configs: list[Any] = [m.config for m in model.modules() if hasattr(m, "config")]
    for config in configs:
        before = str(config._attn_implementation)
        if before.startswith(_NAME):
            continue
        if before not in _KNOWN:
            raise ValueError(f"no keys can be joined in attention '{before}'; known: {_KNOWN}")
        config._attn_implementation = _NAME + before


def causal_mask(queries: int, keys: int, device: Any = None) -> Tensor:
    """Which keys each query sees, true where it does: ``[1, 1, L, S]``.

    The queries are the last L of S positions, as they are behind a cache.
    """
    places = torch.arange(keys, device=device)
    return (places <= places[keys - queries :, None])[None, None]


def _joining(name: str) -> Callable[..., Any]:
    """The library's attention function of this name, with the seam before it."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        **options: Any,
    ) -> Any:
        inner = _original(name, module)
        joined = module._modules.get(JOINED)
        if joined is not None:
            mask = attention_mask
            if mask is None and query.shape[2] > 1 and _is_causal(module, options):
                # The library leaves a plain causal mask to a flag, which would not let the joined
                # keys be seen by every query.
                mask = causal_mask(query.shape[2], key.shape[2], query.device)
            keys, values, mask = joined(key, value, mask, query)
            if keys is not key:  # else nothing was joined, and the flag does as before
                key, value, attention_mask = keys, values, mask
        return inner(module, query, key, value, attention_mask, *args, **options)

    return attend


def _is_causal(module: nn.Module, options: dict[str, Any]) -> bool:
    said = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if said is None else said)


def _original(name: str, module: nn.Module) -> Callable[..., Any]:
    if name == "eager":  # each model's own, beside its attention
        return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
    return ALL_ATTENTION_FUNCTIONS[name]


for _name in _KNOWN:
    AttentionInterface.register(_NAME + _name, _joining(_name))
    AttentionMaskInterface.register(_NAME + _name, ALL_MASK_ATTENTION_FUNCTIONS[_name])
