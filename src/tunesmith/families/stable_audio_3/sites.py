"""The seams of a Stable Audio 3. Its projections are fused: one linear makes queries, keys and values."""

from __future__ import annotations

from typing import Any

from tunesmith.types import Role, Site

TEXT_TABLE = "encoder.embed_tokens"
"""The module that the text encoder looks ids up in."""


def sites_of(transformer: Any, text: Any) -> tuple[Site, ...]:
    """Every seam.

    Args:
        transformer: ``StableAudio3DiTModel``.
        text: ``T5GemmaEncoderModel``.
    """
    config = transformer.config
    width, heads = int(config.embed_dim), int(config.num_heads)
    # Differential attention has two sets of keys, side by side as so many heads.
    sets = 2 if config.use_differential_attention else 1
    fused: tuple[tuple[Role, str, dict[str, str]], ...] = (
        ("self_attention", "self_attn", dict.fromkeys("qkv", "to_qkv")),
        ("cross_attention", "cross_attn", {"q": "to_q", "k": "to_kv", "v": "to_kv"}),
    )
    found: list[Site] = []
    for layer in range(int(config.depth)):
        root = f"transformer_blocks.{layer}"
        for role, name, linears in fused:
            place = f"{root}.{name}"
            found.append(
                Site(
                    role,
                    layer,
                    "transformer",
                    {short: f"{place}.{path}" for short, path in linears.items()},
                    f"{place}.to_out",
                    width,
                    place,
                    sets * heads,
                    width // heads,
                    leading=int(config.num_memory_tokens) if role == "self_attention" else 0,
                )
            )
        inputs, output = {"up": f"{root}.ff.proj_in"}, f"{root}.ff.proj_out"
        found.append(Site("feed_forward", layer, "transformer", inputs, output, width))
    text_width = int(text.config.encoder.hidden_size)
    found.append(Site("text_embedding", -1, "text_encoder", {"table": TEXT_TABLE}, "", text_width))
    found.append(Site("conditioner", -1, "conditioner", {}, "", int(config.global_cond_dim)))
    return tuple(found)
