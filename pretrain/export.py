"""Write the complete model folder that transformers reads: float16 weights that load as float32."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import soundfile as sf
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    EncodecFeatureExtractor,
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
)

from pretrain import checkpoint
from pretrain.card import write_card
from pretrain.codec import load_codec
from pretrain.common import log, parser, set_up, write_json
from pretrain.model import build_model, delayed, tokenizer_of

_LIMIT_BYTES = 25_000_000


# What the tool has to know of this base beside its weights. Its rates are higher than those of
# models a hundred times its size.
_ALL_LINEARS = ["q", "k", "v", "o", "up", "down"]
_SHORT = {"train.lr": 2e-3, "train.steps": 80, "train.batch_size": 8}
_NOTES: dict[str, Any] = {
    "max_s": 10.0,
    "licence": "Apache-2.0",
    "defaults": {
        "lora": {
            **_SHORT,
            "method.targets": _ALL_LINEARS,
        },
        "full": {"train.lr": 1e-4, "train.epochs": 10, "train.batch_size": 8},
        "bottleneck": {**_SHORT, "train.lr": 3e-3},
        "prefix": {**_SHORT, "train.lr": 3e-2},
        "textual_inversion": {**_SHORT, "train.lr": 0.6, "method.vectors": 32},
        "dreambooth": {"train.steps": 80, "train.batch_size": 8},
    },
    "recipes": {
        "genre": {**_SHORT, "method.targets": _ALL_LINEARS},
        "style": {**_SHORT, "method.targets": _ALL_LINEARS},
        "instrument": {**_SHORT, "method.targets": _ALL_LINEARS},
        "instrument/dreambooth": {**_SHORT, "method.targets": _ALL_LINEARS, "prior.clips": 16},
        "quality": {**_SHORT, "train.lr": 5e-4, "method.targets": _ALL_LINEARS},
    },
}


SAMPLES = (
    "bossa nova with flute, calm",
    "slow blues, distorted guitar, full band",
    "a bright waltz led by accordion",
    "baroque with violin, sparse accompaniment",
    "fast rock with electric guitar, backed by bass and drums",
    "ambient, synth lead, dreamy, 70 bpm",
)


def trained_model(work: Path, seed: int) -> tuple[MusicgenForConditionalGeneration, str]:
    """The newest model of a work folder (averaged weights), and how far it has come, in words."""
    has_codec = (work / "codec.safetensors").exists()
    codec = load_codec(work, seed) if has_codec else None
    model = build_model(seed, codec)
    if not (work / "lm.safetensors").exists():
        return model, "codec trained, language model random" if has_codec else "random weights"
    counters, averages = checkpoint.load(work / "lm.safetensors", model)
    missing = model.load_state_dict(averages, strict=False)
    assert not missing.unexpected_keys
    if codec is not None:
        parts: Any = model
        parts.audio_encoder.load_state_dict(codec.state_dict())
    return model, f"language model after {counters['step']:.0f} steps"


def write_folder(
    model: MusicgenForConditionalGeneration,
    work: Path,
    out: Path,
    state: str,
    sampled: bool = False,
) -> None:
    """Write weights, configs, tokenizer, samples if wanted, and model card to ``out``, replacing what is there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "model"
        model.float().eval().save_pretrained(folder)
        extractor = EncodecFeatureExtractor(
            feature_size=1, sampling_rate=16000, padding_value=0.0, padding_side="left"
        )
        MusicgenProcessor(extractor, tokenizer_of(work)).save_pretrained(folder)
        extractor.save_pretrained(folder)
        _halve(folder / "model.safetensors")
        samples = _write_samples(folder) if sampled else []
        write_card(folder, work, model, state, samples)
        write_json(folder / "tunesmith.json", _NOTES)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        assert size <= _LIMIT_BYTES, f"the folder takes {size} bytes"
        old = Path(temporary) / "old"
        if out.exists():
            os.rename(out, old)
        os.rename(folder, out)
        shutil.rmtree(old, ignore_errors=True)
    log(f"export: {state}, {size / 1e6:.1f} MB in {out}")


def _halve(path: Path) -> None:
    """Store floats as float16; the config goes on saying float32, so a plain load widens them."""
    halved = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
    for name, value in halved.items():
        assert not value.is_floating_point() or torch.isfinite(value).all(), (
            f"{name} overflows float16"
        )
    save_file(halved, path, metadata={"format": "pt"})
    path.chmod(0o644)
    config = path.with_name("config.json")
    values = json.loads(config.read_text(encoding="utf-8"))
    values["dtype"] = "float32"
    write_json(config, values)


@torch.no_grad()
def _write_samples(folder: Path) -> list[tuple[str, str]]:
    """Ten seconds for each of ``SAMPLES``, first seed, nothing picked; (path in the folder, prompt)."""
    model: Any = MusicgenForConditionalGeneration.from_pretrained(folder).eval()
    processor = MusicgenProcessor.from_pretrained(folder)
    torch.manual_seed(0)
    audio = model.generate(**processor(text=list(SAMPLES), padding=True, return_tensors="pt"))
    (folder / "samples").mkdir()
    made = []
    for prompt, sound in zip(SAMPLES, audio[:, 0].numpy(), strict=True):
        path = f"samples/{re.sub('[^a-z]+', '-', prompt.lower())}.ogg"
        peak = max(1.0, float(abs(sound).max()) / 0.98)
        sf.write(folder / path, sound / peak, 16000, format="OGG", subtype="VORBIS")
        made.append((path, prompt))
    return made


@torch.no_grad()
def verify(out: Path) -> None:
    """A plain load is float32 and makes sound; cached decoding equals teacher forcing to 1e-4."""
    model: Any = MusicgenForConditionalGeneration.from_pretrained(out).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    processor = MusicgenProcessor.from_pretrained(out)
    text = processor(
        text=["slow blues, electric guitar", "a bright waltz"], padding=True, return_tensors="pt"
    )
    torch.manual_seed(0)
    audio = model.generate(**text, max_new_tokens=103)
    rms = audio.pow(2).mean().sqrt().item()
    assert torch.isfinite(audio).all()
    assert audio.shape[:2] == (2, 1)
    codes = torch.randint(0, 512, (2, 4, 30), generator=torch.Generator().manual_seed(1))
    inputs, _ = delayed(codes)
    inputs = inputs.reshape(-1, inputs.shape[-1])
    states = model.text_encoder(**text).last_hidden_state
    same = {"encoder_outputs": (states,), "attention_mask": text["attention_mask"]}
    whole = model(**same, decoder_input_ids=inputs).logits
    cache, worst = None, 0.0
    for step in range(inputs.shape[1]):
        made = model(
            **same,
            decoder_input_ids=inputs[:, step : step + 1],
            past_key_values=cache,
            use_cache=True,
        )
        cache = made.past_key_values
        worst = max(worst, (made.logits[:, 0] - whole[:, step]).abs().max().item())
    assert worst <= 1e-4, f"cached decoding differs from teacher forcing by {worst}"
    log(
        f"verify: audio {list(audio.shape)}, rms {rms:.4f}; cached against teacher forcing {worst:.1e}"
    )


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--out", type=Path, default=Path("src/tunesmith/pocket/musicgen"))
    args = p.parse_args()
    set_up(args)
    model, state = trained_model(args.work, args.seed)
    write_folder(model, args.work, args.out, state, sampled=True)
    verify(args.out)


if __name__ == "__main__":
    main()
