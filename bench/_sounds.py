"""Sounds that several scripts measure with: compositions whose tempo, key and style are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pretrain.compose import Composition, compose
from pretrain.render import SLOT_S, synthesise, to_midi

AUDIO = Path(__file__).parents[2] / "shared" / "audio"
"""Real recordings, where there are some."""

FIRST_SEED = 5_000_000
"""Compositions from here on stand in no training set."""

_TOGETHER = 20


def compositions(
    seeds: Sequence[int], rate_hz: int = 44_100, length_s: float = 10.0
) -> Iterator[tuple[np.ndarray, Composition]]:
    """Rendered compositions that sound.

    Args:
        seeds: of the composer; the same seed gives the same sound.
        rate_hz: of the rendering.
        length_s: how much of each is kept, at most ten seconds.

    Yields:
        (stereo float32 ``[T, 2]`` that peaks at half of full scale, the composition with its labels)
    """
    for start in range(0, len(seeds), _TOGETHER):
        pieces = [compose(seed) for seed in seeds[start : start + _TOGETHER]]
        sound = synthesise(to_midi(pieces), len(pieces) * SLOT_S, rate_hz)
        if sound is None:
            continue
        for index, piece in enumerate(pieces):
            begin = round(index * SLOT_S * rate_hz)
            clip = sound[begin : begin + round(length_s * rate_hz)]
            peak = float(np.abs(clip).max(initial=0.0))
            if peak > 1e-3:
                yield clip * (0.5 / peak), piece
