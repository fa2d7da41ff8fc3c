"""A Stable Audio with random weights, small enough that a test may train it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderOobleck,
    CosineDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioProjectionModel,
)
from transformers import T5Config, T5EncoderModel

from tunesmith.families._diffusers import quiet
from tunesmith.families._tiny import byte_tokenizer
from tunesmith.families.stable_audio.bundle import StableAudioBundle

_WINDOW = 32
_LATENTS = 8
_TEXT_GAIN = 6.0
NOTES = {"steps": 20}


def tiny_parts(seed: int = 0, channels: int = 2, width: int = 48) -> dict[str, Any]:
    """The components of a pipeline: 1,600 Hz, 25 frames a second, windows of 1.28 s."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        vae: Any = AutoencoderOobleck(
            encoder_hidden_size=2 * _LATENTS,
            downsampling_ratios=[8, 8],
            channel_multiples=[1, 2],
            decoder_channels=8,
            decoder_input_channels=_LATENTS,
            audio_channels=channels,
            sampling_rate=1600,
        )
        _fit_latents(vae, channels)
        text = T5EncoderModel(
            T5Config(
                vocab_size=260,
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=1,
                num_heads=2,
                dropout_rate=0.0,
            )
        )
        conditioner: Any = StableAudioProjectionModel(16, width, 0, 4)
        transformer: Any = StableAudioDiTModel(
            sample_size=_WINDOW,
            in_channels=_LATENTS,
            num_layers=2,
            attention_head_dim=width // 2,
            num_attention_heads=2,
            num_key_value_attention_heads=1,
            out_channels=_LATENTS,
            cross_attention_dim=width,
            cross_attention_input_dim=width,
            time_proj_dim=16,
            global_states_input_dim=2 * width,
        )
        with torch.no_grad():
            # Fresh weights let so little of a text through that no word would make a difference.
            conditioner.text_projection.weight.mul_(_TEXT_GAIN)
            for block in transformer.transformer_blocks:
                block.attn2.to_v.weight.mul_(_TEXT_GAIN)
                block.attn2.to_out[0].weight.mul_(_TEXT_GAIN)
    return {
        "vae": vae,
        "text_encoder": text,
        "projection_model": conditioner,
        "tokenizer": byte_tokenizer(model_max_length=48),
        "transformer": transformer,
        "scheduler": CosineDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=500, sigma_data=1.0, solver_order=2
        ),
    }


@torch.no_grad()
def _fit_latents(vae: Any, channels: int) -> None:
    """Give latents of noise no mean and unit variance, as the real ones about have."""
    found = vae.encoder(0.3 * torch.randn(1, channels, 4 * vae.sampling_rate))[0, :_LATENTS]
    last = vae.encoder.conv2
    spread = found.std(dim=1)
    last.weight_g[:_LATENTS] /= spread[:, None, None]
    last.bias[:_LATENTS] = (last.bias[:_LATENTS] - found.mean(dim=1)) / spread


def tiny_bundle(seed: int = 0, *, channels: int = 2, width: int = 48) -> StableAudioBundle:
    """A :class:`StableAudioBundle` around :func:`tiny_parts`."""
    parts = tiny_parts(seed, channels, width)
    codec = parts.pop("vae").requires_grad_(False)
    return StableAudioBundle(
        parts,
        lambda: codec,
        codec.config,
        name="tiny",
        base_hash=f"tiny-{seed}-{channels}",
        codec_hash=f"tiny-{seed}",
        text_hash=f"tiny-{seed}",
        licence="Apache-2.0",
        notes=NOTES,
    )
