"""Encode all clips to the latents of ``pocket-diffusion``'s autoencoder: ``latents/<shard>.npy``.

``--vae FOLDER`` begins with an autoencoder that stands in diffusers' layout, such as the shipped one.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderOobleck

from pretrain import checkpoint, render
from pretrain.common import log, parser, set_up, write_array
from pretrain.diffusion_autoencoder import (
    DECODER_CHANNELS,
    ENCODER_CHANNELS,
    FINISHED,
    HOP,
    WINDOW,
    build_autoencoder,
    posterior,
)

DECODER = "diffusion_decoder"
_encoder: Any = None  # of a worker


def adopt(work: Path, folder: Path) -> None:
    """Make the autoencoder of ``folder`` that of the work folder; an error if that has another one already."""
    model: Any = AutoencoderOobleck.from_pretrained(folder)
    path = work / f"{FINISHED}.safetensors"
    if path.exists():
        other: Any = build_autoencoder(0)
        checkpoint.load(path, other)
        mine = other.state_dict()
        if not all(torch.equal(mine[k], v) for k, v in model.state_dict().items()):
            raise SystemExit(f"{path} is not the autoencoder of {folder}: remove it and latents/")
        return
    checkpoint.save(path, model, None, {"step": 0})


def load_autoencoder(
    work: Path, seed: int, sizes: tuple[int, int] = (ENCODER_CHANNELS, DECODER_CHANNELS)
) -> AutoencoderOobleck:
    """The finished autoencoder, with the decoder trained further where there is one; evaluation mode."""
    model: Any = build_autoencoder(seed, *sizes)
    checkpoint.load(work / f"{FINISHED}.safetensors", model)
    if (work / f"{DECODER}.safetensors").exists():
        _, averages = checkpoint.load(work / f"{DECODER}.safetensors", model.decoder)
        model.decoder.load_state_dict(averages)
    return model.eval()


def _begin(work: Path, seed: int, compiled: bool) -> None:
    """Ready a worker: one thread each, for two clips at a time would not fit the caches."""
    global _encoder
    torch.set_num_threads(1)
    model: Any = load_autoencoder(work, seed)
    _encoder = torch.compile(model.encoder) if compiled else model.encoder


@torch.no_grad()
def means(audio: np.ndarray) -> np.ndarray:
    """Mean latents float32 [24, T] of int16 audio [320 T]."""
    sound = torch.from_numpy(audio.astype(np.float32) / 32768)
    return posterior(_encoder(sound[None, None]))[0][0].numpy()


@torch.no_grad()
def _means_on(device: str, encoder: Any, clips: np.ndarray, size: int = 25) -> np.ndarray:
    """Mean latents float32 [N, 24, T] of int16 audio [N, 320 T], ``size`` clips at a time."""
    made = []
    for start in range(0, len(clips), size):
        sound = torch.from_numpy(clips[start : start + size].astype(np.float32) / 32768)
        made.append(posterior(encoder(sound[:, None].to(device)))[0].cpu().numpy())
    return np.concatenate(made)


def _encode(stem: Path, target: Path) -> str:
    clips = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    latents = np.stack([means(clip) for clip in clips])
    write_array(target, latents.astype(np.float16))
    return f"latents {stem.name}: {latents.shape}, rms {np.sqrt(np.mean(latents**2)):.3f}"


def encode_all(
    work: Path,
    seed: int,
    processes: int,
    compiled: bool = False,
    shards: int | None = None,
    device: str = "cpu",
) -> None:
    """Mean latents of every clip, float16 [N, 24, 500], and of a window of silence; whole files are kept.

    ``shards`` is how many of the training split, of 125 clips each; all by default. A GPU takes many clips
    at a time, in this process.
    """
    folder = work / "latents"
    stems = render.whole_shards(work / "clips", "valid")
    stems += render.whole_shards(work / "clips", "train")[:shards]
    jobs = [(s, folder / f"{s.name}.npy") for s in stems]
    jobs = [job for job in jobs if not job[1].exists()]
    _begin(work, seed, compiled=False)
    write_array(folder / "silence.npy", means(np.zeros(WINDOW * HOP, np.int16)))  # [24, 256]
    if device != "cpu":
        encoder = _encoder.to(device)
        for stem, target in jobs:
            clips = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            write_array(target, _means_on(device, encoder, clips).astype(np.float16))
        log(f"latents: {len(jobs)} shards")
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _begin, (work, seed, compiled)) as pool:
        for told in pool.map(_encode, *zip(*jobs, strict=True)) if jobs else ():
            log(told)


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--vae", type=Path, default=None, help="begin with this folder's autoencoder")
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--compile", action="store_true", help="compile the encoder first")
    p.add_argument("--shards", type=int, default=None, help="of the training split; default all")
    args = p.parse_args()
    set_up(args)
    if args.vae is not None:
        adopt(args.work, args.vae)
    encode_all(args.work, args.seed, args.processes, args.compile, args.shards, args.device)


if __name__ == "__main__":
    main()
