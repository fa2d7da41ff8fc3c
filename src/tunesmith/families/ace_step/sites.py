"""Where methods can take hold of an ACE-Step."""

from __future__ import annotations

from typing import Any

from tunesmith.types import Role, Site

TEXT_TABLE = "embed_tokens"
"""The module that the text encoder looks ids up in; lyrics are read by it alone."""


def sites_of(transformer: Any, conditioner: Any, text: Any) -> tuple[Site, ...]:
    """Every seam.

    Args:
        transformer: ``AceStepTransformer1DModel``.
        conditioner: ``AceStepConditionEncoder``.
        text: ``Qwen3Model``.
    """
    config = transformer.config
    width, heads = int(config.hidden_size), int(config.num_key_value_heads)
    attentions: tuple[tuple[Role, str], ...] = (
        ("self_attention", "self_attn"),
        ("cross_attention", "cross_attn"),
    )
    found: list[Site] = []
    for layer in range(int(config.num_hidden_layers)):
        root = f"layers.{layer}"
        for role, name in attentions:
            place = f"{root}.{name}"
            inputs = {short: f"{place}.to_{short}" for short in "qkv"}
            output = f"{place}.to_out.0"
            found.append(Site(role, layer, "transformer", inputs, output, width, place, heads))
        inputs = {"up": f"{root}.mlp.up_proj", "gate": f"{root}.mlp.gate_proj"}
        output = f"{root}.mlp.down_proj"
        found.append(Site("feed_forward", layer, "transformer", inputs, output, width))
    text_width, told = int(text.config.hidden_size), int(conditioner.config.hidden_size)
    found.append(Site("text_embedding", -1, "text_encoder", {"table": TEXT_TABLE}, "", text_width))
    found.append(Site("conditioner", -1, "conditioner", {}, "", told))
    return tuple(found)
