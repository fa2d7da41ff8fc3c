"""Spectral distances of two waveforms, for what makes waves of mels.

Multi-resolution STFT loss (Yamamoto et al. 2020, arXiv:1910.11480, equations 5 to 7), of wave x̂ against x,
with magnitudes S at M resolutions:

    L_sc  = ‖S(x) − S(x̂)‖_F / ‖S(x)‖_F            how far peaks are off
    L_mag = (1/N) ‖ln S(x) − ln S(x̂)‖₁            how far everything is off, soft parts too
    L     = (1/M) Σ_m (L_sc + L_mag)

Mel distance (Kong et al. 2020, arXiv:2010.05646, equation 3): the mean of |ln mel(x) − ln mel(x̂)|.

Energy distance: the mean of ½ |ln Σ_t P(x) − ln Σ_t P(x̂)| over bands and windows of frames, P the power
in a mel band. The two above compare frame with frame, and where a spectrum fluctuates from frame to frame in
a way that cannot be foretold they are least at its median and below, so that what learns from them comes out
too soft. A sum over frames does not fluctuate: its energy is learned as it is.

None of them hears phase. All functions return one value a row, ``[B]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_FLOOR = 1e-5
"""Of magnitudes: below, a logarithm would be of rounding."""

_FLOOR_POWER = 1e-6
"""Of power in a band: 90 dB below a tone of full scale, which no vocoder has to reach."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A short-time Fourier transform with a Hann window; all in samples.

    Attributes:
        size: of the transform.
        hop: from frame to frame.
        window: length of the window, in the middle of the transform.
    """

    size: int
    hop: int
    window: int


RESOLUTIONS = (
    Resolution(1024, 120, 600),
    Resolution(2048, 240, 1200),
    Resolution(512, 50, 240),
)
"""Those of Yamamoto et al., table 1."""


def magnitudes(wave: Tensor, at: Resolution) -> Tensor:
    """``[B, F, L]`` magnitudes, at least the floor, of waves ``[B, N]``; silence before and after."""
    window = torch.hann_window(at.window, device=wave.device)
    whole = torch.stft(
        wave.float(),
        at.size,
        at.hop,
        at.window,
        window,
        pad_mode="constant",
        return_complex=True,
    )
    # The root's slope at 0 is infinite: the floor stands below it.
    power = whole.real.square() + whole.imag.square()
    return power.clamp(min=_FLOOR**2).sqrt()


def stft_distance(found: Tensor, wanted: Tensor, at: Resolution) -> tuple[Tensor, Tensor]:
    """L_sc and L_mag, ``[B]`` each, of waves ``[B, N]`` at one resolution.

    Raises:
        ValueError: the shapes differ; broadcasting would give a loss all the same.
    """
    if found.shape != wanted.shape:
        raise ValueError(f"found is {tuple(found.shape)}, wanted {tuple(wanted.shape)}")
    ours, theirs = magnitudes(found, at), magnitudes(wanted, at)
    size = theirs.square().sum(dim=(1, 2)).sqrt()
    # The root of a sum of squares has no slope at 0 either.
    gap = (theirs - ours).square().sum(dim=(1, 2)).clamp(min=1e-20).sqrt()
    return gap / size, (theirs.log() - ours.log()).abs().mean(dim=(1, 2))


def multi_resolution_stft(
    found: Tensor, wanted: Tensor, resolutions: Sequence[Resolution] = RESOLUTIONS
) -> Tensor:
    """L, ``[B]``, of waves ``[B, N]``; the mean over resolutions of L_sc + L_mag."""
    parts = [sum(stft_distance(found, wanted, at), torch.zeros(())) for at in resolutions]
    return torch.stack([torch.as_tensor(part) for part in parts]).mean(dim=0)


def mel_distance(found: Tensor, wanted: Tensor, filters: Tensor, at: Resolution) -> Tensor:
    """Mean |Δ ln mel|, ``[B]``, of waves ``[B, N]``.

    Args:
        found, wanted: waves.
        filters: ``[F, M]``, F = size/2 + 1.
        at: the transform that the filters are for.
    """
    ours, theirs = (
        (magnitudes(wave, at).transpose(1, 2) @ filters.to(wave.device).float())
        .clamp(min=_FLOOR)
        .log()
        for wave in (found, wanted)
    )
    return (ours - theirs).abs().mean(dim=(1, 2))


def energy_distance(
    found: Tensor, wanted: Tensor, filters: Tensor, at: Resolution, windows: Sequence[int]
) -> Tensor:
    """Mean ½ |Δ ln energy|, ``[B]``, of waves ``[B, N]``: of a gain g, |ln |g||.

    Args:
        found, wanted: waves.
        filters: ``[F, M]``, F = size/2 + 1.
        at: the transform that the filters are for.
        windows: frames that energy is summed over, each kind of window with as much weight; they overlap
            by half. One that is longer than the waves is as long as they are.
    """
    ours, theirs = (
        magnitudes(wave, at).square().transpose(1, 2) @ filters.to(wave.device).float()
        for wave in (found, wanted)
    )
    parts = [(_summed(ours, size) - _summed(theirs, size)).abs() for size in windows]
    return torch.stack([part.mean(dim=(1, 2)) / 2 for part in parts]).mean(dim=0)


def _summed(power: Tensor, size: int) -> Tensor:
    """ln of the mean over windows of ``[B, L, M]``: ``[B, M, W]``."""
    size = min(size, power.shape[1])
    means = functional.avg_pool1d(power.transpose(1, 2), size, max(1, size // 2))
    return means.clamp(min=_FLOOR_POWER).log()
