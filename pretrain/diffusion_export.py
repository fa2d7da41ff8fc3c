"""Write ``pocket-diffusion`` as the folder that ``StableAudioPipeline.from_pretrained`` reads: float16 weights."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import soundfile as sf
import torch
from diffusers import StableAudioPipeline
from safetensors.torch import load_file, save_file

from pretrain import checkpoint
from pretrain.common import SAMPLE_RATE_HZ, log, parser, set_up, write_json
from pretrain.diffusion_autoencoder import FINISHED, build_autoencoder
from pretrain.diffusion_card import write_card, write_partial_card
from pretrain.diffusion_encode import load_autoencoder
from pretrain.diffusion_model import WINDOW_S, Denoiser, build_denoiser, scheduler, tokenizer_of
from pretrain.export import SAMPLES

OUT = Path("src/tunesmith/pocket/diffusion")
_LIMIT_BYTES = 25_000_000
# Read once while choosing, on prompts of no measurement: guidances from 2.5 to 7, 12 to 25 steps.
GUIDANCE, STEPS = 4.0, 16
_EVERYWHERE = ["q", "k", "v", "o", "up", "down"]
_SHORT: dict[str, Any] = {"train.steps": 80, "train.batch_size": 8}
_LORA: dict[str, Any] = {"train.lr": 4e-3, "method.targets": _EVERYWHERE, **_SHORT}
_NOTES: dict[str, Any] = {
    "max_s": WINDOW_S,
    "licence": "Apache-2.0",
    "guidance": GUIDANCE,
    "steps": STEPS,
    # Far above a large model's rates: so small a one moves little a step, and forgets little of little.
    "defaults": {
        "lora": _LORA,
        "full": {"train.lr": 2e-4, "train.epochs": 10, "train.batch_size": 8},
        "bottleneck": {"train.lr": 5e-3, **_SHORT},
        # Vectors in self-attention begin as those of one time and are read at all: the loss jumps.
        "prefix": {"train.lr": 1e-2, "method.roles": ["cross_attention"], **_SHORT},
        "textual_inversion": {"train.lr": 0.3, "method.vectors": 32, **_SHORT},
        "dreambooth": _SHORT,
    },
    "recipes": {
        **dict.fromkeys(("genre", "style", "instrument"), _LORA),
        "instrument/dreambooth": {**_LORA, "prior.clips": 16},
        "quality": {**_LORA, "train.lr": 1e-3},
        "inpaint": {"train.lr": 3e-4, "train.steps": 1000, "train.batch_size": 8},
    },
}


def newest(work: Path, seed: int) -> tuple[StableAudioPipeline, str]:
    """The pipeline of a work folder (averaged weights), and how far it has come, in words."""
    model: Denoiser = build_denoiser(seed)
    state = "transformer random"
    if (work / "diffusion.safetensors").exists():
        counters, averages = checkpoint.load(work / "diffusion.safetensors", model)
        assert not model.load_state_dict(averages, strict=False).unexpected_keys
        state = f"transformer after {counters['step']:.0f} steps"
    parts: Any = model.eval()
    pipe = StableAudioPipeline(
        vae=load_autoencoder(work, seed),
        text_encoder=parts.text_encoder,
        projection_model=parts.projection_model,
        tokenizer=tokenizer_of(),  # pyright: ignore[reportArgumentType] - any that is called the same way
        transformer=parts.transformer,
        scheduler=scheduler(),  # pyright: ignore[reportArgumentType]
    )
    return pipe, state


def export(
    pipe: StableAudioPipeline, state: str, work: Path, out: Path, sampled: bool = False
) -> None:
    """Write weights, configs, tokenizer, samples if wanted, and model card to ``out``, replacing what is there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "model"
        pipe.save_pretrained(folder, safe_serialization=True)
        for weights in folder.glob("*/*.safetensors"):
            _halve(weights)
        samples = _write_samples(folder) if sampled else []
        write_card(folder, work, pipe, state, samples, steps=STEPS, guidance=GUIDANCE)
        write_json(folder / "tunesmith.json", _NOTES)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        assert size <= _LIMIT_BYTES, f"the folder takes {size} bytes"
        old = Path(temporary) / "old"
        if out.exists():
            os.rename(out, old)
        os.rename(folder, out)
        shutil.rmtree(old, ignore_errors=True)
    log(f"export: {state}, {size / 1e6:.1f} MB in {out}")


def export_parts(work: Path, seed: int, out: Path) -> None:
    """What stands before the transformer is trained: autoencoder, scheduler, tokenizer. No ``model_index.json``."""
    vae: Any = load_autoencoder(work, seed)
    counters, _ = checkpoint.load(work / f"{FINISHED}.safetensors", build_autoencoder(seed))
    state = f"autoencoder after {counters['step']:.0f} steps"
    out.mkdir(parents=True, exist_ok=True)
    vae.save_pretrained(out / "vae", safe_serialization=True)
    _halve(out / "vae" / "diffusion_pytorch_model.safetensors")
    scheduler().save_pretrained(out / "scheduler")
    tokenizer_of().save_pretrained(out / "tokenizer")
    write_partial_card(out, work, vae, state)
    write_json(out / "tunesmith.json", _NOTES)
    log(f"export: {state} in {out}")


def _halve(path: Path) -> None:
    """Store floats as float16; a plain load widens them."""
    halved = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
    for name, value in halved.items():
        assert not value.is_floating_point() or torch.isfinite(value).all(), (
            f"{name} overflows float16"
        )
    save_file(halved, path, metadata={"format": "pt"})
    path.chmod(0o644)


def sound_of(
    pipe: Any, prompts: list[str], seeds: list[int], guidance: float = GUIDANCE, steps: int = STEPS
) -> torch.Tensor:
    """Five seconds for each prompt, [B, T]; each from its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    made = pipe(
        prompts,
        audio_end_in_s=5.0,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators,
    )
    return made.audios[:, 0]


@torch.no_grad()
def _write_samples(folder: Path) -> list[tuple[str, str]]:
    """Five seconds for each of ``SAMPLES``, first seed, nothing picked; (path in the folder, prompt)."""
    pipe: Any = StableAudioPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    audio = sound_of(pipe, list(SAMPLES), list(range(len(SAMPLES))))
    (folder / "samples").mkdir()
    made = []
    for prompt, sound in zip(SAMPLES, audio.numpy(), strict=True):
        path = f"samples/{re.sub('[^a-z]+', '-', prompt.lower())}.ogg"
        peak = max(1.0, float(abs(sound).max()) / 0.98)
        sf.write(folder / path, sound / peak, SAMPLE_RATE_HZ, format="OGG", subtype="VORBIS")
        made.append((path, prompt))
    return made


@torch.no_grad()
def verify(out: Path) -> None:
    """A plain load is float32, has latents of unit variance, and makes sound of the length asked for."""
    pipe: Any = StableAudioPipeline.from_pretrained(out)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.vae, pipe.text_encoder, pipe.projection_model, pipe.transformer):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    audio = sound_of(pipe, ["slow blues, electric guitar", "a bright waltz"], [0, 1], steps=10)
    assert torch.isfinite(audio).all()
    assert audio.shape == (2, 5 * SAMPLE_RATE_HZ)
    rms = audio.pow(2).mean().sqrt().item()
    log(f"verify: audio {list(audio.shape)}, rms {rms:.4f}")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--out", type=Path, default=OUT)
    p.add_argument("--parts", action="store_true", help="only what stands without transformer")
    p.add_argument("--no-samples", action="store_true", help="weights and card only")
    args = p.parse_args()
    set_up(args)
    if args.parts:
        export_parts(args.work, args.seed, args.out)
        return
    export(*newest(args.work, args.seed), args.work, args.out, sampled=not args.no_samples)
    verify(args.out)


if __name__ == "__main__":
    main()
