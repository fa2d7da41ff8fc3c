"""A Stable Audio 3 with random weights, small enough that a test may train it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderSAME,
    FlowMatchEulerDiscreteScheduler,
    StableAudio3DiTModel,
    StableAudio3DurationEmbedder,
)
from torch import nn
from transformers import T5GemmaConfig, T5GemmaEncoderModel

from tunesmith.families._diffusers import quiet
from tunesmith.families._tiny import byte_tokenizer
from tunesmith.families.stable_audio_3.bundle import StableAudio3Bundle

_LATENTS = 8
_WORDS = 16
_TEXT_GAIN, _SHARPER, _LOUDER = 6.0, 2.0, 3.0
NOTES = {"steps": 20}


def tiny_parts(seed: int = 0, width: int = 48, *, distilled: bool = False) -> dict[str, Any]:
    """The components of a pipeline: stereo at 1,600 Hz, 25 frames a second, up to 1.28 s."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        vae: Any = AutoencoderSAME(
            patch_size=8,
            encoder_channels=8,
            encoder_c_mults=[4],
            encoder_strides=[8],
            encoder_transformer_depths=[1],
            latent_dim=_LATENTS,
            dim_heads=16,
            ff_mult=2,
            sampling_rate=1600,
        )
        _fill(vae)
        _fit_latents(vae)
        text = T5GemmaEncoderModel(_text_config())
        duration: Any = StableAudio3DurationEmbedder(_WORDS, fourier_dim=16, max_val=1.28)
        transformer: Any = StableAudio3DiTModel(
            io_channels=_LATENTS,
            embed_dim=width,
            depth=2,
            num_heads=2,
            cond_token_dim=_WORDS,
            global_cond_dim=_WORDS,
            local_add_cond_dim=1 + _LATENTS,
            timestep_features_dim=16,
            ff_mult=2,
            num_memory_tokens=4,
        )
        _fill(transformer)
        _let_text_through(transformer)
    return {
        "vae": vae,
        "text_encoder": text,
        "tokenizer": byte_tokenizer(model_max_length=48, padding_side="left"),
        "duration_embedder": duration,
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=1, stochastic_sampling=distilled
        ),
    }


def _text_config() -> T5GemmaConfig:
    side = {
        "vocab_size": 260,
        "hidden_size": _WORDS,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "initializer_range": 0.3,
    }
    return T5GemmaConfig(encoder=side, decoder=dict(side), is_encoder_decoder=False)


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    """Weights where a fresh model has zeros: it would let nothing through that these lead to."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not bool(parameter.any()):
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        elif name.endswith(("new_tokens", "memory_tokens", "prompt_padding_embedding")):
            parameter.normal_()


@torch.no_grad()
def _let_text_through(transformer: Any) -> None:
    """Fresh weights let so little of a text through that no word would make a difference.

    Both halves of a differential attention then look at everything alike, and cancel out.
    """
    transformer.to_cond_embed[2].weight.mul_(_TEXT_GAIN)
    for block in transformer.transformer_blocks:
        block.cross_attn.q_norm.gamma.mul_(_SHARPER)
        block.cross_attn.to_out.weight.mul_(_LOUDER)


@torch.no_grad()
def _fit_latents(vae: Any) -> None:
    """Give latents of noise no mean and unit variance, as the real ones about have."""
    vae.bottleneck.scale.uniform_(0.5, 2.0)
    vae.bottleneck.bias.normal_()
    vae.bottleneck.running_std.fill_(1.5)
    sound = 0.3 * torch.randn(1, vae.config.audio_channels, 4 * vae.config.sampling_rate)
    last, scale = vae.encoder.proj, vae.bottleneck.scale[0, :, 0]
    last.weight /= vae.encode(sound).latents[0].std(dim=1)[:, None]
    last.bias -= 1.5 * vae.encode(sound).latents[0].mean(dim=1) / scale


def tiny_bundle(seed: int = 0, *, width: int = 48) -> StableAudio3Bundle:
    """A :class:`StableAudio3Bundle` around :func:`tiny_parts`."""
    parts = tiny_parts(seed, width)
    codec = parts.pop("vae").requires_grad_(False)
    return StableAudio3Bundle(
        parts,
        lambda: codec,
        codec.config,
        name="tiny",
        base_hash=f"tiny-{seed}",
        codec_hash=f"tiny-{seed}",
        text_hash=f"tiny-{seed}",
        licence="Apache-2.0",
        notes=NOTES,
    )
