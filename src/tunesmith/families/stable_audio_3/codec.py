"""Long sounds through Stable Audio 3's autoencoder, a part at a time.

Its attention sees a band, but diffusers (0.42) writes the band as a mask over all pairs: a minute of
sound makes 11,000 tokens, and five minutes a mask of 10 GB. A latent depends only on those that the band
reaches through all layers, so parts that overlap by as much give the same, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WHOLE = 256
"""Frames that go through at once: 24 s at 44.1 kHz."""


def encode(vae: Any, wave: Tensor) -> Tensor:
    """Latents ``[1, C, T]`` of sound ``[1, channels, T·hop]``, normalised as the pipeline has them."""
    hop = int(vae.downsampling_ratio)
    return _in_parts(lambda part: vae.encode(part).latents, wave, hop, 1, _reach(vae))


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Sound ``[1, channels, T·hop]`` of latents ``[1, C, T]``."""
    hop = int(vae.downsampling_ratio)
    return _in_parts(lambda part: vae.decode(part).sample, latents, 1, hop, _reach(vae))


def _reach(vae: Any) -> int:
    """Frames on either side that a frame depends on, at most."""
    config = vae.config
    return int(config.sliding_window) * sum(config.encoder_transformer_depths)


def _in_parts(
    run: Callable[[Tensor], Tensor], x: Tensor, taken: int, given: int, reach: int
) -> Tensor:
    """Run ``[1, C, T·taken]`` to ``[1, C', T·given]``, at most :data:`WHOLE` frames and a margin at once."""
    frames = x.shape[-1] // taken
    if frames <= WHOLE:
        return run(x)
    found = []
    for start in range(0, frames, WHOLE):
        stop = min(start + WHOLE, frames)
        low, high = max(0, start - reach), min(frames, stop + reach)
        part = run(x[..., low * taken : high * taken])
        found.append(part[..., (start - low) * given : (stop - low) * given])
    return torch.cat(found, dim=-1)
