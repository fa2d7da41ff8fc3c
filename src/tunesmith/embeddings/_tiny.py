"""Models with random weights, saved in the hub's layout: what tests open instead of a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    DacConfig,
    DacModel,
    EncodecConfig,
    EncodecModel,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMForXVector,
    WavLMModel,
)


def save_encodec(folder: Path, seed: int = 0, *, stereo: bool = False) -> Path:
    """An EnCodec of 1.6 kHz with 8 latents; ``stereo`` levels sounds first, as Meta's at 48 kHz."""
    config = EncodecConfig(
        sampling_rate=1600,
        audio_channels=2 if stereo else 1,
        normalize=stereo,
        norm_type="time_group_norm" if stereo else "weight_norm",
        use_causal_conv=not stereo,
        chunk_length_s=1.0 if stereo else None,
        overlap=0.01 if stereo else None,
        target_bandwidths=[0.2],
        num_filters=4,
        hidden_size=8,
        codebook_size=16,
        codebook_dim=8,
        num_lstm_layers=1,
        upsampling_ratios=[4, 4, 2],
    )
    return _save(EncodecModel, config, folder, seed)


def save_dac(folder: Path, seed: int = 0) -> Path:
    """A DAC of 1.6 kHz with 16 latents."""
    config = DacConfig(
        sampling_rate=1600,
        encoder_hidden_size=4,
        decoder_hidden_size=16,
        downsampling_ratios=[4, 8],
        n_codebooks=2,
        codebook_size=16,
        codebook_dim=2,
    )
    return _save(DacModel, config, folder, seed, gain=8.0)


def save_wavlm(folder: Path, seed: int = 0, *, speaker: bool = False) -> Path:
    """A WavLM of 16 kHz with 16 numbers a frame; ``speaker``: with a head for x-vectors of 12."""
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        tdnn_dim=[8, 8, 8, 8, 16],
        xvector_output_dim=12,
        layerdrop=0.1,
    )
    folder = _save(WavLMForXVector if speaker else WavLMModel, config, folder, seed)
    Wav2Vec2FeatureExtractor(sampling_rate=16_000, do_normalize=True).save_pretrained(folder)
    return folder


def _save(model_class: Any, config: Any, folder: Path, seed: int, gain: float = 1.0) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        for weights in model.parameters():
            weights.data.mul_(gain)  # some fresh weights are so small that next to nothing is left
    model.save_pretrained(folder)
    return folder
