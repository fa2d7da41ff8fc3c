"""Resemblyzer's voice encoder: whose voice it is (Wan et al. 2018, "Generalized end-to-end loss", arXiv:1710.10467).

The weights lie in the package ``resemblyzer`` (Apache-2.0). It is found, and never imported: its voice
activity detector, webrtcvad, often cannot be built. Nor is its pickle ever read: the file is known by its
hash, and so is where in it each tensor stands.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.captioners._model import place
from tunesmith.embeddings._embedder import batches, exactly, key_of, sound_at
from tunesmith.errors import UserError
from tunesmith.types import Audio

SPEC = {
    "name": "resemblyzer",
    "summary": "Resemblyzer's voice encoder: whose voice it is, offline",
    "default": None,
    "licence": "Apache-2.0",
    "hears": "speech",
    "text": False,
    "needs": [],
    "dimension": 256,
    "matches": {},
    # What cosines two clips of one voice and of two voices usually have; for screening.
    "same_voice": 0.85,
    "other_voice": 0.60,
}

INSTALL = "pip install --no-deps resemblyzer"
WINDOW_S = 1.6

_RATE_HZ, _SIZE, _HOP, _MELS, _WIDTH = 16_000, 400, 160, 40, 256
_FRAMES = 160  # 1.6 s
_STEP = 80
_BATCH = 32
_LEAST_DBFS = -30.0  # quieter sounds are brought to this; louder ones stay
_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
# Of the file with that hash: where the float32 values of each tensor begin, and its shape.
_PLACES: dict[str, tuple[int, tuple[int, ...]]] = {
    "lstm.weight_ih_l0": (269_883, (1024, 40)),
    "lstm.weight_hh_l0": (433_723, (1024, 256)),
    "lstm.bias_ih_l0": (5_676_603, (1024,)),
    "lstm.bias_hh_l0": (5_680_699, (1024,)),
    "lstm.weight_ih_l1": (1_482_299, (1024, 256)),
    "lstm.weight_hh_l1": (2_530_875, (1024, 256)),
    "lstm.bias_ih_l1": (5_684_795, (1024,)),
    "lstm.bias_hh_l1": (5_688_891, (1024,)),
    "lstm.weight_ih_l2": (3_579_451, (1024, 256)),
    "lstm.weight_hh_l2": (4_628_027, (1024, 256)),
    "lstm.bias_ih_l2": (5_692_987, (1024,)),
    "lstm.bias_hh_l2": (5_697_083, (1024,)),
    "linear.weight": (7_731, (256, 256)),
    "linear.bias": (6_699, (256,)),
}


def weights() -> Path | None:
    """The file with the weights, if the package is installed."""
    spec = find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("pretrained.pt")
    return path if path.is_file() else None


def available() -> bool:
    """Whether it can be opened without installing anything."""
    return weights() is not None


class _Encoder(nn.Module):
    """Three LSTM layers over mels; the last state of the last one, mapped, rectified, of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, _WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, mels: Tensor) -> Tensor:
        """``[B, 256]`` of mel powers ``[B, T, 40]``."""
        _, (last, _) = self.lstm(mels)
        return functional.normalize(functional.relu(self.linear(last[-1])), dim=1)


class Resemblyzer:
    """An :class:`~tunesmith.embeddings.Embedder`: a row of length 1 for each 1.6 s, every 0.8 s.

    The mean of a sound's rows, brought to length 1, is its voice, as in the package; pauses are not cut
    out of it first, which the package does.

    Args:
        device: where it runs.

    Raises:
        UserError: the package is not installed, or its weights are not those that are known.
    """

    window_s = WINDOW_S
    dimension = _WIDTH
    small = True

    def __init__(self, device: str = "auto") -> None:
        path = weights()
        if path is None:
            raise UserError(
                "embedding 'resemblyzer' needs a package that is not installed", INSTALL
            )
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != _SHA256:
            raise UserError(
                f"{path} holds other weights than those of Resemblyzer 0.1.4, and is not read",
                INSTALL,
            )
        state = {
            name: torch.from_numpy(
                np.frombuffer(data, "<f4", int(np.prod(shape)), offset).reshape(shape).copy()
            )
            for name, (offset, shape) in _PLACES.items()
        }
        self._where, _ = place(device, "float32", small=True)
        self._model = _Encoder().eval()
        self._model.load_state_dict(state)
        self._model.to(self._where)
        self.label = f"resemblyzer 0.1.4@{_SHA256[:12]}"
        self.key = key_of("resemblyzer", _SHA256, _STEP)

    def embed(self, audio: Audio) -> np.ndarray:
        """float64 ``[W, 256]``."""
        mono = _levelled(sound_at(audio, _RATE_HZ)[0])
        starts = _starts(len(mono))
        mono = np.pad(mono, (0, max(0, (starts[-1] + _FRAMES) * _HOP - len(mono))))
        rows = []
        with exactly():
            mels = mel_powers(torch.from_numpy(mono).to(self._where))
            for some in batches(starts, _BATCH):
                batch = torch.stack([mels[start : start + _FRAMES] for start in some])
                rows.append(self._model(batch).double().cpu().numpy())
        return np.concatenate(rows)


def load(name: str | None = None, device: str = "auto") -> Resemblyzer:
    """The encoder whose weights the package carries.

    Args:
        name: None; it has no other weights.
        device: where it runs.

    Raises:
        UserError: a name is given, or the package is not installed.
    """
    if name is not None:
        raise UserError(
            "embedding 'resemblyzer' takes no model",
            f"write 'resemblyzer', not 'resemblyzer:{name}'",
        )
    return Resemblyzer(device)


def mel_powers(mono: Tensor) -> Tensor:
    """Power in 40 mel bands ``[T, 40]`` every 10 ms of ``[N]`` at 16 kHz: Hann windows of 25 ms, no log."""
    window = torch.hann_window(_SIZE, device=mono.device)
    made = torch.stft(
        mono, _SIZE, _HOP, window=window, center=True, pad_mode="constant", return_complex=True
    )
    power = made.real.square() + made.imag.square()
    return (_bank().to(mono.device) @ power).T


@cache
def _bank() -> Tensor:
    """Triangles of area 1 ``[40, 201]`` on Slaney's mel scale (1998, "Auditory Toolbox") from 0 to 8 kHz.

    Linear up to 1 kHz (200/3 Hz a mel), logarithmic above (a factor of 6.4 in 27 mels).
    """
    knee = 1000 * 3 / 200
    top = knee + 27 * np.log(_RATE_HZ / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, _MELS + 2)
    above = 1000 * np.exp(np.maximum(mels - knee, 0) * np.log(6.4) / 27)
    edges = np.where(mels < knee, mels * 200 / 3, above)
    bins = np.linspace(0, _RATE_HZ / 2, _SIZE // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(bank.astype(np.float32))


def _starts(samples: int) -> list[int]:
    """First frames of the windows; a last one that would be less than three quarters full is left out."""
    frames = -(-(samples + 1) // _HOP)
    starts = list(range(0, max(1, frames - _FRAMES + _STEP + 1), _STEP))
    if len(starts) > 1 and samples - starts[-1] * _HOP < 0.75 * _FRAMES * _HOP:
        starts.pop()
    return starts


def _levelled(mono: np.ndarray) -> np.ndarray:
    """Quiet sounds at -30 dBFS: the mels are powers, so that the encoder hears the level."""
    power = float(np.mean(np.square(mono), dtype=np.float64))
    if not power:
        return mono
    gain_db = _LEAST_DBFS - 10 * np.log10(power)
    return mono * np.float32(10 ** (max(gain_db, 0.0) / 20))
