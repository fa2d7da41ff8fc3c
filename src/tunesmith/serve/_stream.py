"""Sound in pieces while its codes are still being written, without a seam between them.

EnCodec's decoder (Défossez et al. 2022, arXiv:2210.13438) is a convolution, an LSTM, and convolutions
that make the rate of codes that of samples. The LSTM hears everything before; its state is kept from piece
to piece. The convolutions hear a few frames to both sides, which are computed with each piece and cut
away. So the pieces together are what one piece would have been, to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.encodec.modeling_encodec import (
    EncodecConv1d,
    EncodecConvTranspose1d,
    EncodecLSTM,
)

from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.types import Audio


class StreamDecoder:
    """One sound, decoded as its codes come.

    Args:
        bundle: whose codec it is.

    Attributes:
        behind: frames that must follow before a frame can be heard.
    """

    def __init__(self, bundle: MusicgenBundle) -> None:
        self._bundle = bundle
        layers = list(bundle.codec.decoder.layers)
        place = next(i for i, layer in enumerate(layers) if isinstance(layer, EncodecLSTM))
        self._before: Any = nn.Sequential(*layers[:place])
        self._lstm: Any = layers[place]
        self._after: Any = nn.Sequential(*layers[place + 1 :])
        self._hop = round(bundle.sample_rate_hz / bundle.frame_rate_hz)
        self._near = _reach(self._before, 1)
        self._far = _reach(self._after, self._hop)
        self.behind = self._near + self._far
        self._state: Any = None
        self._heard = torch.empty(0)  # the LSTM's, from frame `_from` on
        self._from = self._through = self._told = 0

    @torch.inference_mode()
    def push(self, codes: Tensor, *, last: bool = False) -> Audio | None:
        """The sound that can be told from all codes so far, beyond what was told; None if there is none.

        Args:
            codes: ``[K, T]``, from the first frame on.
            last: no more will come.
        """
        frames = codes.shape[-1]
        through = frames if last else frames - self._near
        end = frames if last else frames - self.behind
        if through > self._through:
            self._listen(codes, through)
        if end <= self._told:
            return None
        begin = max(0, self._told - self._far)
        heard = self._heard[
            ..., begin - self._from : min(self._through, end + self._far) - self._from
        ]
        wave = self._after(heard)[:, 0]
        told = wave[..., (self._told - begin) * self._hop : (end - begin) * self._hop]
        keep = max(0, end - self._far)
        self._heard = self._heard[..., keep - self._from :]
        self._from, self._told = keep, end
        samples = np.ascontiguousarray(told.float().clamp(-1, 1).cpu().numpy())
        return Audio(samples, self._bundle.sample_rate_hz)

    def _listen(self, codes: Tensor, through: int) -> None:
        """Take the LSTM on to frame ``through``."""
        bundle = self._bundle
        begin = max(0, self._through - self._near)
        some = codes[:, begin : through + self._near].to(bundle.device, torch.long)
        # The codec is mono: each channel is a row, as in the bundle's decode_audio.
        rows = some.unflatten(0, (-1, bundle.channels))  # [K/C, C, T]
        latents = self._before(bundle.codec.quantizer.decode(rows))
        latents = latents[..., self._through - begin : through - begin].permute(2, 0, 1)
        heard, self._state = self._lstm.lstm(latents, self._state)
        heard = (heard + latents).permute(1, 2, 0)
        self._heard = torch.cat([self._heard, heard], -1) if self._heard.numel() else heard
        self._through = through


def _reach(layers: nn.Module, hop: int) -> int:
    """Frames to either side that convolutions hear, generously.

    Args:
        layers: one after the other.
        hop: samples that they make of a frame.
    """
    rate, samples = 1, 0.0  # of the layer's input against frames; reach in samples of the output
    for layer in layers.modules():
        if isinstance(layer, EncodecConv1d):
            samples += int(layer.kernel_size) * hop / rate
        elif isinstance(layer, EncodecConvTranspose1d):
            inner = layer.conv
            assert isinstance(inner, nn.ConvTranspose1d)
            rate *= inner.stride[0]
            samples += inner.kernel_size[0] * hop / rate
    return int(-(-samples // hop))


__all__ = ["StreamDecoder"]
