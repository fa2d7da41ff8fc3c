"""What previews sound like, in a few numbers: loud or silent, moving or frozen, alike or apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from tunesmith.metrics._logmel import embed
from tunesmith.training.pitfalls.finding import Sound
from tunesmith.types import Audio

SILENT_DB = -60.0
"""Below this a preview is called silent; speech and music lie between −35 and −10."""


def listen(audio: Audio) -> Sound:
    """Measure one preview; no model is involved."""
    power = float(np.mean(np.square(audio.samples, dtype=np.float64))) if audio.samples.size else 0
    figures = 10.0 * embed(audio).mean(axis=0)  # [64] dB: means of 32 mel bands, then deviations
    half = len(figures) // 2
    movement = float(figures[half:].mean())
    figures[:half] -= figures[:half].mean()  # loudness is no difference in kind
    return Sound(
        level_db=max(-120.0, 10 * math.log10(power)) if power > 0 else -120.0,
        movement_db=movement,
        place_db=tuple(round(float(x), 4) for x in figures / math.sqrt(len(figures))),
    )


def apart(sounds: Sequence[Sound]) -> float:
    """Mean distance between the previews of a step, in dB; 0 if there is one alone."""
    pairs = [math.dist(a.place_db, b.place_db) for a, b in combinations(sounds, 2)]
    return statistics.fmean(pairs) if pairs else 0.0
