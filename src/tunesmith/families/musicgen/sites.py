"""Where methods can take hold of a MusicGen."""

from __future__ import annotations

from typing import Any

from tunesmith.types import Role, Site

TEXT_TABLE = "encoder.embed_tokens"
"""The module that T5's forward calls; ``shared`` has the same weights, and nobody asks it anything."""


def sites_of(model: Any) -> tuple[Site, ...]:
    """The seams of a ``MusicgenForConditionalGeneration``."""
    width = int(model.decoder.config.hidden_size)
    heads = int(model.decoder.config.num_attention_heads)
    found: list[Site] = []
    attentions: tuple[tuple[Role, str], ...] = (
        ("self_attention", "self_attn"),
        ("cross_attention", "encoder_attn"),
    )
    for layer in range(int(model.decoder.config.num_hidden_layers)):
        root = f"model.decoder.layers.{layer}"
        for role, name in attentions:
            place = f"{root}.{name}"
            inputs = {short: f"{place}.{short}_proj" for short in "qkv"}
            output = f"{place}.out_proj"
            found.append(Site(role, layer, "decoder", inputs, output, width, place, heads))
        found.append(
            Site("feed_forward", layer, "decoder", {"up": f"{root}.fc1"}, f"{root}.fc2", width)
        )
    text_width = int(model.text_encoder.config.d_model)
    found.append(Site("text_embedding", -1, "text_encoder", {"table": TEXT_TABLE}, "", text_width))
    if hasattr(model, "enc_to_dec_proj"):
        found.append(Site("conditioner", -1, "conditioner", {}, "", width))
    return tuple(found)
