"""An ACE-Step with random weights, small enough that a test may train it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AceStepTransformer1DModel, AutoencoderOobleck, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from tunesmith.families._diffusers import quiet
from tunesmith.families._tiny import byte_tokenizer
from tunesmith.families.ace_step.bundle import AceStepBundle
from tunesmith.families.ace_step.text import REPAINT, Said, written

_LATENTS = 8
_WORDS = 16
NOTES = {"max_s": 1.28, "steps": 20}


def tiny_parts(seed: int = 0, width: int = 32, *, turbo: bool = False) -> dict[str, Any]:
    """The components of a pipeline: stereo at 1,600 Hz, 25 frames a second."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        vae: Any = AutoencoderOobleck(
            encoder_hidden_size=2 * _LATENTS,
            downsampling_ratios=[8, 8],
            channel_multiples=[1, 2],
            decoder_channels=8,
            decoder_input_channels=_LATENTS,
            audio_channels=2,
            sampling_rate=1600,
        )
        _fit_latents(vae)
        text = Qwen3Model(
            Qwen3Config(
                vocab_size=320,
                hidden_size=_WORDS,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                initializer_range=0.3,
            )
        )
        sizes: dict[str, Any] = {
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": width // 4,
        }
        conditioner: Any = AceStepConditionEncoder(
            text_hidden_dim=_WORDS,
            timbre_hidden_dim=_LATENTS,
            num_lyric_encoder_hidden_layers=2,
            num_timbre_encoder_hidden_layers=1,
            **sizes,
        )
        _keep_silence(conditioner, vae)
        transformer: Any = AceStepTransformer1DModel(
            num_hidden_layers=2,
            in_channels=3 * _LATENTS,
            audio_acoustic_hidden_dim=_LATENTS,
            sliding_window=4,
            is_turbo=turbo,
            **sizes,
        )
        _let_through(transformer)
    return {
        "vae": vae,
        "text_encoder": text,
        "tokenizer": _tokenizer(),
        "condition_encoder": conditioner,
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    }


def _tokenizer() -> Any:
    """Characters, but each word of the templates is one token: most of a tiny text would be they."""
    tokenizer = byte_tokenizer()
    words = dict.fromkeys(" ".join(written("", Said(), REPAINT) + written("", Said())).split())
    tokenizer.add_tokens([*words, "\n"])
    return tokenizer


@torch.no_grad()
def _fit_latents(vae: Any) -> None:
    """Give latents of noise no mean and unit variance, as the real ones about have."""
    found = vae.encoder(0.3 * torch.randn(1, 2, 4 * vae.sampling_rate))[0, :_LATENTS]
    last = vae.encoder.conv2
    spread = found.std(dim=1)
    last.weight_g[:_LATENTS] /= spread[:, None, None]
    last.bias[:_LATENTS] = (last.bias[:_LATENTS] - found.mean(dim=1)) / spread


@torch.no_grad()
def _keep_silence(conditioner: Any, vae: Any) -> None:
    """The latents of silence that a checkpoint comes with; no two frames of the real ones are alike."""
    quiet_sound = torch.zeros(1, 2, 64 * vae.hop_length)
    frame = vae.encode(quiet_sound).latent_dist.mode()[0, :, 32]
    kept = conditioner.silence_latent
    kept.copy_(frame + 0.1 * torch.randn(kept.shape))


@torch.no_grad()
def _let_through(transformer: nn.Module) -> None:
    """Fresh gates are so near to zero that neither text nor adapters would make a difference."""
    for name, parameter in transformer.named_parameters():
        if name.endswith("scale_shift_table"):
            parameter.normal_(std=0.5)
        elif ".cross_attn.to_" in name:
            parameter.mul_(3.0)


def tiny_bundle(seed: int = 0, *, width: int = 32, turbo: bool = False) -> AceStepBundle:
    """An :class:`AceStepBundle` around :func:`tiny_parts`."""
    parts = tiny_parts(seed, width, turbo=turbo)
    codec = parts.pop("vae").requires_grad_(False)
    return AceStepBundle(
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
