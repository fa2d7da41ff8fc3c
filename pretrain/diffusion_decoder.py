"""Train the autoencoder's decoder further on cached latents, while the encoder stays as it is.

The latents do not change, so this runs beside the transformer's training or after it. The result,
``diffusion_decoder.safetensors``, is laid over the autoencoder by ``load_autoencoder``. Curve:
``logs/diffusion_decoder.jsonl``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain import checkpoint, render
from pretrain.common import append_jsonl, log, parser, set_up
from pretrain.diffusion_autoencoder import (
    BATCH,
    CLIP_NORM,
    CROP_FRAMES,
    DECODER_CHANNELS,
    ENCODER_CHANNELS,
    FRAME_RATE_HZ,
    GPU_BATCH,
    HOP,
    SAVE_EVERY_S,
    SPECTRAL_FULL,
    loss_terms,
)
from pretrain.diffusion_encode import DECODER, load_autoencoder
from pretrain.spectral import mel_distance, si_sdr_db

RATE, WARM_UP, COOL_FROM, FINAL_SHARE, AVERAGE = 7e-4, 50, 0.5, 0.02, 0.99
EVALUATE_EVERY = 250
# More log-mel distance than waveform error: which phases the latents hold is settled.
WEIGHTS = (0.5, 2.0, 0.75)
# Latents have unit variance, and none that the transformer draws is exact: the decoder learns to bear it.
MOST_NOISE = 0.1


class Pairs:
    """Latents float16 [N, 24, 500] and audio int16 [N, 160000] of the same clips, shard by shard."""

    def __init__(self, work: Path, split: str) -> None:
        stems = render.whole_shards(work / "clips", split)
        stems = [s for s in stems if (work / "latents" / f"{s.name}.npy").exists()]
        self.audio = [
            np.load(s.with_suffix(".npy"), mmap_mode="r", allow_pickle=False) for s in stems
        ]
        self.latents = [
            np.load(work / "latents" / f"{s.name}.npy", allow_pickle=False) for s in stems
        ]

    def batch(
        self, seed: int, step: int, size: int, frames: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, 24, T] and audio [B, 320 T] in [-1, 1]: a function of seed and step alone."""
        draw = np.random.default_rng((seed, 5, step))
        latents, audio = [], []
        for _ in range(size):
            which = draw.integers(len(self.latents))
            clip = draw.integers(len(self.latents[which]))
            start = draw.integers(self.latents[which].shape[-1] - frames)
            latents.append(self.latents[which][clip, :, start : start + frames])
            audio.append(self.audio[which][clip, start * HOP : (start + frames) * HOP])
        return (
            torch.from_numpy(np.stack(latents).astype(np.float32)),
            torch.from_numpy(np.stack(audio).astype(np.float32) / 32768),
        )


@torch.no_grad()
def evaluate(decoder: Any, pairs: Pairs) -> dict[str, float]:
    """Mel distance (log10) and SI-SDR (dB) of 24 validation crops of 4 s decoded from their latents."""
    latents, audio = pairs.batch(0, 0, 24, 4 * FRAME_RATE_HZ)
    device = next(decoder.parameters()).device
    latents, audio = latents.to(device), audio.to(device)
    made = torch.cat([decoder(z[None])[:, 0] for z in latents])
    return {
        "valid_mel_distance": mel_distance(made, audio),
        "valid_si_sdr_db": si_sdr_db(made, audio),
    }


def train(
    work: Path,
    steps: int,
    minutes: float,
    seed: int,
    compiled: bool = False,
    sizes: tuple[int, int] = (ENCODER_CHANNELS, DECODER_CHANNELS),
    device: str = "cpu",
) -> None:
    """Train until ``steps`` or ``minutes`` of training time, whichever is first."""
    path, curve = work / f"{DECODER}.safetensors", work / "logs" / f"{DECODER}.jsonl"
    pairs, held = Pairs(work, "train"), Pairs(work, "valid")
    decoder: Any = load_autoencoder(work, seed, sizes).decoder.train().to(device)
    batch_size = BATCH if device == "cpu" else GPU_BATCH
    weights = dict(decoder.named_parameters())
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=RATE, betas=(0.9, 0.99))
    averages = {n: p.detach().clone() for n, p in weights.items()}
    counters: dict[str, float] = {"step": 0, "trained_s": 0.0}
    if path.exists():
        counters, loaded = checkpoint.load(path, decoder, optimizer)
        averages = {n: loaded[n].to(device) for n in weights}
        log(f"{DECODER}: resumed at step {counters['step']:.0f}")
    run = torch.compile(decoder) if compiled else decoder
    last_save = before = time.monotonic()
    while True:
        step = int(counters["step"])
        progress = max(step / steps, counters["trained_s"] / max(60 * minutes, 1e-9))
        if progress >= 1:
            break
        fall = 1.0 if progress < COOL_FROM else (1 - progress) / (1 - COOL_FROM)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * max(fall, FINAL_SHARE)
        latents, audio = pairs.batch(seed, step, batch_size, CROP_FRAMES)
        latents, audio = latents.to(device), audio.to(device)
        draw = torch.Generator(device).manual_seed(seed + step)
        noise = torch.randn(latents.shape, generator=draw, device=device)
        size = MOST_NOISE * torch.rand((len(latents), 1, 1), generator=draw, device=device)
        made = run(latents + size * noise)[:, 0]
        loss = loss_terms(made, audio, SPECTRAL_FULL, WEIGHTS)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), CLIP_NORM)
        optimizer.step()
        weight = 1 - min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(averages.values()), list(weights.values()), weight)
        now = time.monotonic()
        counters = {"step": step + 1, "trained_s": counters["trained_s"] + now - before}
        before = now
        if (step + 1) % 25 == 0:
            row = {
                "step": step + 1,
                "trained_s": round(counters["trained_s"], 1),
                "loss": round(loss.item(), 4),
                "train_mel_distance": mel_distance(made.detach(), audio),
            }
            if (step + 1) % EVALUATE_EVERY == 0:
                live = {n: p.detach().clone() for n, p in weights.items()}
                _overwrite(weights, averages)
                row |= evaluate(decoder, held)
                _overwrite(weights, live)
                log(f"{DECODER}: " + " ".join(f"{k}={v:.4g}" for k, v in row.items()))
            append_jsonl(curve, row)
        if now - last_save > SAVE_EVERY_S:
            checkpoint.save(path, decoder, optimizer, counters, averages)
            last_save = now
    checkpoint.save(path, decoder, optimizer, counters, averages)
    log(f"{DECODER}: done after {counters['step']:.0f} steps, {counters['trained_s'] / 60:.1f} min")


@torch.no_grad()
def _overwrite(weights: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=5000)
    p.add_argument("--minutes", type=float, default=600.0)
    p.add_argument("--compile", action="store_true", help="compile the decoder first")
    args = p.parse_args()
    set_up(args)
    train(args.work, args.steps, args.minutes, args.seed, args.compile, device=args.device)


if __name__ == "__main__":
    main()
