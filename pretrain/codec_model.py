"""The codec's geometry and its quantiser's training, which transformers' EnCodec lacks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import EncodecConfig, EncodecModel

N_CODEBOOKS, CODEBOOK_SIZE, LATENT, HOP = 4, 512, 64, 320
FRAME_RATE_HZ = 50
BANDWIDTH_KBIT_S = 2.0
# Of the codebooks' moving averages; an entry with less than this share of its due is dead.
EMA, DEAD_SHARE = 0.99, 0.05


def codec_config() -> EncodecConfig:
    """16 kHz mono, hop 320 (50 Hz), 4 codebooks of 512 (1.8 kbit/s)."""
    return EncodecConfig(
        # transformers counts quantisers as bandwidth / (10 bits x 50 Hz) in the config but as
        # bandwidth / (9 bits x 50 Hz) in the quantiser: 2.0 kbit/s gives four in both.
        target_bandwidths=[BANDWIDTH_KBIT_S],
        sampling_rate=16000,
        audio_channels=1,
        normalize=False,
        chunk_length_s=None,
        hidden_size=LATENT,
        codebook_dim=LATENT,
        codebook_size=CODEBOOK_SIZE,
        num_filters=12,
        num_residual_layers=1,
        upsampling_ratios=[8, 5, 4, 2],
        num_lstm_layers=1,
        use_causal_conv=False,
        use_conv_shortcut=False,
        norm_type="weight_norm",
    )


def build_codec(seed: int) -> EncodecModel:
    """A fresh codec with seeded weights."""
    torch.manual_seed(seed)
    model = EncodecModel(codec_config())
    assert len(model.quantizer.layers) == N_CODEBOOKS
    return model


class Quantiser:
    """Residual vector quantisation over the codec's own buffers, fitted by k-means."""

    def __init__(self, codec: EncodecModel) -> None:
        layers: Any = codec.quantizer.layers
        self.books: list[Any] = [layer.codebook for layer in layers]

    @torch.no_grad()
    def _codes(self, book: Any, points: torch.Tensor) -> torch.Tensor:
        embed = book.embed
        return (embed.pow(2).sum(1) - 2 * points @ embed.t()).argmin(1)

    @torch.no_grad()
    def fit(
        self, points: torch.Tensor, seed: int, points_per_step: int, rounds: int = 15
    ) -> list[float]:
        """Residual k-means on latents [N, 64]; returns the share of variance left after each codebook."""
        generator = torch.Generator().manual_seed(seed)
        total = (points - points.mean(0)).pow(2).sum(1).mean()
        left, residual = [], points.clone()
        for book in self.books:
            first = torch.randperm(len(residual), generator=generator)[:CODEBOOK_SIZE].to(
                residual.device
            )
            embed = residual[first].clone()
            book.embed.copy_(embed)
            for _ in range(rounds):
                codes = self._codes(book, residual)
                counts = torch.bincount(codes, minlength=CODEBOOK_SIZE).float()
                sums = torch.zeros_like(embed).index_add_(0, codes, residual)
                embed = sums / counts.clamp_min(1)[:, None]
                dead = counts < 2
                picks = torch.randint(len(residual), (int(dead.sum()),), generator=generator).to(
                    dead.device
                )
                embed[dead] = residual[picks]
                book.embed.copy_(embed)
            codes = self._codes(book, residual)
            counts = torch.bincount(codes, minlength=CODEBOOK_SIZE).float()
            # As large as a batch of training will have them, where moving averages go on from here.
            book.cluster_size.copy_(counts.clamp_min(1) / len(residual) * points_per_step)
            book.embed_avg.copy_(book.embed * book.cluster_size[:, None])
            residual = residual - book.embed[codes]
            left.append((residual.pow(2).sum(1).mean() / total).item())
        return left

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """Quantised latents [B, 64, T]."""
        points = latents.transpose(1, 2).reshape(-1, latents.shape[1])
        quantised = points - self._descend(points, None)
        return quantised.view(latents.shape[0], -1, latents.shape[1]).transpose(1, 2)

    def learn(self, latents: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantised latents [B, 64, T] that pass their gradient straight on, and the commitment loss.

        The codebooks follow the points that fall to them by moving averages; an entry that nothing
        falls to is put on a random residual (van den Oord et al. 2017, appendix A; Zeghidour et al.
        2021, section III-C). The loss is relative to the latents' power, so their scale is free.
        """
        points = latents.transpose(1, 2).reshape(-1, latents.shape[1])
        with torch.no_grad():
            draw = torch.Generator().manual_seed(seed)
            left = self._descend(points, draw)
        nearest = points.detach() - left
        commitment = (points - nearest).pow(2).mean() / points.detach().pow(2).mean()
        passed = points + (nearest - points).detach()
        return passed.view(latents.shape[0], -1, latents.shape[1]).transpose(1, 2), commitment

    def _descend(self, points: torch.Tensor, draw: torch.Generator | None) -> torch.Tensor:
        """What all codebooks leave of points [N, 64]; with a generator they learn on the way."""
        residual = points
        for book in self.books:
            codes = self._codes(book, residual)
            after = residual - book.embed[codes]
            if draw is not None:
                self._follow(book, residual, codes, draw)
            residual = after
        return residual

    def _follow(
        self, book: Any, points: torch.Tensor, codes: torch.Tensor, draw: torch.Generator
    ) -> None:
        counts = torch.bincount(codes, minlength=CODEBOOK_SIZE).float()
        sums = torch.zeros_like(book.embed).index_add_(0, codes, points)
        book.cluster_size.lerp_(counts, 1 - EMA)
        book.embed_avg.lerp_(sums, 1 - EMA)
        usual = len(points) / CODEBOOK_SIZE
        dead = book.cluster_size < DEAD_SHARE * usual
        picks = torch.randint(len(points), (int(dead.sum()),), generator=draw).to(points.device)
        book.embed_avg[dead] = points[picks] * usual
        book.cluster_size[dead] = usual
        book.embed.copy_(book.embed_avg / book.cluster_size[:, None])


@torch.no_grad()
def unit_variance(codec: EncodecModel, audio: torch.Tensor) -> None:
    """Rescale every convolution, in the order of the forward pass, to unit output variance on ``audio`` [B, 1, T].

    PyTorch's default leaves each layer a third of the variance it needs: after two dozen layers the input is
    gone from the output and training stands still for a thousand steps. (LSUV, Mishkin & Matas 2016.)
    """
    convolutions: list[Any] = [
        m for m in codec.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)
    ]
    layers: Any = codec.decoder.layers
    last = layers[-1].conv

    def rescale(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        wanted = audio.std() if module is last else 1.0
        scale = wanted / output.std().clamp_min(1e-6)
        module.parametrizations.weight.original0.mul_(scale)
        return output * scale

    for module in convolutions:
        module.bias.zero_()
    handles = [m.register_forward_hook(rescale) for m in convolutions]
    codec.decoder(codec.encoder(audio))
    for handle in handles:
        handle.remove()
