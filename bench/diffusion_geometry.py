"""Diffusion families at full size with random weights: loaded, one LoRA step, a short generation.

python -m bench.diffusion_geometry [--only ace_step] [--device cpu|cuda] [--seconds 10] [--quick]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench._geometry import Case, run
from bench._results import record

CAPTION = "slow blues, electric guitar, live"
SAMPLING = {"guidance": 3.0, "steps": 2}


def save_ace_step(folder: Path, quick: bool) -> None:
    """A folder like ``Runware/acestep-v15-base-diffusers``."""
    from diffusers import (
        AceStepPipeline,
        AceStepTransformer1DModel,
        AutoencoderOobleck,
        FlowMatchEulerDiscreteScheduler,
    )
    from diffusers.pipelines.ace_step import AceStepConditionEncoder
    from transformers import Qwen3Config, Qwen3Model

    from tunesmith.families._diffusers import quiet
    from tunesmith.families._tiny import byte_tokenizer

    # The defaults of both are the checkpoint's.
    transformer: Any = AceStepTransformer1DModel(num_hidden_layers=2 if quick else 24)
    shape = (transformer.config.hidden_size, transformer.config.intermediate_size)
    assert shape == (2048, 6144), shape
    conditioner: Any = AceStepConditionEncoder(num_lyric_encoder_hidden_layers=1 if quick else 8)
    conditioner.silence_latent.normal_()
    text = Qwen3Model(  # Qwen3-Embedding-0.6B
        Qwen3Config(
            vocab_size=151_669,
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=2 if quick else 28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
        )
    )
    vae: Any = AutoencoderOobleck(downsampling_ratios=[2, 4, 4, 6, 10], sampling_rate=48_000)
    assert vae.hop_length == 1920, vae.hop_length
    with quiet():
        AceStepPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=byte_tokenizer(),  # type: ignore[arg-type]
            transformer=transformer,
            condition_encoder=conditioner,
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),  # type: ignore[arg-type]
        ).save_pretrained(folder)


def save_stable_audio(folder: Path, quick: bool) -> None:
    """A folder like ``stabilityai/stable-audio-open-1.0``."""
    from diffusers import (
        AutoencoderOobleck,
        CosineDPMSolverMultistepScheduler,
        StableAudioDiTModel,
        StableAudioPipeline,
        StableAudioProjectionModel,
    )
    from transformers import T5Config, T5EncoderModel

    from tunesmith.families._diffusers import quiet
    from tunesmith.families._tiny import byte_tokenizer

    # The defaults of transformer and autoencoder are the checkpoint's.
    transformer: Any = StableAudioDiTModel(num_layers=2 if quick else 24)
    assert transformer.config.sample_size == 1024
    vae: Any = AutoencoderOobleck()
    assert vae.hop_length == 2048, vae.hop_length
    text = T5EncoderModel(  # t5-base
        T5Config(
            vocab_size=32_128,
            d_model=768,
            d_kv=64,
            d_ff=3072,
            num_layers=2 if quick else 12,
            num_heads=12,
        )
    )
    with quiet():
        StableAudioPipeline(
            vae=vae,
            text_encoder=text,
            projection_model=StableAudioProjectionModel(768, 768, 0, 512),
            tokenizer=byte_tokenizer(model_max_length=128),  # type: ignore[arg-type]
            transformer=transformer,
            scheduler=CosineDPMSolverMultistepScheduler(
                sigma_min=0.3, sigma_max=500, sigma_data=1.0
            ),  # type: ignore[arg-type]
        ).save_pretrained(folder)


CASES = {
    "ace_step": Case(
        "ACE-Step 1.5's 2 B geometry (random weights)",
        save_ace_step,
        CAPTION,
        details={"lyrics": "[verse]\nslow rain on the tracks\n", "bpm": 72, "key": "E minor"},
        settings=SAMPLING,
        bar_gib=16.0,
        lengths_s=(10.0, 60.0, 240.0),
    ),
    "stable_audio": Case(
        "Stable Audio Open 1.0's geometry (random weights)",
        save_stable_audio,
        CAPTION,
        settings=SAMPLING,
        bar_gib=12.0,
        lengths_s=(10.0, 47.0),
    ),
}


def main() -> None:
    if rows := run("diffusion_geometry", __doc__, CASES, seconds=10.0):
        record(
            "diffusion_geometry",
            "Diffusion families at full size",
            rows,
            notes="Batch 1, activation checkpointing, weights in float32 as the tool loads them, saved in "
            "bfloat16. Peaks are of the process on the CPU, of what is allocated on a GPU; sound encoded before "
            "the step, decoded after the sampling.",
            packages=("torch", "transformers", "diffusers", "peft"),
        )


if __name__ == "__main__":
    main()
