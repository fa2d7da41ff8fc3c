"""What an embedding is to the rest of the house, and what the plug-ins share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from tunesmith.errors import UserError
from tunesmith.types import Audio

if TYPE_CHECKING:
    from tunesmith.captioners._model import Found

_Thing = TypeVar("_Thing")

_FORMAT = 1  # in every key: raise it when what is shared here changes any number


class Embedder(Protocol):
    """An opened model that turns sound into rows.

    Attributes:
        label: plug-in, checkpoint and version, to stand beside every number made of its rows.
        key: hash of everything that its numbers depend on; the cache's.
        window_s: seconds of sound behind one row.
        dimension: width of a row, D.
        small: threads would cost it more than they bring.
    """

    label: str
    key: str
    window_s: float
    dimension: int
    small: bool

    def embed(self, audio: Audio) -> np.ndarray:
        """Rows of a sound: float64 ``[W, D]``, W ≥ 1, one a window; the same every time.

        Args:
            audio: any rate, length and number of channels. A sound shorter than a window is one row.

        Raises:
            UserError: no samples, NaN or infinity.
        """
        ...


@runtime_checkable
class TextEmbedder(Embedder, Protocol):
    """One that puts sentences into the same space."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """float64 ``[N, D]``, a row a text."""
        ...


def find_of_type(spec: dict[str, Any], name: str | None) -> tuple[str, Found]:
    """The model of a plug-in, and what the user called it.

    Args:
        spec: of the plug-in.
        name: of the model; None for the plug-in's default.

    Raises:
        UserError: there is none, or it is of another kind.
    """
    from tunesmith.captioners._model import find

    kind = spec["name"]
    if name is None:
        name = spec["default"]
    if name is None:
        raise UserError(
            f"embedding '{kind}' has no weights of its own",
            f"name a folder or hub id with safetensors weights: {kind}:{spec['suggests']}",
        )
    found = find(name, f"{kind} embedding", [spec["default"] or spec["suggests"]])
    wanted = spec["matches"]["model_type"]
    if found.model_type != wanted:
        raise UserError(
            f"embedding '{kind}:{name}' is a '{found.model_type}' model, not a '{wanted}'",
            f"leave '{kind}:' out to let its config.json decide",
        )
    return name, found


def config_of(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a model that has been found."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def label_of(kind: str, found: Found) -> str:
    """``clap owner/model@0123456789ab``."""
    return f"{kind} {found.label}@{found.version[:12]}"


def key_of(kind: str, version: str, *settings: object) -> str:
    """A hash of a plug-in, the version of its model, and what else its numbers depend on."""
    parts = [str(part) for part in (_FORMAT, kind, version, *settings)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def sound_at(
    audio: Audio, sample_rate_hz: int, channels: int = 1, least_s: float = 0.0
) -> np.ndarray:
    """Samples at a model's rate: float32 ``[channels, T]``.

    Args:
        audio: any rate and number of channels.
        sample_rate_hz: the model's.
        channels: 1 is the mean of all; 2 takes stereo as it is and anything else twice.
        least_s: shorter sounds are filled up with silence.

    Raises:
        UserError: no samples, NaN or infinity.
    """
    import soxr

    samples = audio.samples
    if samples.size == 0 or not np.isfinite(samples).all():
        raise UserError("no samples, or NaN or infinity among them", "leave this sound out")
    if samples.shape[0] != channels or channels == 1:
        samples = samples.mean(axis=0, dtype=np.float32, keepdims=True)
    if audio.sample_rate_hz != sample_rate_hz:
        samples = soxr.resample(
            np.ascontiguousarray(samples.T), audio.sample_rate_hz, sample_rate_hz
        ).T
    if len(samples) < channels:
        samples = np.repeat(samples, channels, axis=0)
    missing = round(least_s * sample_rate_hz) - samples.shape[1]
    if missing > 0:
        samples = np.pad(samples, ((0, 0), (0, missing)))
    return np.ascontiguousarray(samples, dtype=np.float32)


def cut(samples: np.ndarray, size: int) -> list[np.ndarray]:
    """Windows of ``size`` samples spread evenly over ``[..., T]``; all of it where it is no longer.

    As many as fit, one more where half a window or more would be left; then they overlap, and where
    less is left there are gaps. So each is whole, and the first and last samples are heard.
    """
    length = samples.shape[-1]
    count = max(1, int(length / size + 0.5))
    if count == 1:
        start = max(0, (length - size) // 2)
        return [samples[..., start : start + size]]
    starts = [round(index * (length - size) / (count - 1)) for index in range(count)]
    return [samples[..., start : start + size] for start in starts]


def batches(things: Sequence[_Thing], size: int) -> Iterator[Sequence[_Thing]]:
    """Slices of at most ``size``."""
    return (things[start : start + size] for start in range(0, len(things), size))


@contextmanager
def exactly() -> Iterator[None]:
    """Inference in full float32, the same each time: no TF32, no choice of algorithms by speed."""
    import torch

    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ),
    ):
        yield
