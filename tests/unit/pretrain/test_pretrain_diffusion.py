"""The diffusion base's training: resumed exactly, the pipeline's conventions, latents of unit variance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

pytest.importorskip("mido", reason="the composer's extra is not installed")

from diffusers import StableAudioPipeline

from pretrain import (
    checkpoint,
    diffusion,
    diffusion_autoencoder,
    diffusion_decoder,
    diffusion_encode,
    diffusion_model,
)
from pretrain.compose import compose
from pretrain.diffusion_autoencoder import FINISHED, FRAME_RATE_HZ, HOP, NAME, WINDOW, posterior

pytestmark = [
    # diffusers builds its autoencoder with a function that torch deprecates,
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning"),
    # and asks its noise sampler for what rounding leaves of a bound.
    pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning"),
]
TINY, LATENT = (16, 8), 8


class Stopped(Exception):
    pass


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Three clips of noise and their latents for each split."""
    rng = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    (tmp_path / "latents").mkdir()
    for split, first in (("train", 0), ("valid", 1_000_000)):
        pieces = [compose(seed) for seed in range(first, first + 3)]
        noise = rng.normal(0, 2000, (3, 160_000)).astype(np.int16)
        np.save(tmp_path / "clips" / f"{split}-0000.npy", noise)
        latents = rng.normal(0, 1, (3, LATENT, 500)).astype(np.float16)
        np.save(tmp_path / "latents" / f"{split}-0000.npy", latents)
        rows = [{"captions": p.captions, "labels": asdict(p.labels)} for p in pieces]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "clips" / f"{split}-0000.jsonl").write_text(text)
    np.save(tmp_path / "latents" / "silence.npy", np.full((LATENT, WINDOW), 9.0, np.float32))
    return tmp_path


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def whole_and_parts(
    path: Path, train: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What a stage saves when it runs through, and when it is stopped after its first step."""
    train()
    found = tensors(path)
    path.unlink()
    saved = checkpoint.save

    def save_and_stop(*args: Any) -> None:
        saved(*args)
        raise Stopped

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(Stopped):
        train()
    monkeypatch.setattr(checkpoint, "save", saved)
    train()
    return found, tensors(path)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_autoencoder_goes_on_exactly(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion_autoencoder, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(diffusion_autoencoder, "BATCH", 1)

    def train() -> None:
        diffusion_autoencoder.train(work, 3, 1e6, 0, sizes=TINY)

    assert same(*whole_and_parts(work / f"{NAME}.safetensors", train, monkeypatch))


def test_the_decoder_alone_goes_on_exactly(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion_decoder, "SAVE_EVERY_S", -1.0)
    begun = diffusion_autoencoder.build_autoencoder(0, *TINY)
    checkpoint.save(work / f"{FINISHED}.safetensors", begun, None, {"step": 1})

    def train() -> None:
        diffusion_decoder.train(work, 3, 1e6, 0, sizes=TINY)

    path = work / f"{diffusion_encode.DECODER}.safetensors"
    assert same(*whole_and_parts(path, train, monkeypatch))


def test_the_transformer_goes_on_exactly(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(diffusion, "BATCH", 4)

    def train() -> None:
        diffusion.train(work, 3, 1e6, 0, None, diffusion_model.Size(layers=1, heads=2))

    assert same(*whole_and_parts(work / "diffusion.safetensors", train, monkeypatch))


@torch.no_grad()
def test_finished_latents_have_unit_variance_and_sound_the_same(work: Path) -> None:
    model: Any = diffusion_autoencoder.build_autoencoder(0, *TINY)
    audio = torch.randn(1, 1, WINDOW * HOP, generator=torch.Generator().manual_seed(0)) * 0.06
    diffusion_autoencoder.unit_variance(model, audio)
    model.encoder.conv2.weight_g *= 3.0
    checkpoint.save(work / f"{NAME}.safetensors", model, None, {"step": 1})
    diffusion_autoencoder.finish(work, 0, TINY, windows=4)
    done: Any = diffusion_autoencoder.build_autoencoder(0, *TINY)
    checkpoint.load(work / f"{FINISHED}.safetensors", done)
    before, after = (posterior(m.encoder(audio))[0] for m in (model, done))
    assert before.std() > 2
    assert after.std() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(done.decoder(after), model.decoder(before), rtol=1e-4, atol=1e-5)


def test_an_autoencoder_in_the_folders_layout_begins_a_work_folder(work: Path) -> None:
    model: Any = diffusion_autoencoder.build_autoencoder(3, *TINY)
    model.save_pretrained(work / "vae")
    diffusion_encode.adopt(work, work / "vae")
    found: Any = diffusion_encode.load_autoencoder(work, 0, TINY)
    assert same(dict(model.state_dict()), dict(found.state_dict()))


def test_a_window_that_ends_early_ends_in_silence(work: Path) -> None:
    corpus = diffusion.Corpus(work, "train", diffusion_model.tokenizer_of())
    batch = corpus.batch(0, 0, 64)
    short = [i for i in range(64) if batch["seconds"][i] < diffusion_model.WINDOW_S]
    assert 0 < len(short) < 32
    for index in range(64):
        sounding = min(WINDOW, math.ceil(float(batch["seconds"][index]) * FRAME_RATE_HZ - 1e-4))
        silent = (batch["latents"][index] == 9).all(dim=0)
        assert silent.sum() == WINDOW - sounding
        assert not silent[:sounding].any()


@torch.no_grad()
def test_the_loss_asks_as_the_pipeline_asks() -> None:
    """Same prompt, same x_t: the transformer is called with what ``StableAudioPipeline`` calls it with."""
    size = diffusion_model.Size(layers=1, heads=2)
    model: Any = diffusion_model.build_denoiser(0, size, LATENT).eval()
    for block in model.transformer.transformer_blocks:
        block.attn2.to_out[0].reset_parameters()  # a fresh branch says nothing
    pipe = StableAudioPipeline(
        vae=diffusion_autoencoder.build_autoencoder(0, 2 * LATENT, 8),
        text_encoder=model.text_encoder,
        projection_model=model.projection_model,
        tokenizer=diffusion_model.tokenizer_of(),  # pyright: ignore[reportArgumentType]
        transformer=model.transformer,
        scheduler=diffusion_model.scheduler(),  # pyright: ignore[reportArgumentType]
    )
    pipe.set_progress_bar_config(disable=True)
    asked: list[tuple[tuple[Any, ...], dict[str, Any], torch.Tensor]] = []

    def listen(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        asked.append((args, kwargs, output[0]))

    handle = model.transformer.register_forward_hook(listen, with_kwargs=True)
    seconds, prompt = 3.0, "slow blues, distorted guitar"
    pipe(
        prompt,
        audio_end_in_s=seconds,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
    )
    handle.remove()
    (noisy, t), _, said = asked[0]
    text = diffusion_model.tokenizer_of()(
        [prompt, prompt], padding="max_length", max_length=64, truncation=True, return_tensors="pt"
    )
    ours = model(
        noisy,
        t.expand(2),
        text["input_ids"],
        text["attention_mask"],
        torch.tensor([seconds, seconds]),
        torch.tensor([False, True]),
    )
    assert (said[0] - said[1]).abs().max() > 1e-4
    torch.testing.assert_close(ours, said, rtol=1e-5, atol=1e-6)
