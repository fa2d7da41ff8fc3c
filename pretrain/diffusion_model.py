"""``pocket-diffusion``: geometry of text encoder, conditioning and transformer, called as the pipeline calls them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import CosineDPMSolverMultistepScheduler, StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from torch import nn
from transformers import (
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from pretrain.diffusion_autoencoder import FRAME_RATE_HZ, LATENT, WINDOW

WINDOW_S = WINDOW / FRAME_RATE_HZ  # 5.12 s; the pipeline always samples the whole window
TEXT_TOKENS, TEXT_DIM = 64, 128
MAX_SECONDS = 16
# Where the text encoder and the tokenizer begin: captions are the same, the words need not be learnt twice.
MUSICGEN = Path("src/tunesmith/pocket/musicgen")


@dataclass(frozen=True)
class Size:
    """Of the transformer: heads have 64 channels, cross-attention half as many keys and values."""

    layers: int = 6
    heads: int = 4


def tokenizer_of(musicgen: Path = MUSICGEN) -> PreTrainedTokenizerFast:
    """The tokenizer of ``pocket``, for captions of at most 64 tokens."""
    return PreTrainedTokenizerFast.from_pretrained(musicgen, model_max_length=TEXT_TOKENS)


def scheduler() -> CosineDPMSolverMultistepScheduler:
    """As in Stable Audio Open 1.0, whose latents have unit variance too."""
    return CosineDPMSolverMultistepScheduler(
        sigma_min=0.3,
        sigma_max=500,
        sigma_data=1.0,
        sigma_schedule="exponential",
        solver_order=2,
        prediction_type="v_prediction",
        solver_type="midpoint",
    )


class Denoiser(nn.Module):
    """Text encoder, projection and transformer: all of the pipeline that learns to denoise."""

    def __init__(
        self,
        text_encoder: T5EncoderModel,
        projection_model: StableAudioProjectionModel,
        transformer: StableAudioDiTModel,
    ) -> None:
        super().__init__()
        self.text_encoder, self.projection_model = text_encoder, projection_model
        self.transformer = transformer

    def forward(
        self,
        noisy: torch.Tensor,
        t: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        seconds: torch.Tensor,
        kept: torch.Tensor,
    ) -> torch.Tensor:
        """The velocity [B, 24, T] that the transformer says, with ``StableAudioPipeline``'s conditioning.

        Args:
            noisy: x_t, [B, 24, T].
            t: [B] in [0, 1]; 1 is noise.
            ids: token ids [B, 64], padded to the full length.
            mask: [B, 64], 1 where there is a token.
            seconds: [B], where the music ends; it starts at 0.
            kept: [B] boolean; a row that does not keep its conditions is the pipeline's unconditional row.
        """
        parts: Any = self
        states = parts.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        made = parts.projection_model(
            text_hidden_states=states, start_seconds=torch.zeros_like(seconds), end_seconds=seconds
        )
        text = made.text_hidden_states * mask[..., None]
        start, end = made.seconds_start_hidden_states, made.seconds_end_hidden_states
        states = torch.cat([text, start, end], dim=1) * kept[:, None, None]
        config = parts.transformer.config
        rotary = get_1d_rotary_pos_embed(
            config.attention_head_dim // 2,
            noisy.shape[2] + 1,  # the global states come first
            use_real=True,
            repeat_interleave_real=False,
        )
        rotary = tuple(part.to(noisy.device) for part in rotary)
        return parts.transformer(
            noisy,
            t,
            encoder_hidden_states=states,
            global_hidden_states=torch.cat([start, end], dim=2),
            rotary_embedding=rotary,
            return_dict=False,
        )[0]


def build_denoiser(
    seed: int, size: Size | None = None, latent: int = LATENT, musicgen: Path = MUSICGEN
) -> Denoiser:
    """A fresh transformer and projection around the text encoder that ``pocket`` ended with."""
    size = size or Size()
    whole: Any = MusicgenForConditionalGeneration.from_pretrained(musicgen)
    torch.manual_seed(seed)
    text: Any = T5EncoderModel(whole.text_encoder.config)
    text.load_state_dict(whole.text_encoder.state_dict())
    projection = StableAudioProjectionModel(
        text_encoder_dim=TEXT_DIM, conditioning_dim=TEXT_DIM, min_value=0, max_value=MAX_SECONDS
    )
    transformer: Any = StableAudioDiTModel(
        sample_size=WINDOW,
        in_channels=latent,
        out_channels=latent,
        num_layers=size.layers,
        attention_head_dim=64,
        num_attention_heads=size.heads,
        num_key_value_attention_heads=size.heads // 2,
        cross_attention_dim=TEXT_DIM,
        cross_attention_input_dim=TEXT_DIM,
        global_states_input_dim=2 * TEXT_DIM,
    )
    # Branches begin with nothing to say, as in stable-audio-tools.
    for block in transformer.transformer_blocks:
        for module in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in (transformer.preprocess_conv, transformer.postprocess_conv):
        nn.init.zeros_(module.weight)
    return Denoiser(text, projection, transformer)
