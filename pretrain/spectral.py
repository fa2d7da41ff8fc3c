"""Mel spectrograms, the codec's losses and its two figures (mel distance, SI-SDR)."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch.nn import functional

from pretrain.common import SAMPLE_RATE_HZ

# (window in samples, mel bands): four scales, as in the multi-scale mel loss of DAC (arXiv 2306.06546).
SCALES = ((256, 20), (512, 40), (1024, 64), (2048, 80))


@cache
def mel_matrix(n_fft: int, bands: int) -> torch.Tensor:
    """Triangular filters [n_fft / 2 + 1, bands] on the HTK mel scale from 0 Hz to half the sample rate."""
    top = 2595 * math.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    bins = torch.linspace(0, SAMPLE_RATE_HZ / 2, n_fft // 2 + 1)[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(up, down).clamp_min(0)


@cache
def _window(n_fft: int) -> torch.Tensor:
    return torch.hann_window(n_fft)


def magnitude(audio: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Magnitude spectrogram [B, n_fft / 2 + 1, frames] of audio [B, T], hop a quarter window, unit-gain window."""
    window = _window(n_fft).to(audio.device)
    spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, return_complex=True)
    # The root's gradient is infinite at zero, hence the small constant.
    return torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9) * (2 / n_fft)


def mel(audio: torch.Tensor, n_fft: int, bands: int) -> torch.Tensor:
    """Mel magnitudes [B, frames, bands] of audio [B, T]."""
    return magnitude(audio, n_fft).transpose(1, 2) @ mel_matrix(n_fft, bands).to(audio.device)


def spectral_terms(
    made: torch.Tensor, real: torch.Tensor, floor: float = 1e-4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multi-scale losses of audio [B, T], means over scales: mean |log10 mel| difference, spectral convergence."""
    log_term, convergence = made.new_zeros(()), made.new_zeros(())
    for n_fft, bands in SCALES:
        basis = mel_matrix(n_fft, bands).to(made.device)
        a, b = magnitude(made, n_fft), magnitude(real, n_fft)
        mel_a, mel_b = a.transpose(1, 2) @ basis, b.transpose(1, 2) @ basis
        # Added, not clamped: a clamp gives no gradient while the output is silent, and the codec stands still.
        log_term = log_term + functional.l1_loss((mel_a + floor).log10(), (mel_b + floor).log10())
        # Frobenius ratio: insensitive to loudness, dominated by what is loud.
        # Floored at a share of the batch's mean, or silent crops would own the gradient.
        size = b.norm(dim=(1, 2))
        ratio = (a - b).norm(dim=(1, 2)) / size.clamp_min(0.3 * size.mean())
        convergence = convergence + ratio.mean()
    return log_term / len(SCALES), convergence / len(SCALES)


def waveform_error(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Error of audio [B, T] relative to its size, mean over the batch."""
    size = real.norm(dim=1)
    return ((made - real).norm(dim=1) / size.clamp_min(0.3 * size.mean())).mean()


def mel_distance(made: torch.Tensor, real: torch.Tensor) -> float:
    """Mean |log10 mel| difference, 80 bands, window 1024, floor 1e-4 (-80 dB); audio [B, T]."""
    a, b = (mel(x, 1024, 80).clamp_min(1e-4).log10() for x in (made, real))
    return functional.l1_loss(a, b).item()


def si_sdr_db(made: torch.Tensor, real: torch.Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, eq. 5), mean over [B, T]."""
    made, real = made - made.mean(-1, keepdim=True), real - real.mean(-1, keepdim=True)
    scale = (made * real).sum(-1, keepdim=True) / real.pow(2).sum(-1, keepdim=True).clamp_min(1e-8)
    target = scale * real
    ratio = target.pow(2).sum(-1) / (made - target).pow(2).sum(-1).clamp_min(1e-8)
    return (10 * ratio.clamp_min(1e-8).log10()).mean().item()
