"""The embedded network of :mod:`tunesmith.metrics.tagger`: no download, an ear for made music.

It was trained on compositions rendered with one sound font, so what it tells apart best is
instrument, style and rhythm of such sounds. It is deaf to much of what makes a real recording good.
"""

from __future__ import annotations

import hashlib

import numpy as np

from tunesmith.embeddings._embedder import key_of
from tunesmith.errors import UserError
from tunesmith.metrics import tagger
from tunesmith.types import Audio

SPEC = {
    "name": "pocket",
    "summary": "the embedded tagger: 64 numbers a second, offline; instruments and styles",
    "default": None,
    "licence": "Apache-2.0",
    "hears": "music",
    "text": False,
    "needs": [],
    "dimension": 64,
    "matches": {},
}

WINDOW_S = 1.0


class Pocket:
    """An :class:`~tunesmith.embeddings.Embedder`; always on the CPU."""

    window_s = WINDOW_S
    dimension = tagger.WIDTH
    small = True

    def __init__(self) -> None:
        self._tagger = tagger.load()
        digest = hashlib.sha256()
        for name in ("config.json", "model.safetensors"):
            digest.update((tagger.FOLDER / name).read_bytes())
        version = digest.hexdigest()
        self.label = f"pocket {tagger.NAME.partition(' ')[0]}@{version[:12]}"
        self.key = key_of("pocket", version, WINDOW_S)

    def embed(self, audio: Audio) -> np.ndarray:
        """Mean of the trunk over each second (:meth:`tunesmith.metrics.tagger.Tagger.embed`)."""
        return self._tagger.embed(audio, WINDOW_S)


def load(name: str | None = None, device: str = "auto") -> Pocket:
    """The embedded network.

    Args:
        name: None; it has no other weights.
        device: not used, it runs on the CPU.

    Raises:
        UserError: a name is given.
    """
    del device
    if name is not None:
        raise UserError("embedding 'pocket' takes no model", f"write 'pocket', not 'pocket:{name}'")
    return Pocket()
