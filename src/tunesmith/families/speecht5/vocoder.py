"""What a SpeechT5's vocoder learns from: short pieces of recordings, and the waves behind their mels.

    L = multi-resolution STFT + |Δ ln mel|         (:mod:`tunesmith.objectives.stft`)

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
from tunesmith.objectives.stft import Resolution, mel_distance, multi_resolution_stft
from tunesmith.types import Batch

PIECE = 32
"""Frames: 8,192 samples at a hop of 256, as in Kong et al. 2020, section 3.1."""

SAID = 0.5
"""Share of the examples whose mels are the model's own."""


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
    """One piece an example, ``[B]``."""
    return torch.ones_like(batch.frames, dtype=torch.float32)


def vocoder_loss(vocoder: Any, sound: Any, batch: Batch, bins: int, said: Tensor) -> Tensor:
    """L of a piece of each example, ``[B]``; where it begins, and whose mels it has, comes from the example's seed.

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
    found = []
    shares = uniforms(batch.seeds, "piece").tolist()
    own = (uniforms(batch.seeds, "said") < SAID).tolist()
    for row, (frames, share) in enumerate(zip(batch.frames.tolist(), shares, strict=True)):
        length = min(PIECE, frames)
        begin = int(share * (frames - length + 1))
        piece = batch.codes[row, :, begin : begin + length].float()
        wanted = piece[bins:].T.reshape(1, -1)
        given = piece[:bins].T
        if own[row]:
            given = said[row, begin : begin + length].detach()
        made = vocoder(given[None].to(vocoder.conv_pre.weight.dtype)).float()
        found.append(multi_resolution_stft(made, wanted) + mel_distance(made, wanted, filters, at))
    return torch.cat(found)
