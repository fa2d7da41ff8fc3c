"""Train the EnCodec-architecture codec, fit its quantiser, encode all clips to codes.

First the autoencoder; then residual k-means on its latents, and all of it on quantised latents; then the decoder
alone. Curve: ``logs/codec.jsonl``.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EncodecModel

from pretrain import checkpoint, render
from pretrain.codec_model import (
    BANDWIDTH_KBIT_S,
    CODEBOOK_SIZE,
    FRAME_RATE_HZ,
    HOP,
    N_CODEBOOKS,
    Quantiser,
    build_codec,
    unit_variance,
)
from pretrain.common import append_jsonl, autocast, log, parser, set_up, write_array
from pretrain.spectral import mel_distance, si_sdr_db, spectral_terms, waveform_error

BATCH, CROP_FRAMES = 8, 50
# Twice this rate diverged; half of it once quantised, where the target moves too.
LEARNING_RATE, LATER_RATE, WARM_UP, CLIP_NORM = 1e-3, 5e-4, 100, 1.0
QUANTISE_FROM, LISTEN_UNTIL, FREEZE_FROM = 0.5, 0.55, 0.88
# Once quantised, the encoder waits till the decoder has learnt to listen, and then moves slowly: at the
# decoder's rate it runs away from the codebooks, and all is noise within a hundred steps.
COMMITMENT, ENCODER_SHARE = 1.0, 0.1
FIT_BATCHES = 24  # of 16 crops of two seconds, for the k-means that the codebooks begin with
# Waveform first, spectra later: the waveform term alone couples output to input within a hundred steps,
# while the spectral terms alone are first met by noise of the right colour.
SPECTRAL_FROM, SPECTRAL_FULL = 400, 1600
SAVE_EVERY_S, EVALUATE_EVERY = 60.0, 250


def audio_batch(
    arrays: list[np.ndarray], seed: int, step: int, batch: int, frames: int
) -> torch.Tensor:
    """Random crops [B, T] in [-1, 1]; a function of seed and step alone, so that a resumed run sees the same."""
    draw = np.random.default_rng((seed, step))
    length = frames * HOP
    crops = []
    for _ in range(batch):
        array = arrays[draw.integers(len(arrays))]
        start = draw.integers(array.shape[1] - length)
        crops.append(array[draw.integers(len(array)), start : start + length])
    return torch.from_numpy(np.stack(crops).astype(np.float32) / 32768)


def learning_rate(step: int, progress: float) -> float:
    """Warm-up, constant; half of it when quantised, then a cosine's fall to 2 %."""
    if progress < QUANTISE_FROM:
        return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP)
    late = min(1.0, (progress - QUANTISE_FROM) / (1 - QUANTISE_FROM))
    return LATER_RATE * max(0.02, 0.5 + 0.5 * math.cos(math.pi * late))


def loss_terms(made: torch.Tensor, real: torch.Tensor, step: int) -> torch.Tensor:
    """Relative waveform error plus the multi-scale spectral loss, whose weight ramps up. Audio [B, T]."""
    error = waveform_error(made, real)
    weight = min(max((step - SPECTRAL_FROM) / (SPECTRAL_FULL - SPECTRAL_FROM), 0.0), 1.0)
    if weight == 0:
        return error
    log_term, convergence = spectral_terms(made, real)
    return error + 1.5 * weight * (log_term + 0.5 * convergence)


@torch.no_grad()
def evaluate(
    codec: EncodecModel, quantiser: Quantiser | None, audio: torch.Tensor
) -> dict[str, float]:
    """Mel distance (log10) and SI-SDR (dB) of reconstructed validation audio [B, T]."""
    latents = codec.encoder(audio[:, None])
    if quantiser is not None:
        latents = quantiser(latents)
    made = codec.decoder(latents)[:, 0]
    return {"mel_distance": mel_distance(made, audio), "si_sdr_db": si_sdr_db(made, audio)}


@torch.no_grad()
def _fit_quantiser(
    codec: EncodecModel, quantiser: Quantiser, arrays: list[np.ndarray], seed: int
) -> list[float]:
    points = []
    for step in range(FIT_BATCHES):
        audio = audio_batch(arrays, seed + 77, step, 16, 100).to(next(codec.parameters()).device)
        points.append(
            codec.encoder(audio[:, None]).transpose(1, 2).reshape(-1, codec.config.hidden_size)
        )
    return quantiser.fit(torch.cat(points), seed, BATCH * CROP_FRAMES)


def train(work: Path, steps: int, minutes: float, seed: int, device: str = "cpu") -> None:
    """Train until ``steps`` or ``minutes`` of training time (over all restarts), whichever is first."""
    path, curve = work / "codec.safetensors", work / "logs" / "codec.jsonl"
    arrays, _ = render.load(work / "clips", "train")
    held, _ = render.load(work / "clips", "valid")
    valid = torch.from_numpy(held[0][:24, : 4 * 16000].astype(np.float32) / 32768).to(device)
    codec: Any = build_codec(seed)
    codec.to(device)
    optimizer = torch.optim.AdamW(
        [{"params": codec.encoder.parameters()}, {"params": codec.decoder.parameters()}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.99),
        weight_decay=1e-4,
    )
    quantiser = Quantiser(codec)
    counters = {"step": 0, "trained_s": 0.0, "quantised": 0, "done": 0}
    if path.exists():
        counters, _ = checkpoint.load(path, codec, optimizer)
        log(f"codec: resumed at step {counters['step']}")
    else:
        unit_variance(codec, audio_batch(arrays, seed + 1, 0, 32, 100)[:, None].to(device))
    last_save = before = time.monotonic()
    while not counters["done"]:
        step = int(counters["step"])
        progress = max(step / steps, counters["trained_s"] / (60 * minutes))
        if progress >= QUANTISE_FROM and not counters["quantised"]:
            left = _fit_quantiser(codec, quantiser, arrays, seed)
            counters["quantised"] = 1
            append_jsonl(curve, {"step": step, "kmeans_variance_left": left})
            log(f"codec: k-means leaves {', '.join(f'{v:.1%}' for v in left)} of the variance")
        rate = learning_rate(step, progress)
        for group, share in zip(optimizer.param_groups, (ENCODER_SHARE, 1.0), strict=True):
            group["lr"] = rate * (share if counters["quantised"] else 1.0)
        audio = audio_batch(arrays, seed, step, BATCH, CROP_FRAMES).to(device)
        frozen = bool(counters["quantised"]) and not LISTEN_UNTIL <= progress < FREEZE_FROM
        with autocast(device), torch.set_grad_enabled(not frozen):
            latents = codec.encoder(audio[:, None]).float()
        commitment = latents.new_zeros(())
        if frozen:
            latents = quantiser(latents)
        elif counters["quantised"]:
            latents, commitment = quantiser.learn(latents, seed + step)
        with autocast(device):
            made = codec.decoder(latents)[:, 0].float()
        loss = loss_terms(made, audio, step) + COMMITMENT * commitment
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), CLIP_NORM)
        optimizer.step()
        now = time.monotonic()
        counters["step"] += 1
        counters["trained_s"] += now - before
        before = now
        counters["done"] = int(progress >= 1.0)
        if (step + 1) % 50 == 0 or counters["done"]:
            row = {
                "step": step + 1,
                "trained_s": round(counters["trained_s"], 1),
                "loss": round(loss.item(), 4),
            }
            row |= {"train_mel_distance": mel_distance(made.detach(), audio)}
            row |= {"train_si_sdr_db": si_sdr_db(made.detach(), audio), "lr": rate}
            if (step + 1) % EVALUATE_EVERY == 0 or counters["done"]:
                figures = evaluate(codec, quantiser if counters["quantised"] else None, valid)
                row |= {f"valid_{k}": v for k, v in figures.items()}
                row["quantised"] = counters["quantised"]
                log("codec: " + " ".join(f"{k}={v:.4g}" for k, v in row.items()))
            append_jsonl(curve, row)
        if now - last_save > SAVE_EVERY_S or counters["done"]:
            checkpoint.save(path, codec, optimizer, counters)
            last_save = now
    log(f"codec: done after {counters['step']:.0f} steps, {counters['trained_s'] / 60:.1f} min")


def load_codec(work: Path, seed: int) -> EncodecModel:
    """The codec of the newest checkpoint, with the decoder trained further where there is one; evaluation mode."""
    codec: Any = build_codec(seed)
    checkpoint.load(work / "codec.safetensors", codec)
    if (work / "decoder.safetensors").exists():
        _, averages = checkpoint.load(work / "decoder.safetensors", codec.decoder)
        codec.decoder.load_state_dict(averages)
    return codec.eval()


@torch.no_grad()
def encode_all(work: Path, seed: int, device: str = "cpu") -> None:
    """Codes of every clip: ``codes/<shard>.npy``, int16 [N, 4, 500]; whole files are kept."""
    codec: Any = load_codec(work, seed)
    codec.to(device)
    for split in ("valid", "train"):
        for stem in render.whole_shards(work / "clips", split):
            target = work / "codes" / f"{stem.name}.npy"
            if target.exists():
                continue
            clips = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            made = []
            # One clip at a time: what a batch of them holds no longer fits the caches, and halves the speed.
            for clip in clips:
                audio = torch.from_numpy(clip.astype(np.float32) / 32768).to(device)
                with autocast(device):
                    latents = codec.encoder(audio[None, None]).float()
                codes = codec.quantizer.encode(latents, BANDWIDTH_KBIT_S)  # [4, 1, 500]
                made.append(codes.transpose(0, 1).short().cpu().numpy())
            codes = np.concatenate(made)
            assert codes.shape[1:] == (N_CODEBOOKS, 10 * FRAME_RATE_HZ)
            assert codes.max() < CODEBOOK_SIZE
            write_array(target, codes)
            used = [len(np.unique(codes[:, k])) for k in range(N_CODEBOOKS)]
            log(f"codes {stem.name}: {codes.shape}, entries in use per codebook {used}")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=7000)
    p.add_argument("--minutes", type=float, default=60.0)
    args = p.parse_args()
    set_up(args)
    train(args.work, args.steps, args.minutes, args.seed, args.device)
    encode_all(args.work, args.seed, args.device)


if __name__ == "__main__":
    main()
