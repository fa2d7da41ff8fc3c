"""Where methods can take hold of a CSM."""

from __future__ import annotations

from typing import Any

from tunesmith.types import Site

COMPONENT = "model"
TEXT_TABLE = "embed_text_tokens"


def sites_of(model: Any) -> tuple[Site, ...]:
    """The seams of a ``CsmForConditionalGeneration``.

    It is one component: backbone and depth decoder share a table of codes, which would otherwise train
    twice. The depth decoder stands on the backbone, so its layers are counted on from there.
    """
    found: list[Site] = []
    for root, config in (
        ("backbone_model", model.config),
        ("depth_decoder.model", model.depth_decoder.config),
    ):
        below, width = len(found) // 2, int(config.hidden_size)
        for number in range(int(config.num_hidden_layers)):
            layer, place = below + number, f"{root}.layers.{number}"
            found += [
                Site(
                    "self_attention",
                    layer,
                    COMPONENT,
                    {short: f"{place}.self_attn.{short}_proj" for short in "qkv"},
                    f"{place}.self_attn.o_proj",
                    width,
                    f"{place}.self_attn",
                    int(config.num_key_value_heads),
                ),
                Site(
                    "feed_forward",
                    layer,
                    COMPONENT,
                    {short: f"{place}.mlp.{short}_proj" for short in ("gate", "up")},
                    f"{place}.mlp.down_proj",
                    width,
                ),
            ]
    table = {"table": TEXT_TABLE}
    found.append(Site("text_embedding", -1, COMPONENT, table, "", int(model.config.hidden_size)))
    return tuple(found)
