"""What a SpeechT5's vocoder learns from: short pieces of recordings, and the waves behind their mels.

    L = multi-resolution STFT + |Δ ln mel| + λ·½ |Δ ln energy|     (:mod:`tunesmith.objectives.stft`)

without the adversaries that HiFi-GAN was made with: they are not in the checkpoint, and a few hundred
steps toward one voice from weights that have heard many need no new ones. Some pieces are given as the
recording's mels, the others as the model itself says them, teacher forced: that is what a vocoder hears in
use, and it is smoother (Kong et al. 2020, section 4.4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.objectives.noise import uniforms
from tunesmith.objectives.stft import (
    Resolution,
    energy_distance,
    mel_distance,
    multi_resolution_stft,
)
from tunesmith.types import Batch

PIECE = 32
"""Frames: 8,192 samples at a hop of 256, as in Kong et al. 2020, section 3.1."""

PIECES = 2
"""Of each example: they are short, and cost little beside the speech model's pass."""

SAID = 0.5
"""Share of the pieces whose mels are the model's own."""

ENERGY = 3.0
"""λ. Without it an adapted `pocket-voice` speaks at 0.8 of the level of the voice's recordings."""

WINDOWS = (8, 33)
"""Frames that energy is summed over: about a syllable, and a piece (whose ends have a frame each)."""


def with_wave(mels: Tensor, wave: Tensor, hop: int) -> Tensor:
    """``[M + hop, T]``: below each frame of mels ``[M, T]`` the samples that a vocoder makes of it.

    Args:
        mels: of the wave.
        wave: ``[N]``; silence follows it.
        hop: samples a frame.
    """
    frames = mels.shape[1]
    whole = torch.zeros(frames * hop)
    whole[: min(len(wave), len(whole))] = wave[: len(whole)]
    return torch.cat([mels, whole.view(frames, hop).T])


def vocoder_counts(batch: Batch) -> Tensor:
    """One mean an example, ``[B]``."""
    return torch.ones_like(batch.frames, dtype=torch.float32)


def vocoder_loss(vocoder: Any, sound: Any, batch: Batch, bins: int, said: Tensor) -> Tensor:
    """L of each example, ``[B]``: the mean of its pieces. Where they begin, and whose mels they have, comes from
    the example's seed.

    Args:
        vocoder: ``SpeechT5HifiGan``.
        sound: the feature extractor.
        batch: its codes are those of :func:`with_wave`.
        bins: M.
        said: ``[B, T, M]``, the mels that the model predicts; no gradient reaches them.
    """
    device = batch.codes.device
    filters = torch.from_numpy(sound.mel_filters).to(device, torch.float32)
    at = Resolution(sound.n_fft, sound.sample_stride, sound.sample_size)
    dtype = vocoder.conv_pre.weight.dtype
    by_length: dict[int, list[tuple[int, Tensor, Tensor]]] = {}
    for turn in range(PIECES):
        shares = uniforms(batch.seeds, f"piece-{turn}").tolist()
        own = (uniforms(batch.seeds, f"said-{turn}") < SAID).tolist()
        for row, (frames, share) in enumerate(zip(batch.frames.tolist(), shares, strict=True)):
            length = min(PIECE, frames)
            begin = int(share * (frames - length + 1))
            piece = batch.codes[row, :, begin : begin + length].float()
            mels = said[row, begin : begin + length].detach() if own[row] else piece[:bins].T
            by_length.setdefault(length, []).append((row, mels.to(dtype), piece[bins:].T.flatten()))
    total = torch.zeros(len(batch.seeds), device=device)
    for some in by_length.values():  # nearly always one: only a short clip has short pieces
        rows, given, wanted = zip(*some, strict=True)
        made, waves = vocoder(torch.stack(given)).float(), torch.stack(wanted)
        apart = multi_resolution_stft(made, waves) + mel_distance(made, waves, filters, at)
        apart = apart + ENERGY * energy_distance(made, waves, filters, at, WINDOWS)
        total = total.index_add(0, torch.tensor(rows, device=device), apart / PIECES)
    return total
