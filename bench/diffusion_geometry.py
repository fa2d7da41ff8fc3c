"""Diffusion families at full size with random weights: loaded, one LoRA step, a short generation.

    python -m bench.diffusion_geometry [--only ace_step] [--device cpu|cuda] [--seconds 10] [--quick]

No hub is asked: a checkpoint's geometry is built in half precision, saved in the hub's layout, and found
and loaded as the tool does it, in full precision with autocast. Building and measuring are processes of
their own, because a process's peak counts from the start.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench._results import NO_GPU, Row, parser, record

RANK, STEPS = 16, 2
CAPTION = "slow blues, electric guitar, live"


@dataclass(frozen=True, slots=True)
class Case:
    """A checkpoint whose geometry is built.

    Attributes:
        title: what it is called in the results.
        build: makes its parts and saves them in a folder; quick ones have few layers.
        details: what a clip says beside its caption.
        bar_gib: most that a LoRA may take on a GPU.
        lengths_s: of clips that a plan is made for.
    """

    title: str
    build: Callable[[Path, bool], None]
    details: Mapping[str, Any]
    bar_gib: float
    lengths_s: tuple[float, ...]


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
    StableAudioPipeline(
        vae=vae,
        text_encoder=text,
        projection_model=StableAudioProjectionModel(768, 768, 0, 512),
        tokenizer=byte_tokenizer(model_max_length=128),  # type: ignore[arg-type]
        transformer=transformer,
        scheduler=CosineDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500, sigma_data=1.0),  # type: ignore[arg-type]
    ).save_pretrained(folder)


CASES = {
    "ace_step": Case(
        "ACE-Step 1.5's 2 B geometry (random weights)",
        save_ace_step,
        {"lyrics": "[verse]\nslow rain on the tracks\n", "bpm": 72, "key": "E minor"},
        16.0,
        (10.0, 60.0, 240.0),
    ),
    "stable_audio": Case(
        "Stable Audio Open 1.0's geometry (random weights)",
        save_stable_audio,
        {},
        12.0,
        (10.0, 47.0),
    ),
}


def build(case: Case, folder: Path, quick: bool) -> None:
    """Save a case's geometry in bfloat16."""
    from tunesmith.families._diffusers import quiet

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.no_grad(), quiet():
        case.build(folder, quick)


def measure(case: Case, folder: Path, device: torch.device, seconds: float) -> dict[str, Any]:
    """Load, train one step with rank 16, generate; what each took."""
    from tunesmith.config import TrainConfig
    from tunesmith.families import find_base, load
    from tunesmith.methods import lora
    from tunesmith.objectives.mixture import total_loss
    from tunesmith.training.hardware import choose_dtype, peak_memory_bytes, reset_peak_memory
    from tunesmith.training.measure import forward
    from tunesmith.training.optimizer import build_optimizer
    from tunesmith.types import Audio, Example, GenerationSettings

    found: dict[str, Any] = {}
    begin = time.perf_counter()

    def took(name: str) -> None:
        nonlocal begin
        found[name] = {
            "seconds": time.perf_counter() - begin,
            "peak_gib": peak_memory_bytes(device) / 2**30,
        }
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
        reset_peak_memory(device)
        begin = time.perf_counter()

    dtype = choose_dtype("auto", device)
    bundle = load(find_base(str(folder)), device=device)
    took("load")
    draw = np.random.default_rng(0)
    shape = (bundle.channels, round(seconds * bundle.sample_rate_hz))
    sound = Audio(draw.uniform(-0.5, 0.5, shape).astype(np.float32), bundle.sample_rate_hz)
    details = [{**case.details, "duration_s": seconds}] if bundle.columns else None
    codes = bundle.encode_audio(sound)
    bundle.release_codec()
    example = Example("clip", codes, bundle.encode_text([CAPTION], details)[0])
    took("encode")
    adapter = lora.attach(bundle, lora.Config(rank=RANK), 0)
    bundle.checkpoint_activations(True)
    bundle.module.train()
    batch = bundle.collate([example], [0])
    train = TrainConfig(lr=1e-4)  # type: ignore[call-arg]
    optimizer = build_optimizer(adapter.parameters(), adapter.rates(), train)
    counts = {name: count.sum().to(device) for name, count in bundle.module.count(batch).items()}
    loss = total_loss(forward(bundle, batch, dtype), counts, bundle.term_weights)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    took("step")
    settings = GenerationSettings(guidance=3.0, steps=STEPS)
    said = [case.details] if bundle.columns else None
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        (audio,) = bundle.generate([CAPTION], seconds, [0], settings, details=said)
    assert audio.samples.shape[0] == bundle.channels
    assert np.isfinite(audio.samples).all()
    took("generate")
    return found | {
        "parameters": sum(p.numel() for p in bundle.module.parameters()),
        "trained": sum(p.numel() for p in adapter.parameters().values()),
        "loss": float(loss.detach()),
        "dtype": str(dtype).removeprefix("torch."),
    }


def planned(folder: Path, lengths_s: tuple[float, ...]) -> str:
    """What ``tunesmith plan`` tells of the same run on a GPU, for clips of several lengths."""
    from tunesmith.config import load_config
    from tunesmith.training.plan import make_plan

    settings = {
        "base": str(folder),
        "method": "lora",
        "train.batch_size": 1,
        "train.activation_checkpointing": True,
    }
    found = []
    for seconds in lengths_s:
        loaded = load_config(None, settings, planning=True)
        memory = make_plan(loaded, clips=100, seconds=seconds, device="cuda").memory
        training = memory.phases["training"] / 2**30
        found.append(
            f"{seconds:g} s: {training:.2f} GiB in training, "
            f"{memory.peak / 2**30:.2f} at most ({memory.worst})"
        )
    return "; ".join(found)


def rows_of(name: str, args: argparse.Namespace) -> list[Row]:
    """Build, plan and measure a case; one that was not asked for keeps its figures."""
    case, device = CASES[name], torch.device(args.device)
    what = f"{case.title}: LoRA r={RANK}, one {args.seconds:g} s clip"
    told = f"{case.title}: LoRA r={RANK}, GPU: peak as `tunesmith plan` tells it"
    ends = f"{what}, CPU: found, loaded, trained a step, {STEPS} steps of sampling"
    bar = f"<= {case.bar_gib:g} GB"
    if args.only not in (None, name):
        return [
            Row(f"{what}, GPU: peak", bar, None),
            Row(told, "", None, missing="not measured"),
            Row(ends, "runs end to end", None, missing="not measured"),
        ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "base"
        again = [sys.executable, "-m", "bench.diffusion_geometry", "--only", name]
        again += ["--device", args.device, "--seconds", str(args.seconds)]
        again += ["--quick"] if args.quick else []
        subprocess.run([*again, "--build", str(folder)], check=True)
        plan = planned(folder, case.lengths_s)
        done = subprocess.run(
            [*again, "--measure", str(folder)], check=True, stdout=subprocess.PIPE, text=True
        )
    found = json.loads(done.stdout.splitlines()[-1])
    parts = "; ".join(
        f"{part} {found[part]['seconds']:.0f} s, {found[part]['peak_gib']:.2f} GiB"
        for part in ("load", "encode", "step", "generate")
    )
    figure = (
        f"{parts}; {found['parameters']:,} parameters, {found['trained']:,} trained; "
        f"{found['dtype']}; loss {found['loss']:.3f}"
    )
    peak = max(found[part]["peak_gib"] for part in ("encode", "step", "generate"))
    on_gpu = device.type == "cuda"
    return [
        Row(
            f"{what}, GPU: peak",
            bar,
            f"{peak:.2f} GiB ({figure})" if on_gpu else None,
            peak * 2**30 <= case.bar_gib * 1e9,
            missing=NO_GPU,
        ),
        Row(told, "", plan),
        Row(
            ends,
            "runs end to end",
            None if on_gpu else figure,
            True,
            missing="not measured",
        ),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=list(CASES))
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--seconds", type=float, default=10.0, help="length of the clip")
    options.add_argument("--build", type=Path, help="only save the geometry there")
    options.add_argument("--measure", type=Path, help="only measure what is saved there")
    args = options.parse_args()
    if args.build or args.measure:
        case = CASES[args.only]
        if args.build:
            build(case, args.build, args.quick)
        else:
            found = measure(case, args.measure, torch.device(args.device), args.seconds)
            print(json.dumps(found))
        return
    rows = [row for name in CASES for row in rows_of(name, args)]
    if args.quick:
        print(*rows, sep="\n")
        return
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
