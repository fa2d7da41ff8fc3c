"""What a codec's encoder makes of sound, before it is quantised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tunesmith.captioners._model import load_weights, place
from tunesmith.embeddings._embedder import (
    batches,
    cut,
    exactly,
    find_of_type,
    key_of,
    label_of,
    sound_at,
)
from tunesmith.types import Audio

_BATCH = 16
_LEAST_S = 0.25


class Codec:
    """An :class:`~tunesmith.embeddings.Embedder` by a codec's encoder.

    Each window is encoded by itself and its frames are pooled into one row: their mean, and with
    ``spread`` their standard deviation (of the frames, ÷ F) after it.

    Args:
        spec: of the plug-in.
        model_class: transformers' class.
        name: of the model; None for the default.
        device: where it runs.
        channels: of a model's config.
        encode: model and sound ``[B, C, T]`` to latents ``[B, D, F]``.
        window_s: seconds a window.
        spread: whether a row has the standard deviations, too.

    Raises:
        UserError: there is no such model.
    """

    small = False

    def __init__(
        self,
        spec: dict[str, Any],
        model_class: Any,
        name: str | None,
        device: str,
        *,
        channels: Callable[[Any], int],
        encode: Callable[[Any, torch.Tensor], torch.Tensor],
        window_s: float,
        spread: bool,
    ) -> None:
        name, found = find_of_type(spec, name)
        self._where, precision = place(device, "float32", small=True)
        self._model = load_weights(model_class, found, name, precision).to(self._where)
        config = self._model.config
        self._rate_hz, self._channels = int(config.sampling_rate), channels(config)
        self._encode, self._spread, self.window_s = encode, spread, window_s
        self.dimension = int(config.hidden_size) * (1 + spread)
        self.label = label_of(spec["name"], found)
        self.key = key_of(spec["name"], found.version, window_s, spread)

    def embed(self, audio: Audio) -> np.ndarray:
        """float64 ``[W, D]``."""
        sound = sound_at(audio, self._rate_hz, self._channels, _LEAST_S)
        windows = cut(sound, round(self.window_s * self._rate_hz))
        rows = []
        with exactly():
            for some in batches(windows, _BATCH):
                batch = torch.from_numpy(np.stack(some)).to(self._where)
                latents = self._encode(self._model, batch).double()
                parts = [latents.mean(dim=-1)]
                if self._spread:
                    parts.append(latents.std(dim=-1, correction=0))
                rows.append(torch.cat(parts, dim=1).cpu().numpy())
        return np.concatenate(rows)
