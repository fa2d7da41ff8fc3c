"""A SpeechT5 with random weights, small enough that a test may train it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    SpeechT5Config,
    SpeechT5FeatureExtractor,
    SpeechT5ForTextToSpeech,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from tunesmith.families._tiny import byte_tokenizer
from tunesmith.families._transformers import quiet
from tunesmith.families.speecht5.bundle import SpeechT5Bundle

MAX_S = 4.0
BINS, SPEAKER = 8, 8
_HEARD_GAIN = 4.0


def tiny_sound() -> SpeechT5FeatureExtractor:
    """1,600 Hz, 50 frames a second."""
    return SpeechT5FeatureExtractor(
        sampling_rate=1600, num_mel_bins=BINS, hop_length=20, win_length=80, fmin=20, fmax=760
    )


def tiny_config(width: int = 32, reduction: int = 2) -> SpeechT5Config:
    """Geometry of the tiny model: two layers a side, ``reduction`` frames a step."""
    return SpeechT5Config(
        vocab_size=260,
        hidden_size=width,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=2 * width,
        encoder_layerdrop=0.0,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=2 * width,
        decoder_layerdrop=0.0,
        positional_dropout=0.0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        decoder_start_token_id=1,
        initializer_range=0.12,  # at the usual 0.02 so narrow a model hears neither text nor mels
        num_mel_bins=BINS,
        reduction_factor=reduction,
        speech_decoder_prenet_units=width,
        speaker_embedding_dim=SPEAKER,
        speech_decoder_postnet_layers=2,
        speech_decoder_postnet_units=16,
        speech_decoder_postnet_dropout=0.0,
        max_speech_positions=256,
        max_text_positions=128,
        encoder_max_relative_position=16,
        guided_attention_loss_num_heads=1,
    )


def tiny_parts(seed: int = 0, width: int = 32, reduction: int = 2) -> tuple[Any, Any]:
    """The plain library's model and vocoder with random weights, drawn from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model: Any = SpeechT5ForTextToSpeech(tiny_config(width, reduction))
        vocoder: Any = SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=BINS,
                sampling_rate=1600,
                upsample_initial_channel=16,
                upsample_rates=[8, 4],
                upsample_kernel_sizes=[16, 8],
                resblock_kernel_sizes=[3],
                resblock_dilation_sizes=[[1, 3]],
            )
        )
        with torch.no_grad():
            # And at any range it hears its dropout hardly, beside the places that it counts.
            model.speecht5.decoder.prenet.final_layer.weight.mul_(_HEARD_GAIN)
            # A fresh model would say at random, and soon, that it has come to its end.
            model.speech_decoder_postnet.prob_out.bias.fill_(-4.0)
            model.speech_decoder_postnet.prob_out.weight.mul_(0.1)
    return model.eval(), vocoder.eval()


def tiny_bundle(seed: int = 0, *, width: int = 32, reduction: int = 2) -> SpeechT5Bundle:
    """A :class:`SpeechT5Bundle` around :func:`tiny_parts`."""
    model, vocoder = tiny_parts(seed, width, reduction)
    return SpeechT5Bundle(
        model,
        vocoder,
        byte_tokenizer(),
        tiny_sound(),
        name="tiny",
        base_hash=f"tiny-{seed}",
        codec_hash=f"tiny-{seed}",
        text_hash=f"tiny-{seed}",
        licence="Apache-2.0",
        max_s=MAX_S,
    )
