"""A MusicGen with random weights, small enough that a test may train it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
)

from tunesmith.families._tiny import byte_tokenizer
from tunesmith.families.musicgen.bundle import MusicgenBundle

_CODES = 32
_HEAD_GAIN = 10.0
_TEXT_GAIN = 10.0


def tiny_config(channels: int = 1, width: int = 32) -> MusicgenConfig:
    """Geometry of the tiny model: 1,600 Hz, 50 frames a second, 4 codebooks of 32 codes."""
    codec = EncodecConfig(
        sampling_rate=1600,
        audio_channels=1,
        upsampling_ratios=[8, 4],
        num_filters=4,
        hidden_size=16,
        codebook_dim=16,
        codebook_size=_CODES,
        num_lstm_layers=1,
        use_causal_conv=False,
        target_bandwidths=[1.0],
        kernel_size=3,
        last_kernel_size=3,
    )
    assert codec.num_quantizers == 4, codec.num_quantizers
    text = T5Config(
        vocab_size=260, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    decoder = MusicgenDecoderConfig(
        vocab_size=_CODES,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=2 * width,
        dropout=0.0,
        max_position_embeddings=256,
        num_codebooks=4 * channels,
        audio_channels=channels,
        pad_token_id=_CODES,
        bos_token_id=_CODES,
    )
    return MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)


def tiny_model(
    seed: int = 0, channels: int = 1, width: int = 32
) -> MusicgenForConditionalGeneration:
    """The plain library's model with random weights, drawn from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = MusicgenForConditionalGeneration(tiny_config(channels, width))
        _fit_codebooks(model.audio_encoder)
        with torch.no_grad():
            for head in model.decoder.lm_heads:
                # Fresh heads are so small that no adapter beneath them could say anything.
                head.weight.mul_(_HEAD_GAIN)
            # And fresh weights let so little of a text through that no word would make a difference.
            model.enc_to_dec_proj.weight.mul_(_TEXT_GAIN)
            for layer in model.decoder.model.decoder.layers:
                layer.encoder_attn.v_proj.weight.mul_(_TEXT_GAIN)
                layer.encoder_attn.out_proj.weight.mul_(_TEXT_GAIN)
    return model


@torch.no_grad()
def _fit_codebooks(codec: Any) -> None:
    """Take the codes from latents of noise, so that a busy sound has busy codes.

    Codebooks are zeros in a new model, and the latents of a random encoder hardly move around
    their mean: any other codebook would give every sound one code, which a model that is wrong
    regenerates as well as one that is right.
    """
    noise = 0.3 * torch.randn(1, 1, 4 * codec.config.sampling_rate)
    left = codec.encoder(noise)[0].T
    for layer in codec.quantizer.layers:
        codes = layer.codebook
        codes.embed.copy_(left[torch.randperm(len(left))[:_CODES]])
        left = left - codes.decode(codes.encode(left))


def tiny_bundle(seed: int = 0, *, channels: int = 1, width: int = 32) -> MusicgenBundle:
    """A :class:`MusicgenBundle` around :func:`tiny_model`."""
    model = tiny_model(seed, channels, width)
    codec: Any = copy.deepcopy(model.audio_encoder)
    return MusicgenBundle(
        model.requires_grad_(False),
        byte_tokenizer(),
        lambda: codec,
        name="tiny",
        base_hash=f"tiny-{seed}-{channels}",
        codec_hash=f"tiny-{seed}",
        text_hash=f"tiny-{seed}",
        licence="Apache-2.0",
        max_s=4.0,
    )
