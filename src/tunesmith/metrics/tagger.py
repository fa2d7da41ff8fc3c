"""A small network that hears lead instrument, style, mood and tempo; from ``pretrain.tagger``.

Three uses: whether sound follows its prompt (:meth:`Tagger.tags`, :func:`compute`), an embedding
for FAD and KAD that needs no download (:meth:`Tagger.embed`), and whether a sound is unlike all it
has heard (:meth:`Tagger.familiarity`). It knows compositions rendered with one sound font, not
recordings. Importing this module imports torch; importing ``tunesmith.metrics`` does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.errors import UserError
from tunesmith.metrics._result import Result
from tunesmith.types import Audio

SPEC = {
    "name": "tagger",
    "summary": "Tags heard: how often the instrument and style that were asked for are heard",
    "better": "higher",
    "needs": ["candidate", "tags"],
}

NAME = "tagger-64 (1 s windows)"
FOLDER = Path(__file__).parents[1] / "pocket" / "tagger"
SAMPLE_RATE_HZ, SIZE, HOP, BANDS = 16_000, 1024, 256, 64
WIDTH = 64
"""Numbers per row of the embedding."""

TEMPOS_BPM = 55.0 * 1.02 ** np.arange(67)
"""Middles of the tempo classes, 2 % apart: 55 to 203 bpm."""

_FRAME_S = 16 * HOP / SAMPLE_RATE_HZ  # of the trunk: 256 ms
_SEGMENT_S, _CHUNK_S = 10.0, 30.0
_LAGS, _LAG_S = 300, (0.15, 4.5)
_FLOOR = 1e-5  # 50 dB below the mean band: what lies deeper is not heard
_SILENCE = 1e-9  # mean mel power below which sound counts as silence and is not raised


@cache
def _bank() -> Tensor:
    """Triangular mel filters ``[513, 64]`` from 40 Hz to 7.8 kHz on the HTK scale."""

    def to_mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    edges_mel = torch.linspace(to_mel(40.0), to_mel(7800.0), BANDS + 2)
    edges = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins = torch.linspace(0, SAMPLE_RATE_HZ / 2, SIZE // 2 + 1)[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(up, down).clamp_min(0)


def mel_power(audio: Tensor) -> Tensor:
    """Mel power ``[B, 64, F]`` of 16 kHz sound ``[B, T]`` in -1..1, a frame every 16 ms."""
    spectrum = torch.stft(
        audio, SIZE, HOP, window=torch.hann_window(SIZE), pad_mode="constant", return_complex=True
    )
    power = (spectrum.real**2 + spectrum.imag**2) / SIZE
    return _bank().T @ power


def normalised(power: Tensor) -> Tensor:
    """Log10 mel ``[B, 64, F]`` relative to the mean power: a change of gain changes nothing."""
    level = power.mean(dim=(1, 2), keepdim=True).clamp_min(_SILENCE)
    return torch.log10(power / level + _FLOOR)


class _Block(nn.Module):
    """Residual block (He et al. 2016) ``[B, in, Y, X] -> [B, out, Y / 2, X / 2]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.around = nn.Conv2d(inputs, outputs, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(y)) + self.around(x))


class Network(nn.Module):
    """Timbre by a convolutional trunk, rhythm by autocorrelation, one linear layer per head.

    Args:
        classes: number of classes of each head; those named in :data:`TIMBRE_HEADS` see the trunk
            alone, the others rhythm as well.
    """

    TIMBRE_HEADS = ("instrument",)

    def __init__(self, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(24)
        self.blocks = nn.Sequential(_Block(24, 40), _Block(40, 72), _Block(72, 128))
        self.frame = nn.Conv2d(128, 192, (BANDS // 16, 1), bias=False)
        self.frame_norm = nn.BatchNorm1d(192)
        self.embedding = nn.Conv1d(192, WIDTH, 1)
        self.attention = nn.Conv1d(192, 1, 1)
        self.rhythm = nn.Sequential(
            *(nn.Conv1d(8, 16, 9, 2, 4), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Conv1d(16, 16, 9, 2, 4), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * _LAGS // 4, 64), nn.ReLU()),
        )
        self.dropout = nn.Dropout(0.2)
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(3 * WIDTH + 64 * (name not in self.TIMBRE_HEADS), count)
                for name, count in classes.items()
            }
        )

    def frames(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``[B, 64, F / 16]`` and attention logits ``[B, 1, F / 16]`` of log-mel."""
        # Channels last is a third faster on processors with AVX-512.
        x = self.stem(mel[:, None] + 2.0).contiguous(memory_format=torch.channels_last)
        x = functional.relu(self.stem_norm(x))
        x = self.frame(self.blocks(x)).squeeze(2)
        x = functional.relu(self.frame_norm(x))
        return self.embedding(x), self.attention(x)

    def forward(self, mel: Tensor) -> dict[str, Tensor]:
        """Logits of every head ``[B, classes]``, and ``clip`` and ``mean``, what they are made of.

        Args:
            mel: :func:`normalised` log-mel ``[B, 64, F]``.
        """
        embedded, attention = self.frames(mel)
        weights = attention.float().softmax(dim=-1).to(embedded.dtype)
        mean = embedded.mean(dim=-1)
        parts = [mean, embedded.amax(dim=-1), (embedded * weights).sum(dim=-1)]
        clip = torch.cat(parts, dim=1)
        whole = torch.cat([clip, self.rhythm(autocorrelation(mel).to(clip.dtype))], dim=1)
        made = {
            name: head(self.dropout(clip if name in self.TIMBRE_HEADS else whole)).float()
            for name, head in self.heads.items()
        }
        return made | {"clip": whole.float(), "mean": mean.float()}


def autocorrelation(mel: Tensor) -> Tensor:
    """Autocorrelation ``[B, 8, 300]`` of onset strength over log-spaced lags, 0.15 to 4.5 s.

    On a logarithmic axis another tempo is a shift. Eight groups of bands, so that kick, bass and
    melody keep their own periods; lags longer than three quarters of the sound are zero.
    """
    groups = mel.float().unflatten(1, (8, BANDS // 8)).mean(dim=2)
    onsets = functional.relu(groups.diff(dim=-1))
    onsets = onsets - onsets.mean(dim=-1, keepdim=True)
    count = onsets.shape[-1]
    spectrum = torch.fft.rfft(onsets, n=2 * count)
    products = torch.fft.irfft(spectrum * spectrum.conj(), n=2 * count)[..., :count]
    products = products * (count / torch.arange(count, 0, -1))  # long lags have fewer products
    products = products / products[..., :1].clamp_min(1e-3)
    low, high = (math.log(s * SAMPLE_RATE_HZ / HOP) for s in _LAG_S)
    lags = torch.linspace(low, high, _LAGS).exp()
    inside = lags < 0.75 * count
    below = lags.floor().long().clamp(max=max(0, count - 2))
    share = (lags - below).clamp(0, 1)
    between = products[..., below] * (1 - share)
    between = between + products[..., (below + 1).clamp(max=count - 1)] * share
    return between * inside


def tempo_bpm(probabilities: np.ndarray) -> float:
    """Tempo in bpm from ``[67]`` class probabilities: the mean around the peak, in log tempo."""
    peak = int(probabilities.argmax())
    near = slice(max(0, peak - 2), peak + 3)
    weights = probabilities[near] / probabilities[near].sum()
    return float(np.exp(np.sum(weights * np.log(TEMPOS_BPM[near]))))


@dataclass(frozen=True, slots=True)
class Tags:
    """What was heard in one sound.

    Attributes:
        probabilities: head (``instrument``, ``style``, ``mood``, ``density``, ``texture``) to name
            to probability; each head sums to one.
        tempo_bpm: likeliest tempo; half or double are its commonest mistakes.
        tempo_probability: share of the tempo classes within 4 % of it.
    """

    probabilities: Mapping[str, Mapping[str, float]]
    tempo_bpm: float
    tempo_probability: float

    def best(self, head: str) -> str:
        """Likeliest name of a head."""
        chances = self.probabilities[head]
        return max(chances, key=lambda name: chances[name])


class Tagger:
    """The network with its names, its level of familiarity, and sound of any rate as input.

    Args:
        network: trained weights.
        config: what ``config.json`` holds: ``classes``, ``familiarity`` and more.
        statistics: tensors ``mean [D]``, ``whiten [D, R]`` and ``centres [C, R]`` of the clip
            features in training, for the open-set score.
    """

    def __init__(
        self, network: Network, config: Mapping[str, Any], statistics: Mapping[str, Tensor]
    ) -> None:
        self.network = network.eval()
        self.config = config
        self.classes: dict[str, list[str]] = config["classes"]
        self._statistics = statistics

    @torch.inference_mode()
    def embed(self, audio: Audio, window_s: float = 1.0) -> np.ndarray:
        """Mean embedding of every window; neighbouring windows overhear each other by 0.6 s.

        Args:
            audio: any rate and length; channels are averaged. Its level does not matter.
            window_s: seconds a window; a rest shorter than half of one is left out.

        Returns:
            ``[N, 64]`` float64, N ≥ 1.

        Raises:
            UserError: no samples, NaN or infinity, or a window under a quarter of a second.
        """
        if not window_s >= 0.25:
            raise UserError(f"tagger: windows of {window_s} s are too short", "give 0.25 or more")
        mono = _mono(audio)
        # Whole windows per chunk, so that where a chunk ends cannot be told from the rows.
        per_chunk = max(1, int(_CHUNK_S / window_s)) * window_s
        rows = []
        for chunk in _pieces(mono, per_chunk):
            embedded = self.network.frames(normalised(mel_power(chunk[None])))[0][0].double()
            count = max(1, int(len(chunk) / SAMPLE_RATE_HZ / window_s + 0.5))
            for index in range(count):
                start = min(round(index * window_s / _FRAME_S), embedded.shape[1] - 1)
                end = max(start + 1, round((index + 1) * window_s / _FRAME_S))
                rows.append(embedded[:, start:end].mean(dim=1).numpy())
        return np.stack(rows)

    def tags(self, audio: Audio) -> Tags:
        """Probabilities per head; of sounds above ten seconds, the mean over even segments.

        Raises:
            UserError: no samples, or NaN or infinity.
        """
        made = self._heard(audio)
        chances = {
            head: made[head].softmax(dim=-1).mean(dim=0).numpy().astype(float)
            for head in (*self.classes, "tempo")
        }
        tempo = tempo_bpm(chances["tempo"])
        named = {
            head: dict(zip(names, (chances[head] / chances[head].sum()).tolist(), strict=True))
            for head, names in self.classes.items()
        }
        close = np.abs(TEMPOS_BPM / tempo - 1) <= 0.04
        return Tags(named, tempo, float(chances["tempo"][close].sum()))

    def familiarity(self, audio: Audio) -> float:
        """How like the training sounds this is, in standard deviations of such sounds: 0 is usual.

        Below ``config["familiarity"]["threshold"]`` fall 5 % of sounds like those of training;
        ``config["familiarity"]["score"]`` is the kind of :func:`score`.

        Raises:
            UserError: no samples, or NaN or infinity.
        """
        settings = self.config["familiarity"]
        raw = float(score(settings["score"], self._heard(audio), self._statistics).mean())
        return (raw - settings["mean"]) / settings["deviation"]

    @torch.inference_mode()
    def _heard(self, audio: Audio) -> dict[str, Tensor]:
        mono = _mono(audio)
        count = max(1, math.ceil(len(mono) / (_SEGMENT_S * SAMPLE_RATE_HZ) - 0.05))
        parts = torch.tensor_split(mono, count)
        made = [self.network(normalised(mel_power(part[None]))) for part in parts]
        return {key: torch.cat([one[key] for one in made]) for key in made[0]}


def score(kind: str, made: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> Tensor:
    """Open-set score ``[B]``, higher for what is familiar.

    Args:
        kind: ``energy``: log-sum-exp of the instrument's logits (Liu et al. 2020, "Energy-based
            Out-of-distribution Detection", eq. 4, negated); ``mahalanobis``: negated distance to
            the nearest centre of an instrument under a shared covariance (Lee et al. 2018, eq. 2);
            ``known``: logit of a head trained with other instruments as the unknown (outlier
            exposure, Hendrycks et al. 2019); ``both``: energy and known, each divided by its
            deviation in training.
        made: what :class:`Network` returns.
        statistics: of the clip features in training.
    """
    if kind == "energy":
        return made["instrument"].logsumexp(dim=1)
    if kind == "known":
        return made["known"][:, 0]
    if kind == "mahalanobis":
        white = (made["clip"] - statistics["mean"]) @ statistics["whiten"]
        return -torch.cdist(white, statistics["centres"]).amin(dim=1)
    parts = zip(("energy", "known"), statistics["scales"], strict=True)
    return torch.stack([score(one, made, statistics) / scale for one, scale in parts]).sum(dim=0)


def _mono(audio: Audio) -> Tensor:
    """16 kHz mono ``[T]``, at least a quarter of a second (shorter is padded with silence)."""
    if audio.samples.size == 0 or not np.isfinite(audio.samples).all():
        raise UserError("tagger: no samples, or NaN or infinity among them", "leave this sound out")
    mono = np.ascontiguousarray(audio.samples.mean(axis=0, dtype=np.float32))
    if audio.sample_rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, audio.sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    least = SAMPLE_RATE_HZ // 4
    return torch.from_numpy(np.pad(mono, (0, max(0, least - len(mono)))).astype(np.float32))


def _pieces(mono: Tensor, length_s: float) -> Sequence[Tensor]:
    """Pieces of ``length_s``; a rest under half a second goes with the piece before it."""
    length = round(length_s * SAMPLE_RATE_HZ)
    count = max(1, (len(mono) + length - SAMPLE_RATE_HZ // 2) // length)
    cuts = [index * length for index in range(1, count)]
    return torch.tensor_split(mono, cuts)


@cache
def load(folder: Path = FOLDER) -> Tagger:
    """The tagger in a folder with ``model.safetensors`` and ``config.json``; read once.

    Raises:
        UserError: a file is missing, or not this network's.
    """
    for name in ("model.safetensors", "config.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing", "install Tunesmith anew")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
    prefix = "statistics."
    statistics = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    network = Network(config["outputs"])
    # Counters of batches are for training only, and are not stored.
    weights = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
    missing = network.load_state_dict(weights, strict=False)
    if missing.unexpected_keys or any("num_batches" not in k for k in missing.missing_keys):
        raise UserError(f"{folder}: weights of another network", "install Tunesmith anew")
    return Tagger(network, config, statistics)


def compute(
    candidate: Sequence[Audio], tags: Sequence[Mapping[str, str]], *, seed: int = 0
) -> Result:
    """Share of wanted tags that are heard.

    Args:
        candidate: N sounds.
        tags: for each, head to name that was asked for, such as ``{"style": "blues"}``.
        seed: unused, nothing is drawn; here because every metric takes one.

    Returns:
        The share, 0 to 1, with Wilson's 95 % interval (1927); ``dimension`` is 1.

    Raises:
        UserError: different counts, nothing wanted, or a name that the tagger does not know.
    """
    del seed
    tagger = load()
    if len(candidate) != len(tags) or not any(tags):
        raise UserError("tagger: as many sets of tags as sounds are needed, and not all empty", "")
    right = []
    for audio, wanted in zip(candidate, tags, strict=True):
        heard = tagger.tags(audio)
        for head, name in wanted.items():
            if name not in tagger.classes.get(head, []):
                raise UserError(f"tagger: it does not know the {head} {name!r}", "leave it out")
            right.append(heard.best(head) == name)
    share, n, z = float(np.mean(right)), len(right), 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    interval = (middle - half, middle + half)
    return Result(share, interval, None, n_reference=0, n_candidate=len(candidate), dimension=1)
