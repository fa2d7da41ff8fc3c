"""The networks that hear speech: phones, voices, and voices once more. ``pretrain.voice`` trains them.

The first two take log10 mels of amplitude as :mod:`tunesmith.analysis.speech_mels` makes them, the third
takes waves. All set what they are given to one level, and cut off what lies far below it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.errors import UserError

BANDS = 80
LOWEST = -2.5  # log10 of amplitude, relative to the clip's level: 50 dB below
_CENTRE, _SPREAD = -1.0, 0.8


def mask_of(lengths: Tensor, frames: int) -> Tensor:
    """``[B, T]`` true where a clip of ``lengths`` ``[B]`` frames still sounds."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def levelled(mel: Tensor, lengths: Tensor) -> Tensor:
    """Log-mels less the level of each clip, the log10 of its root mean square over frames and bands.

    Args:
        mel: log10 of amplitude ``[B, T, M]``.
        lengths: frames ``[B]``; what is behind them does not count and comes back as silence.
    """
    mask = mask_of(lengths, mel.shape[1])[:, :, None]
    power = torch.pow(10.0, 2 * mel.float()).masked_fill(~mask, 0.0)
    level = power.sum(dim=(1, 2)) / (lengths * mel.shape[2])
    made = mel.float() - level.clamp_min(1e-20).log10()[:, None, None] / 2
    return made.clamp_min(LOWEST).masked_fill(~mask, LOWEST)


def scaled(mel: Tensor) -> Tensor:
    """Levelled log-mels, of about zero mean and unit spread."""
    return (mel - _CENTRE) / _SPREAD


class _Block(nn.Module):
    """A residual block: filters over time per channel, then a mixture of channels."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.time = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, W]`` to the same; ``mask`` ``[B, T, 1]`` is zero behind the end."""
        y = self.time((x * mask).transpose(1, 2)).transpose(1, 2)
        return x + self.dropout(self.narrow(functional.gelu(self.wide(self.norm(y)))))


class Recogniser(nn.Module):
    """Phones by connectionist temporal classification (Graves et al. 2006); output 0 is the blank."""

    def __init__(
        self,
        phones: int,
        width: int = 192,
        depth: int = 8,
        kernel: int = 11,
        recurrent: int = 0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.config = {
            "phones": phones, "width": width, "depth": depth, "kernel": kernel, "recurrent": recurrent,
        }  # fmt: skip
        self.first = nn.Conv1d(BANDS, width, 5, padding=2)
        self.second = nn.Conv1d(width, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(_Block(width, kernel, dropout) for _ in range(depth))
        self.recurrent = self.back = None
        if recurrent:
            self.recurrent = nn.GRU(width, recurrent, 2, batch_first=True, bidirectional=True)
            self.back = nn.Linear(2 * recurrent, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, phones + 1)

    def forward(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and their number.

        Args:
            mel: log10 of amplitude ``[B, T, 80]``, at any level.
            lengths: frames ``[B]``; what is behind them does not count.

        Returns:
            ``([B, ceil(T / 2), P + 1] float32, [B])``.
        """
        mask = mask_of(lengths, mel.shape[1])[:, None]
        x = scaled(levelled(mel, lengths)).transpose(1, 2)
        x = functional.gelu(self.first(x * mask)) * mask
        x = functional.gelu(self.second(x)).transpose(1, 2)
        halves = (lengths + 1) // 2
        mask = mask_of(halves, x.shape[1])[:, :, None]
        for block in self.blocks:
            x = block(x, mask)
        if self.recurrent is not None and self.back is not None:
            # Around it there is a way too, by which the rest learns at once what takes this part long.
            # Autocast would run this part in float16, whose gradients want scaling.
            with torch.autocast(x.device.type, enabled=False):
                packed = nn.utils.rnn.pack_padded_sequence(
                    x.float(), halves.cpu(), batch_first=True, enforce_sorted=False
                )
                y, _ = nn.utils.rnn.pad_packed_sequence(
                    self.recurrent(packed)[0], batch_first=True, total_length=x.shape[1]
                )
                x = x + self.back(y)
        return self.head(self.norm(x)).float().log_softmax(dim=2), halves


def best_path(scores: Tensor, lengths: Tensor) -> list[list[int]]:
    """Phones (from 1) of the likeliest path through ``[B, T, P + 1]``, repeats and blanks taken out."""
    best = scores.argmax(dim=2).cpu()
    made = []
    for row, length in zip(best, lengths.tolist(), strict=True):
        collapsed = torch.unique_consecutive(row[:length]).tolist()
        made.append([phone for phone in collapsed if phone])
    return made


class XVector(nn.Module):
    """A time-delay network with statistics pooling (Snyder et al. 2018): 512 numbers of length 1."""

    def __init__(self, width: int = 192, pooled: int = 384, size: int = 512) -> None:
        super().__init__()
        self.config = {"width": width, "pooled": pooled, "size": size}
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, kernel, dilation=step, padding=step * (kernel // 2))
            for a, b, kernel, step in (
                (BANDS, width, 5, 1), (width, width, 3, 2), (width, width, 3, 3), (width, pooled, 1, 1),
            )
        )  # fmt: skip
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(n) for n in (width, width, width, pooled, 2 * pooled)
        )
        self.out = nn.Linear(2 * pooled, size)

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """``[B, size]`` float32 of length 1.

        Args:
            mel: log10 of amplitude ``[B, T, 80]``, at any level.
            lengths: frames ``[B]``; what is behind them does not count.
        """
        x = scaled(levelled(mel, lengths)).transpose(1, 2)
        mask = mask_of(lengths, mel.shape[1])[:, None]
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = norm(functional.relu(layer(x * mask)))
        return functional.normalize(self.out(self.norms[-1](statistics(x, lengths))).float(), dim=1)


class Voiceprint(nn.Module):
    """Two-dimensional filters over 64-band mels with the mean of each clip removed; 256 numbers.

    Built, fed and trained otherwise than :class:`XVector`, so that it can judge what that one steered.
    """

    RATE_HZ, SIZE, HOP, MELS = 16000, 512, 200, 64

    def __init__(self, width: int = 24, size: int = 256) -> None:
        super().__init__()
        self.config = {"width": width, "size": size}
        bank = mel_bank(self.MELS, self.SIZE, self.RATE_HZ, 60.0, 7600.0)
        self.register_buffer("bank", bank, persistent=False)
        widths = [width, 2 * width, 3 * width, 4 * width]
        self.stem = nn.Conv2d(1, width, 3, padding=1, stride=(2, 1), bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.stages = nn.ModuleList(
            _Residual(a, b) for a, b in zip([width, *widths[:-1]], widths, strict=True)
        )
        self.norm = nn.BatchNorm1d(2 * widths[-1] * (self.MELS // 32))
        self.out = nn.Linear(2 * widths[-1] * (self.MELS // 32), size)

    def features(self, wave: Tensor) -> Tensor:
        """Log10 mel power ``[B, 64, T]``, each band less its mean, of waves ``[B, N]`` in [-1, 1]."""
        window = torch.hann_window(self.SIZE, device=wave.device)
        wave = wave.float() / wave.float().square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)
        made = torch.stft(
            wave, self.SIZE, self.HOP, window=window, center=False, return_complex=True
        )
        bank: Any = self.bank  # a buffer
        power = bank.float() @ (made.real.square() + made.imag.square())
        mel = power.clamp_min(1e-2).log10()
        return mel - mel.mean(dim=2, keepdim=True)

    def forward(self, wave: Tensor) -> Tensor:
        """``[B, size]`` float32 of length 1 of waves ``[B, N]`` at 16 kHz, all of one length."""
        with torch.autocast(wave.device.type, enabled=False):
            x = self.features(wave)
        x = functional.relu(self.stem_norm(self.stem(x[:, None])))
        for stage in self.stages:
            x = stage(x)
        x = x.flatten(1, 2)
        pooled = statistics(x, torch.full((len(x),), x.shape[2], device=x.device))
        return functional.normalize(self.out(self.norm(pooled)).float(), dim=1)


class _Residual(nn.Module):
    """Two 3 x 3 filters and a way around them; halves bands and frames."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.around = nn.Conv2d(before, after, 1, stride=2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, F, T]`` to ``[B, C', F / 2, T / 2]``."""
        y = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(y)) + self.norms[2](self.around(x)))


def statistics(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean and deviation over time ``[B, 2 C]`` float32 of ``[B, C, T]``."""
    x = x.float()
    mask = mask_of(lengths, x.shape[2])[:, None]
    mean = (x * mask).sum(2) / lengths[:, None]
    spread = (((x - mean[:, :, None]) * mask) ** 2).sum(2) / lengths[:, None]
    return torch.cat([mean, (spread + 1e-5).sqrt()], dim=1)


def mel_bank(bands: int, size: int, rate_hz: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles ``[bands, size // 2 + 1]`` evenly apart on O'Shaughnessy's mel scale (2595 log10)."""
    mels = torch.linspace(0, 1, bands + 2, dtype=torch.float64)
    ends = 2595 * torch.log10(1 + torch.tensor([low_hz, high_hz], dtype=torch.float64) / 700)
    edges = 700 * (torch.pow(10.0, (ends[0] + mels * (ends[1] - ends[0])) / 2595) - 1)
    bins = torch.arange(size // 2 + 1, dtype=torch.float64) * rate_hz / size
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0).float()


KINDS: dict[str, type[nn.Module]] = {
    "recogniser": Recogniser,
    "xvector": XVector,
    "voiceprint": Voiceprint,
}


def load(path: Path) -> tuple[Any, dict[str, Any]]:
    """A network in evaluation mode, float32, and the config that lies with its weights.

    Raises:
        ValueError: tensors are missing or too many.
    """
    with safe_open(str(path), framework="pt") as file:
        config = json.loads((file.metadata() or {})["config"])
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    model = KINDS[config["kind"]](**config["network"])
    missing, extra = model.load_state_dict(weights, strict=False)
    # Batches were counted while it was trained, and are of no use after.
    wrong = [*extra, *(name for name in missing if "num_batches" not in name)]
    if wrong:
        raise ValueError(f"{len(wrong)} tensors are missing or too many: {wrong[0]} ...")
    return model.requires_grad_(False).eval(), config


def opened(path: Path, kind: str) -> tuple[Any, dict[str, Any]]:
    """:func:`load`, of a kind that is wanted.

    Args:
        path: a safetensors file.
        kind: one of :data:`KINDS`.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such weights", "install the package again, or name another file"
        )
    try:
        model, config = load(path)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{path} does not load ({first})", "install the package again") from None
    if config["kind"] != kind:
        raise UserError(f"{path} holds a {config['kind']}, not a {kind}", "name another file")
    return model, config
