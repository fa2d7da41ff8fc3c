"""Train the Oobleck autoencoder of ``pocket-diffusion``: 16 kHz mono, 50 frames of 24 latents a second.

Curve: ``logs/diffusion_autoencoder.jsonl``. Restarted, it goes on from the last checkpoint.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderOobleck
from torch import nn
from torch.nn import functional

from pretrain import checkpoint, render
from pretrain.common import SAMPLE_RATE_HZ, append_jsonl, log, parser, set_up
from pretrain.spectral import mel_distance, si_sdr_db, spectral_terms, waveform_error

# Even: with an odd stride the decoder gives back less than the encoder took.
STRIDES, MULTIPLES = (4, 8, 10), (1, 3, 6)
HOP = math.prod(STRIDES)
FRAME_RATE_HZ = SAMPLE_RATE_HZ // HOP
# oneDNN's convolutions work on 16 channels at a time: 24 would cost as much as 32.
ENCODER_CHANNELS, DECODER_CHANNELS = 48, 32
LATENT = ENCODER_CHANNELS // 2  # the encoder's width is mean and scale of the posterior
WINDOW = 256  # frames that the transformer sees
BATCH, GPU_BATCH, CROP_FRAMES = 5, 40, 48
LEARNING_RATE, WARM_UP, CLIP_NORM = 7e-4, 100, 1.0
COOL_FROM, FINAL_SHARE = 0.55, 0.02
# Waveform first, spectra later, as for the codec of the other base.
SPECTRAL_FROM, SPECTRAL_FULL = 400, 1000
# Weights of waveform error, log-mel distance and spectral convergence.
WEIGHTS = (1.0, 1.5, 0.75)
# Mean over elements. Small: the posterior's noise is to be a few hundredths of the latents.
KL_WEIGHT, FIRST_STD_BIAS = 4e-3, -4.0
SILENCED = 0.1  # of the crops end in digital silence, as the last window of a short clip does
SAVE_EVERY_S, EVALUATE_EVERY = 60.0, 250
NAME, FINISHED = "diffusion_autoencoder", "diffusion_vae"


def build_autoencoder(
    seed: int, encoder_channels: int = ENCODER_CHANNELS, decoder_channels: int = DECODER_CHANNELS
) -> AutoencoderOobleck:
    """A fresh autoencoder with seeded weights: 16 kHz mono, hop 320 (50 frames/s)."""
    torch.manual_seed(seed)
    model = AutoencoderOobleck(
        encoder_hidden_size=encoder_channels,
        downsampling_ratios=list(STRIDES),
        channel_multiples=list(MULTIPLES),
        decoder_channels=decoder_channels,
        decoder_input_channels=encoder_channels // 2,
        audio_channels=1,
        sampling_rate=SAMPLE_RATE_HZ,
    )
    model.use_tiling = False
    return model


@torch.no_grad()
def unit_variance(model: Any, audio: torch.Tensor) -> None:
    """Rescale every convolution, in the order of the forward pass, to fixed output variance on audio [B, 1, T].

    See ``codec_model.unit_variance``. The ends of residual units get half a standard deviation, so that
    three in a row do not outgrow what passes by them; the posterior's scale begins small.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    inner = {m for n, m in model.named_modules() if "res_unit" in n and n.endswith("conv2")}
    first, last = model.encoder.conv2, model.decoder.conv2

    def rescale(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        wanted = audio.std() if module is last else 0.5 if module in inner else 1.0
        scale = wanted / output.std().clamp_min(1e-6)
        module.weight_g.mul_(scale)
        return output * scale

    for module in convolutions:
        if module.bias is not None:
            module.bias.zero_()
    handles = [m.register_forward_hook(rescale) for m in convolutions]
    latents = model.encoder(audio)
    half = latents.shape[1] // 2
    model.decoder(latents[:, :half])
    for handle in handles:
        handle.remove()
    first.weight_g[half:] *= 0.1
    first.bias[half:] = FIRST_STD_BIAS


def audio_batch(
    arrays: list[np.ndarray],
    seed: int,
    step: int,
    batch: int,
    frames: int,
    silenced: float = SILENCED,
) -> torch.Tensor:
    """Random crops [B, 1, T] in [-1, 1], some with a silent end; a function of seed and step alone."""
    draw = np.random.default_rng((seed, step))
    length = frames * HOP
    crops = np.zeros((batch, 1, length), np.float32)
    for crop in crops:
        array = arrays[draw.integers(len(arrays))]
        start = draw.integers(array.shape[1] - length)
        sounding = int(draw.integers(length)) if draw.random() < silenced else length
        row = array[draw.integers(len(array)), start : start + sounding]
        crop[0, :sounding] = row.astype(np.float32) / 32768
    return torch.from_numpy(crops)


def loss_terms(
    made: torch.Tensor,
    real: torch.Tensor,
    step: int,
    weights: tuple[float, float, float] = WEIGHTS,
) -> torch.Tensor:
    """Relative waveform error plus the multi-scale spectral loss, whose weight ramps up. Audio [B, T]."""
    of_wave, of_log, of_convergence = weights
    error = of_wave * waveform_error(made, real)
    ramp = min(max((step - SPECTRAL_FROM) / (SPECTRAL_FULL - SPECTRAL_FROM), 0.0), 1.0)
    if ramp == 0:
        return error
    log_term, convergence = spectral_terms(made, real)
    return error + ramp * (of_log * log_term + of_convergence * convergence)


def posterior(parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [B, 24, T] of the latents, as ``AutoencoderOobleck.encode`` has them."""
    mean, scale = parameters.chunk(2, dim=1)
    return mean, functional.softplus(scale) + 1e-4


def kl_divergence(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, std²) || N(0, 1)) in nats, mean over elements."""
    return 0.5 * (mean.square() + std.square() - 2 * std.log() - 1).mean()


def learning_rate(progress: float, step: int) -> float:
    """Warm-up, constant, then a cosine's fall to 2 %."""
    fall = 1.0
    if progress > COOL_FROM:
        along = min((progress - COOL_FROM) / (1 - COOL_FROM), 1.0)
        fall = FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * along))
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * fall


@torch.no_grad()
def evaluate(model: Any, audio: torch.Tensor) -> dict[str, float]:
    """Mel distance (log10) and SI-SDR (dB) of audio [B, 1, T] through the means; size of latents and noise."""
    mean, std = posterior(torch.cat([model.encoder(a[None]) for a in audio]))
    made = torch.cat([model.decoder(m[None])[..., : audio.shape[2]] for m in mean])[:, 0]
    return {
        "mel_distance": mel_distance(made, audio[:, 0]),
        "si_sdr_db": si_sdr_db(made, audio[:, 0]),
        "latent_rms": mean.square().mean().sqrt().item(),
        "latent_std": std.mean().item(),
    }


def train(
    work: Path,
    steps: int,
    minutes: float,
    seed: int,
    compiled: bool = False,
    sizes: tuple[int, int] = (ENCODER_CHANNELS, DECODER_CHANNELS),
    vae: Path | None = None,
    device: str = "cpu",
) -> None:
    """Train until ``steps`` or ``minutes`` of training time (over all restarts), whichever is first.

    ``vae`` is a folder whose autoencoder goes on, with a fresh optimizer, instead of random weights.
    """
    path, curve = work / f"{NAME}.safetensors", work / "logs" / f"{NAME}.jsonl"
    size = BATCH if device == "cpu" else GPU_BATCH
    arrays, _ = render.load(work / "clips", "train")
    held, _ = render.load(work / "clips", "valid")
    valid = torch.from_numpy(
        held[0][:24, None, : 4 * SAMPLE_RATE_HZ].astype(np.float32) / 32768
    ).to(device)
    model: Any = build_autoencoder(seed, *sizes)
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4
    )
    counters: dict[str, float] = {"step": 0, "begun": 0, "trained_s": 0.0, "done": 0}
    if path.exists():
        loaded, _ = checkpoint.load(path, model, optimizer)
        counters |= loaded
        log(f"{NAME}: resumed at step {counters['step']:.0f}")
    elif vae is not None:
        begun: Any = AutoencoderOobleck.from_pretrained(vae)
        model.load_state_dict(begun.state_dict())
        counters["step"] = counters["begun"] = SPECTRAL_FULL
    else:
        unit_variance(model, audio_batch(arrays, seed + 1, 0, 16, 100, silenced=0).to(device))
    encoder, decoder = model.encoder, model.decoder
    if compiled:  # a third faster, after two minutes of compiling
        encoder, decoder = torch.compile(encoder), torch.compile(decoder)
    log(f"{NAME}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    last_save = before = time.monotonic()
    while not counters["done"]:
        step = int(counters["step"])
        progress = max(step / steps, counters["trained_s"] / (60 * minutes))
        rate = learning_rate(progress, step - int(counters["begun"]))
        for group in optimizer.param_groups:
            group["lr"] = rate
        audio = audio_batch(arrays, seed, step, size, CROP_FRAMES).to(device)
        mean, std = posterior(encoder(audio))
        divergence = kl_divergence(mean, std)
        draw = torch.Generator(device).manual_seed(seed + step)
        noise = torch.randn(mean.shape, generator=draw, device=device)
        made = decoder(mean + std * noise)[:, 0]
        loss = loss_terms(made, audio[:, 0], step) + KL_WEIGHT * divergence
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
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
                "kl": round(divergence.item(), 3),
                "train_mel_distance": mel_distance(made.detach(), audio[:, 0]),
                "train_si_sdr_db": si_sdr_db(made.detach(), audio[:, 0]),
                "lr": rate,
            }
            if (step + 1) % EVALUATE_EVERY == 0 or counters["done"]:
                row |= {f"valid_{k}": v for k, v in evaluate(model, valid).items()}
            log(f"{NAME}: " + " ".join(f"{k}={v:.4g}" for k, v in row.items()))
            append_jsonl(curve, row)
        if now - last_save > SAVE_EVERY_S or counters["done"]:
            checkpoint.save(path, model, optimizer, counters)
            last_save = now
    log(f"{NAME}: done after {counters['step']:.0f} steps, {counters['trained_s'] / 60:.1f} min")


@torch.no_grad()
def finish(
    work: Path,
    seed: int,
    sizes: tuple[int, int] = (ENCODER_CHANNELS, DECODER_CHANNELS),
    windows: int = 96,
    device: str = "cpu",
) -> None:
    """Write ``diffusion_vae.safetensors``: the trained weights, with latents of unit variance.

    The pipeline knows no latent scale, so it goes into the encoder's last convolution and the decoder's
    first. One number for all channels: what the divergence has made small stays small, and its noise too.
    """
    model: Any = build_autoencoder(seed, *sizes)
    counters, _ = checkpoint.load(work / f"{NAME}.safetensors", model)
    arrays, _ = render.load(work / "clips", "train")
    model.to(device)
    power = [
        posterior(model.encoder(audio[None].to(device)))[0].square().mean().item()
        for audio in audio_batch(arrays, seed + 2, 0, windows, WINDOW, silenced=0)
    ]
    scale = float(np.mean(power)) ** 0.5
    encoder, decoder = model.encoder.conv2, model.decoder.conv1
    half = encoder.weight_g.shape[0] // 2
    encoder.weight_g[:half] /= scale
    encoder.bias[:half] /= scale
    encoder.bias[half:] -= math.log(
        scale
    )  # softplus of so small a number is nearly its exponential
    decoder.weight_g *= scale
    checkpoint.save(work / f"{FINISHED}.safetensors", model, None, counters | {"scale": scale})
    log(f"{NAME}: latents divided by {scale:.3f}")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=7000)
    p.add_argument("--minutes", type=float, default=600.0)
    p.add_argument("--compile", action="store_true", help="compile encoder and decoder first")
    p.add_argument("--vae", type=Path, default=None, help="go on from this folder's autoencoder")
    args = p.parse_args()
    set_up(args)
    train(
        args.work,
        args.steps,
        args.minutes,
        args.seed,
        args.compile,
        vae=args.vae,
        device=args.device,
    )
    finish(args.work, args.seed, device=args.device)


if __name__ == "__main__":
    main()
