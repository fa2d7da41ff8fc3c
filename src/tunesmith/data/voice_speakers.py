"""Whose voice it is: the clips of a folder that sound like somebody else than the rest.

A voice's clips lie around their common direction; how far apart depends on the encoder, the length of
the clips and the room. So a clip is judged by the spread of the others: it is odd if it lies more than
:data:`MOST` times as far from the direction of all others as the middle one does (distances are 1 − cosine).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.embeddings import Embedder

MOST = 2.5
"""Times the median distance from which on a clip is another voice's; see bench/voice_screening.py."""

FEWEST = 6
"""Clips below which nobody can tell whose folder it is."""

DEFAULTS = ("resemblyzer", "voiceprint")
"""Encoders that are tried in turn where none is named; those that need no download."""

_LEAST_MIDDLE = 0.03  # rule-made voices hardly vary, and what is close to all must not be odd
_ROUNDS = 20


def open_encoder(name: str | None) -> Embedder | None:
    """The encoder that tells voices apart.

    Args:
        name: as :func:`tunesmith.embeddings.open_embedder` takes it; None for the first of
            :data:`DEFAULTS` that is installed.

    Returns:
        None where none is named and none is there.

    Raises:
        UserError: what is named cannot be opened, or does not hear speech.
    """
    from tunesmith.embeddings import open_embedder
    from tunesmith.registry import plugins

    if name:
        kind = plugins("embeddings").get(name.partition(":")[0])
        if kind is not None and kind.spec.get("hears") != "speech":
            raise UserError(
                f"embedding '{name}' was not made for speech", f"take one of {', '.join(DEFAULTS)}"
            )
        return open_embedder(name, "cpu")
    known = plugins("embeddings")
    for one in DEFAULTS:
        # A plug-in says so itself: its package, or its file, may not be there.
        if one in known and import_module(f"tunesmith.embeddings.{one}").available():
            return open_embedder(one, "cpu")
    return None


def distances(voices: np.ndarray) -> np.ndarray:
    """How far each voice lies from the direction of most others, over the median of these: ``[N]``.

    Starts from the half that is most like all, then takes whoever is within :data:`MOST` in, and puts who
    is not out, until nothing changes. A clip's own part is left out of the direction that it is held against.

    Args:
        voices: rows of length 1, ``[N, D]``, N ≥ 2.
    """
    likeness = voices @ voices.T
    order = np.argsort(-np.median(likeness, axis=1), kind="stable")
    inside = np.zeros(len(voices), bool)
    inside[order[: max(2, (len(voices) + 1) // 2)]] = True
    ratio = np.zeros(len(voices))
    for _ in range(_ROUNDS):
        centres = voices[inside].sum(axis=0) - np.where(inside[:, None], voices, 0.0)
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        far = 1.0 - np.einsum("nd,nd->n", voices, centres)
        ratio = far / max(float(np.median(far[inside])), _LEAST_MIDDLE)
        now = ratio <= MOST
        if (now == inside).all() or now.sum() < 2:
            break
        inside = now
    return ratio


def voice_of(rows: np.ndarray) -> np.ndarray:
    """One direction ``[D]`` of length 1 for a clip's rows ``[W, D]``."""
    mean = np.mean([row / max(float(np.linalg.norm(row)), 1e-12) for row in rows], axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def odd_ones(voices: Sequence[np.ndarray]) -> list[float | None]:
    """For each clip its figure of :func:`distances` if it is odd, else None; none is of fewer than 6."""
    if len(voices) < FEWEST:
        return [None] * len(voices)
    found = distances(np.stack(voices))
    return [round(float(one), 2) if one > MOST else None for one in found]
