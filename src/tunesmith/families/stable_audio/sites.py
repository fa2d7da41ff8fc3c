"""Where methods can take hold of a Stable Audio."""

from __future__ import annotations

from typing import Any

from tunesmith.types import Role, Site

TEXT_TABLE = "encoder.embed_tokens"
"""The module that T5's forward calls; ``shared`` has the same weights, and nobody asks it anything."""


def sites_of(transformer: Any, text: Any) -> tuple[Site, ...]:
    """The seams of a ``StableAudioDiTModel`` and its ``T5EncoderModel``."""
    config = transformer.config
    heads = {
        "attn1": int(config.num_attention_heads),
        "attn2": int(config.num_key_value_attention_heads),
    }
    width = heads["attn1"] * int(config.attention_head_dim)
    attentions: tuple[tuple[Role, str], ...] = (
        ("self_attention", "attn1"),
        ("cross_attention", "attn2"),
    )
    found: list[Site] = []
    for layer in range(int(config.num_layers)):
        root = f"transformer_blocks.{layer}"
        for role, name in attentions:
            place = f"{root}.{name}"
            inputs = {short: f"{place}.to_{short}" for short in "qkv"}
            output = f"{place}.to_out.0"
            leading = 1 if role == "self_attention" else 0  # the time t, begin and end of the sound
            found.append(
                Site(
                    role, layer, "transformer", inputs, output, width, place, heads[name],
                    leading=leading,
                )
            )  # fmt: skip
        inputs, output = {"up": f"{root}.ff.net.0.proj"}, f"{root}.ff.net.2"
        found.append(Site("feed_forward", layer, "transformer", inputs, output, width))
    text_width = int(text.config.d_model)
    found.append(Site("text_embedding", -1, "text_encoder", {"table": TEXT_TABLE}, "", text_width))
    found.append(Site("conditioner", -1, "conditioner", {}, "", width))
    return tuple(found)
