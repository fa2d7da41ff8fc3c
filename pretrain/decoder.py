"""Train the codec's decoder further on cached codes, while encoder and codebooks stay as they are.

The codes do not change, so this can run beside the language model's training or after it. The result,
``decoder.safetensors``, is laid over ``codec.safetensors`` by ``codec.load_codec``. Curve: ``logs/decoder.jsonl``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain import checkpoint, render
from pretrain.codec import BATCH, CLIP_NORM, SAVE_EVERY_S, load_codec
from pretrain.codec_model import HOP
from pretrain.common import append_jsonl, autocast, log, parser, set_up
from pretrain.spectral import mel_distance, si_sdr_db, spectral_terms, waveform_error

RATE, WARM_UP, COOL_FROM, AVERAGE = 6e-4, 50, 0.5, 0.99
CROP_FRAMES, EVALUATE_EVERY = 75, 200
FLOOR = 3e-5


class Pairs:
    """Codes int16 [N, 4, 500] and audio int16 [N, 160000] of the same clips, shard by shard."""

    def __init__(self, work: Path, split: str) -> None:
        stems = render.whole_shards(work / "clips", split)
        stems = [s for s in stems if (work / "codes" / f"{s.name}.npy").exists()]
        self.audio = [
            np.load(s.with_suffix(".npy"), mmap_mode="r", allow_pickle=False) for s in stems
        ]
        self.codes = [np.load(work / "codes" / f"{s.name}.npy", allow_pickle=False) for s in stems]

    def batch(
        self, seed: int, step: int, size: int, frames: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes [4, B, T] and audio [B, 320 T] in [-1, 1]: a function of seed and step alone."""
        draw = np.random.default_rng((seed, 5, step))
        codes, audio = [], []
        for _ in range(size):
            which = draw.integers(len(self.codes))
            clip = draw.integers(len(self.codes[which]))
            start = draw.integers(self.codes[which].shape[-1] - frames)
            codes.append(self.codes[which][clip, :, start : start + frames])
            audio.append(self.audio[which][clip, start * HOP : (start + frames) * HOP])
        together = torch.from_numpy(np.stack(codes, axis=1).astype(np.int64))
        return together, torch.from_numpy(np.stack(audio).astype(np.float32) / 32768)


def loss_of(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Above all the log-mel distance: more than half of what is wrong with the codec's sound is noise where the
    music is quiet, which waveform error and spectral convergence do not see. Audio [B, T].
    """
    log_term, convergence = spectral_terms(made, real, FLOOR)
    return 3.0 * log_term + 0.3 * convergence + 0.3 * waveform_error(made, real)


@torch.no_grad()
def evaluate(codec: Any, pairs: Pairs, device: str) -> dict[str, float]:
    """Mel distance (log10) and SI-SDR (dB) of 32 validation crops of 4 s decoded from their codes."""
    codes, audio = (x.to(device) for x in pairs.batch(0, 0, 32, 200))
    latents = codec.quantizer.decode(codes)
    made = torch.cat([codec.decoder(z[None])[:, 0] for z in latents])
    return {
        "valid_mel_distance": mel_distance(made, audio),
        "valid_si_sdr_db": si_sdr_db(made, audio),
    }


def train(work: Path, steps: int, minutes: float, seed: int, device: str = "cpu") -> None:
    """Train until ``steps`` or ``minutes`` of training time, whichever is first."""
    path, curve = work / "decoder.safetensors", work / "logs" / "decoder.jsonl"
    pairs, held = Pairs(work, "train"), Pairs(work, "valid")
    codec: Any = load_codec(work, seed)
    codec.to(device).train()
    codec.encoder.requires_grad_(False)
    weights = dict(codec.decoder.named_parameters())
    optimizer = torch.optim.AdamW(codec.decoder.parameters(), lr=RATE, betas=(0.9, 0.99))
    averages = {n: p.detach().clone() for n, p in weights.items()}
    counters: dict[str, float] = {"step": 0, "trained_s": 0.0}
    if path.exists():
        counters, loaded = checkpoint.load(path, codec.decoder, optimizer)
        averages = {n: loaded[n].to(device) for n in weights}
        log(f"decoder: resumed at step {counters['step']:.0f}")
    last_save = before = time.monotonic()
    while True:
        step = int(counters["step"])
        progress = max(step / steps, counters["trained_s"] / max(60 * minutes, 1e-9))
        if progress >= 1:
            break
        fall = 1.0 if progress < COOL_FROM else (1 - progress) / (1 - COOL_FROM)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * max(fall, 0.02)
        codes, audio = (x.to(device) for x in pairs.batch(seed, step, BATCH, CROP_FRAMES))
        with torch.no_grad():
            latents = codec.quantizer.decode(codes)
        with autocast(device):
            made = codec.decoder(latents)[:, 0].float()
        loss = loss_of(made, audio)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.decoder.parameters(), CLIP_NORM)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(averages.values()), list(weights.values()), 1 - AVERAGE)
        now = time.monotonic()
        counters = {"step": step + 1, "trained_s": counters["trained_s"] + now - before}
        before = now
        if (step + 1) % 25 == 0:
            row = {"step": step + 1, "trained_s": round(counters["trained_s"], 1)}
            row |= {
                "loss": round(loss.item(), 4),
                "train_mel_distance": mel_distance(made.detach(), audio),
            }
            if (step + 1) % EVALUATE_EVERY == 0:
                live = {n: p.detach().clone() for n, p in weights.items()}
                _overwrite(weights, averages)
                row |= evaluate(codec, held, device)
                _overwrite(weights, live)
                log("decoder: " + " ".join(f"{k}={v:.4g}" for k, v in row.items()))
            append_jsonl(curve, row)
        if now - last_save > SAVE_EVERY_S:
            checkpoint.save(path, codec.decoder, optimizer, counters, averages)
            last_save = now
    checkpoint.save(path, codec.decoder, optimizer, counters, averages)
    log(f"decoder: done after {counters['step']:.0f} steps, {counters['trained_s'] / 60:.1f} min")


@torch.no_grad()
def _overwrite(weights: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=4000)
    p.add_argument("--minutes", type=float, default=600.0)
    args = p.parse_args()
    set_up(args)
    train(args.work, args.steps, args.minutes, args.seed, args.device)


if __name__ == "__main__":
    main()
