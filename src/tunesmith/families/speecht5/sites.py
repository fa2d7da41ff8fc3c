"""Where methods can take hold of a SpeechT5."""

from __future__ import annotations

from typing import Any

from torch import nn

from tunesmith.types import Role, Site

MODEL, VOCODER = "model", "vocoder"
"""The two components: the whole ``SpeechT5ForTextToSpeech``, so that plain PEFT opens an adapter on it,
and the ``SpeechT5HifiGan``."""

TEXT_TABLE = "speecht5.encoder.prenet.embed_tokens"


def sites_of(model: Any, vocoder: Any) -> tuple[Site, ...]:
    """The seams of a ``SpeechT5ForTextToSpeech`` and its vocoder.

    Layers are counted through: the decoder's stand above the encoder's.
    """
    width = int(model.config.hidden_size)
    found: list[Site] = []

    def attention(role: Role, layer: int, place: str) -> None:
        inputs = {short: f"{place}.{short}_proj" for short in "qkv"}
        found.append(Site(role, layer, MODEL, inputs, f"{place}.out_proj", width))

    def feed_forward(layer: int, root: str) -> None:
        place = f"{root}.feed_forward"
        inputs, output = {"up": f"{place}.intermediate_dense"}, f"{place}.output_dense"
        found.append(Site("feed_forward", layer, MODEL, inputs, output, width))

    below = int(model.config.encoder_layers)
    for layer in range(below):
        root = f"speecht5.encoder.wrapped_encoder.layers.{layer}"
        attention("self_attention", layer, f"{root}.attention")
        feed_forward(layer, root)
    for layer in range(int(model.config.decoder_layers)):
        root = f"speecht5.decoder.wrapped_decoder.layers.{layer}"
        attention("self_attention", below + layer, f"{root}.self_attn")
        attention("cross_attention", below + layer, f"{root}.encoder_attn")
        feed_forward(below + layer, root)
    found.append(Site("text_embedding", -1, MODEL, {"table": TEXT_TABLE}, "", width))
    # Plain convolutions only: PEFT (0.21) adapts neither the transposed ones, which raise the rate, nor
    # dilated ones. And the last has one row, of which there is nothing of low rank.
    convs = {
        name: name
        for name, one in vocoder.named_modules()
        if isinstance(one, nn.Conv1d) and one.out_channels > 1 and one.dilation == (1,)
    }
    size = int(vocoder.config.upsample_initial_channel)
    found.append(Site("vocoder", -1, VOCODER, convs, "", size))
    return tuple(found)


def without_effect(model: Any) -> frozenset[str]:
    """``component/path`` of the keys' biases: they add the same to all logits of a query, which softmax
    takes off again. Their gradient is rounding, which Adam would make steps of."""
    return frozenset(
        f"{MODEL}/{name}" for name, _ in model.named_parameters() if name.endswith("k_proj.bias")
    )
