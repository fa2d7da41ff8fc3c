"""Train text encoder, conditioning and transformer of ``pocket-diffusion`` together on cached latents.

Curve: ``logs/diffusion.jsonl``. Restarted, it goes on from the last checkpoint.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from pretrain import checkpoint, render
from pretrain.common import append_jsonl, log, parser, read_jsonl, set_up
from pretrain.diffusion_autoencoder import FRAME_RATE_HZ, WINDOW
from pretrain.diffusion_export import export, newest
from pretrain.diffusion_model import (
    TEXT_TOKENS,
    WINDOW_S,
    Denoiser,
    Size,
    build_denoiser,
    tokenizer_of,
)
from tunesmith.objectives import v_prediction
from tunesmith.objectives.timesteps import quantile
from tunesmith.objectives.velocity_loss import velocity_loss

BATCH, GPU_BATCH = 8, 128
LEARNING_RATE, WARM_UP, WEIGHT_DECAY, CLIP_NORM = 1e-3, 200, 0.01, 1.0
TEXT_SHARE = 0.3  # of the rate for the text encoder, which was trained before
COOL_FROM, FINAL_SHARE = 0.6, 0.02
CAPTION_DROPOUT, SHORT, SHORTEST_S = 0.12, 0.2, 1.0
# The middle is where there is most to learn, but half of the sampler's steps lie above t = 0.95 (sigma 12).
TIMESTEPS: dict[str, Any] = {"kind": "logit_normal", "mean": 0.4, "std": 1.5}
AVERAGE = 0.998
SAVE_EVERY_S, EVALUATE_EVERY, EXPORT_EVERY_S = 90.0, 300, 600.0
EVALUATED = 64  # clips of the validation split
NAME = "diffusion"


class Corpus:
    """Cached latents float16 [N, 24, 500], the captions of the same clips, and what silence looks like.

    All of it stands on the device that trains.
    """

    def __init__(
        self, work: Path, split: str, tokenizer: PreTrainedTokenizerFast, device: str = "cpu"
    ) -> None:
        stems = render.whole_shards(work / "clips", split)
        folder = work / "latents"
        stems = [s for s in stems if (folder / f"{s.name}.npy").exists()]
        latents = [np.load(folder / f"{s.name}.npy", allow_pickle=False) for s in stems]
        self.latents = torch.from_numpy(np.concatenate(latents)).to(device)
        rows = [row["captions"] for s in stems for row in read_jsonl(s.with_suffix(".jsonl"))]
        assert len(self.latents) == len(rows)
        silence = np.load(folder / "silence.npy", allow_pickle=False)
        self.silence = torch.from_numpy(silence).to(device)  # [24, 256]
        said = tokenizer(
            [caption for captions in rows for caption in captions],
            padding="max_length",
            max_length=TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        # Of clip i: rows first[i] to first[i] + count[i].
        self.count = np.array([len(captions) for captions in rows])
        self.first = np.cumsum(self.count) - self.count
        self.ids, self.mask = said["input_ids"].to(device), said["attention_mask"].to(device)

    def batch(self, seed: int, step: int, batch: int) -> dict[str, Any]:
        """Windows, conditions, noise and t: a function of the arguments (and of the kind of device) alone.

        ``latents`` and ``noise`` [B, 24, 256], ``ids`` and ``mask`` [B, 64], ``seconds`` [B], ``kept`` [B],
        ``t`` [B], one from each of B equal parts of its distribution.
        """
        draw = np.random.default_rng((seed, step))
        device = self.latents.device
        which = draw.integers(len(self.latents), size=batch)
        start = draw.integers(self.latents.shape[2] - WINDOW + 1, size=batch)
        short = draw.random(batch) < SHORT
        seconds = np.where(short, draw.uniform(SHORTEST_S, int(WINDOW_S), batch), WINDOW_S)
        text = self.first[which] + draw.integers(self.count[which])
        kept = draw.random(batch) >= CAPTION_DROPOUT
        share = (np.arange(batch) + draw.random(batch)) / batch
        columns = torch.arange(WINDOW, device=device)
        at = torch.from_numpy(start).to(device)[:, None] + columns
        windows = self.latents[torch.from_numpy(which).to(device)[:, None], :, at]
        frames = torch.from_numpy(np.ceil(seconds * FRAME_RATE_HZ - 1e-6)).to(device)
        sounds = (columns < frames[:, None])[:, None]
        latents = torch.where(sounds, windows.transpose(1, 2).float(), self.silence)
        rows = torch.from_numpy(text).to(device)
        own = torch.Generator(device).manual_seed(int(draw.integers(2**62)))
        return {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=own, device=device),
            "ids": self.ids[rows],
            "mask": self.mask[rows],
            "seconds": torch.from_numpy(seconds).float().to(device),
            "kept": torch.from_numpy(kept).to(device),
            "t": quantile(torch.from_numpy(share), **TIMESTEPS).float().to(device),
        }


def loss_of(model: Denoiser, batch: dict[str, Any]) -> torch.Tensor:
    """Squared error of the velocity, mean over each window, [B]."""
    latents, noise, t = batch["latents"], batch["noise"], batch["t"]
    noisy = v_prediction.add_noise(latents, noise, t)
    said = model(noisy, t, batch["ids"], batch["mask"], batch["seconds"], batch["kept"])
    sums, counts = velocity_loss(said, v_prediction.target(latents, noise, t))
    return sums / counts


def learning_rate(step: int, progress: float) -> float:
    """Linear warm-up, constant, then a cosine to 2 % of the peak from ``COOL_FROM`` of the budget on."""
    fall = 1.0
    if progress > COOL_FROM:
        along = min((progress - COOL_FROM) / (1 - COOL_FROM), 1.0)
        fall = FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * along))
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * fall


@torch.no_grad()
def evaluate(model: Denoiser, corpus: Corpus) -> dict[str, float]:
    """Validation loss at evenly spread t, under the right captions, other clips', and none."""
    model.eval()
    found: dict[str, list[torch.Tensor]] = {"right": [], "wrong": [], "none": []}
    for step in range(EVALUATED // 16):
        batch = corpus.batch(99, step, 16)
        batch["t"] = (torch.arange(16, device=batch["t"].device) + 0.5) / 16
        batch["kept"] = torch.ones_like(batch["kept"])
        other = {k: batch[k].roll(5, 0) for k in ("ids", "mask")}
        found["right"].append(loss_of(model, batch))
        found["wrong"].append(loss_of(model, batch | other))
        found["none"].append(loss_of(model, batch | {"kept": ~batch["kept"]}))
    model.train()
    at = torch.stack(found["right"]).mean(0)  # [16], by t
    figures = {f"valid_{k}": torch.stack(v).mean().item() for k, v in found.items()}
    quarters = {f"valid_t{k}": at[4 * k : 4 * k + 4].mean().item() for k in range(4)}
    return figures | quarters


def train(
    work: Path,
    steps: int,
    minutes: float,
    seed: int,
    out: Path | None,
    size: Size | None = None,
    device: str = "cpu",
) -> None:
    """Train until ``steps`` or ``minutes`` of training time, whichever is first; export to ``out`` on the way."""
    path, curve = work / f"{NAME}.safetensors", work / "logs" / f"{NAME}.jsonl"
    tokenizer = tokenizer_of()
    corpus = Corpus(work, "train", tokenizer, device)
    held = Corpus(work, "valid", tokenizer, device)
    windows = BATCH if device == "cpu" else GPU_BATCH
    model = build_denoiser(seed, size, latent=corpus.latents.shape[1]).to(device)
    model.train()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    groups = []
    for of_text in (False, True):
        own = {n: p for n, p in named.items() if n.startswith("text_encoder") == of_text}
        share = TEXT_SHARE if of_text else 1.0
        for decays in (True, False):
            some = [p for n, p in own.items() if (p.ndim > 1 and "shared" not in n) == decays]
            groups.append(
                {"params": some, "weight_decay": WEIGHT_DECAY if decays else 0.0, "share": share}
            )
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    averages = {n: p.detach().clone() for n, p in named.items()}
    counters: dict[str, float] = {"step": 0, "trained_s": 0.0}
    if path.exists():
        counters, averages = checkpoint.load(path, model, optimizer)
        averages = {
            n: averages[n].to(device) for n in named
        }  # files sort by name, parameters do not
        log(f"{NAME}: resumed at step {counters['step']:.0f}")
    count = sum(p.numel() for p in named.values())
    log(f"{NAME}: {count / 1e6:.2f} M parameters train on {len(corpus.latents)} clips")
    last_save = last_export = before = time.monotonic()
    running: list[torch.Tensor] = []
    while True:
        step = int(counters["step"])
        progress = max(step / steps, counters["trained_s"] / (60 * minutes))
        if progress >= 1:
            break
        rate = learning_rate(step, progress)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        loss = loss_of(model, corpus.batch(seed, step, windows)).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(named.values()), CLIP_NORM)
        optimizer.step()
        weight = 1 - min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(averages.values()), list(named.values()), weight)
        now = time.monotonic()
        counters = {"step": step + 1, "trained_s": counters["trained_s"] + now - before}
        before = now
        running.append(loss.detach())
        if (step + 1) % 25 == 0:
            row = {"step": step + 1, "trained_s": round(counters["trained_s"], 1)}
            row |= {"train_loss": round(torch.stack(running).mean().item(), 4), "lr": rate}
            row |= {"grad_norm": round(norm.item(), 3)}
            running = []
            if (step + 1) % EVALUATE_EVERY == 0:
                _swap(named, averages)
                row |= evaluate(model, held)
                _swap(named, averages)
                log(f"{NAME}: " + " ".join(f"{k}={v:.4g}" for k, v in row.items()))
            append_jsonl(curve, row)
        if now - last_save > SAVE_EVERY_S:
            checkpoint.save(path, model, optimizer, counters, averages)
            last_save = now
            if out is not None and now - last_export > EXPORT_EVERY_S:
                export(*newest(work, seed), work, out)
                last_export = now
    checkpoint.save(path, model, optimizer, counters, averages)
    log(f"{NAME}: done after {counters['step']:.0f} steps, {counters['trained_s'] / 60:.1f} min")


@torch.no_grad()
def _swap(named: dict[str, Any], averages: dict[str, torch.Tensor]) -> None:
    """Exchange weights and running averages."""
    for name, parameter in named.items():
        kept = parameter.detach().clone()
        parameter.copy_(averages[name])
        averages[name].copy_(kept)


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=6000)
    p.add_argument("--minutes", type=float, default=600.0)
    p.add_argument("--out", type=Path, default=None, help="export here every ten minutes")
    args = p.parse_args()
    set_up(args)
    train(args.work, args.steps, args.minutes, args.seed, args.out, device=args.device)


if __name__ == "__main__":
    main()
