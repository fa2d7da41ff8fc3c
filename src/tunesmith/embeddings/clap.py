"""CLAP: sounds and sentences in one space (Wu et al. 2023, arXiv:2211.06687).

A row is what CLAP makes of one of its windows (ten seconds for LAION's), of length 1. It repeats a
shorter sound until its window is full, as it was trained to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.captioners._clap import ClapSpace
from tunesmith.captioners._model import place
from tunesmith.embeddings._embedder import (
    batches,
    cut,
    exactly,
    find_of_type,
    key_of,
    label_of,
    sound_at,
)
from tunesmith.errors import UserError
from tunesmith.types import Audio

SPEC = {
    "name": "clap",
    "summary": "CLAP: sound and text in one space, so that takes can be held against their prompts",
    "default": "laion/clap-htsat-unfused",
    "licence": "Apache-2.0",
    "hears": "sound",
    "text": True,
    "needs": [],
    "dimension": 512,
    "matches": {"model_type": "clap"},
}

_TEXTS = 64


class Clap:
    """A :class:`~tunesmith.embeddings.TextEmbedder`.

    Args:
        name: of the model; None for the default.
        device: where it runs.

    Raises:
        UserError: there is no such CLAP, or its text side cannot tell texts apart.
    """

    small = False

    def __init__(self, name: str | None, device: str) -> None:
        name, found = find_of_type(SPEC, name)
        where, precision = place(device, "float32", small=True)
        self._space = ClapSpace(found, name=name, device=where, dtype=precision)
        self.dimension = self._space.dimension
        self.window_s = self._space.window / self._space.sample_rate_hz
        self.label = label_of("clap", found)
        self.key = key_of("clap", found.version)

    def embed(self, audio: Audio) -> np.ndarray:
        """float64 ``[W, D]``, rows of length 1."""
        mono = sound_at(audio, self._space.sample_rate_hz)[0]
        with exactly():
            return self._space.embed_windows(cut(mono, self._space.window))

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """float64 ``[N, D]``, rows of length 1.

        Raises:
            UserError: no texts.
        """
        if not texts:
            raise UserError("clap: no texts", "give one or more")
        with exactly():
            return np.concatenate(
                [self._space.embed_texts(some) for some in batches(texts, _TEXTS)]
            )


def load(name: str | None = None, device: str = "auto") -> Clap:
    """A CLAP by hub id or folder; LAION's by default."""
    return Clap(name, device)
