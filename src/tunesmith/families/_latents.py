"""What bundles share whose model makes an autoencoder's latents from noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.families._diffusers import quiet
from tunesmith.families._parts import PartsBundle
from tunesmith.types import Audio


class LatentBundle(PartsBundle):
    """A diffusion model over an autoencoder's latents, in the layout of a diffusers pipeline.

    Attributes:
        hop: samples a latent.
        apart: latents further apart than this are not the same; they have about unit variance.
    """

    draws_noise = True
    settings = ("guidance", "steps")
    hop: int
    apart = 0.5

    def _wave(self, audio: Audio, more_frames: int = 0) -> Tensor:
        """``[1, channels, samples]`` in whole frames, silence behind the sound; mono in all channels.

        Raises:
            UserError: sound of another rate, or in other channels.
        """
        self._check_sound(audio)
        frames = -(-audio.samples.shape[1] // self.hop) + more_frames
        wave = torch.zeros((1, self.channels, frames * self.hop), device=self.device)
        samples = torch.from_numpy(np.ascontiguousarray(audio.samples, dtype=np.float32))
        wave[0, :, : samples.shape[1]] = samples.to(self.device)
        return wave

    def _kept(self, spans: Sequence[tuple[float, float]], frames: int) -> Tensor:
        """``[frames]``, false in every one that a span touches."""
        keep = torch.ones(frames, dtype=torch.bool)
        for begin, end in spans:
            first = int(begin * self.frame_rate_hz + 1e-6)
            keep[first : int(np.ceil(end * self.frame_rate_hz - 1e-6))] = False
        return keep

    def mismatch(self, wanted: Tensor, given: Tensor) -> float:
        """Share of values that lie further apart than ``apart``."""
        return float(((wanted.float() - given.float()).abs() > self.apart).double().mean())

    @abstractmethod
    def pipeline(self) -> Any:
        """The base as it now is as diffusers' pipeline."""

    def export(self, folder: Path) -> None:
        with quiet():
            self.pipeline().save_pretrained(folder)
