"""Transformers over raw speech, from a folder or hub id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor

from tunesmith.captioners._model import broken, load_weights, place
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

_BATCH = 8
_LEAST_S = 0.5  # an x-vector's layers span 0.3 s


class Wave:
    """An :class:`~tunesmith.embeddings.Embedder` by a transformer over the waveform.

    Args:
        spec: of the plug-in.
        model_class: transformers' class.
        name: of the model.
        device: where it runs.
        window_s: seconds a window.
        width: of a row, from the model's config.
        hear: model and levelled sound ``[B, T]`` to rows ``[B, D]``.

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
        window_s: float,
        width: Callable[[Any], int],
        hear: Callable[[Any, torch.Tensor], torch.Tensor],
    ) -> None:
        name, found = find_of_type(spec, name)
        self._where, precision = place(device, "float32", small=True)
        try:
            self._extractor: Any = AutoFeatureExtractor.from_pretrained(
                found.path, local_files_only=True
            )
        except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
            raise broken(name, error, found.what) from error
        self._model = load_weights(model_class, found, name, precision).to(self._where)
        self._rate_hz, self._hear, self.window_s = (
            int(self._extractor.sampling_rate),
            hear,
            window_s,
        )
        self.dimension = width(self._model.config)
        self.label = label_of(spec["name"], found)
        self.key = key_of(spec["name"], found.version, window_s)

    def embed(self, audio: Audio) -> np.ndarray:
        """float64 ``[W, D]``."""
        mono = sound_at(audio, self._rate_hz, 1, _LEAST_S)[0]
        rows = []
        with exactly():
            for some in batches(cut(mono, round(self.window_s * self._rate_hz)), _BATCH):
                heard = self._extractor(
                    list(some), sampling_rate=self._rate_hz, return_tensors="pt"
                )
                made = self._hear(self._model, heard["input_values"].to(self._where))
                rows.append(made.double().cpu().numpy())
        return np.concatenate(rows)
