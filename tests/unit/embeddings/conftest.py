"""Models of random weights, saved once, and sounds to play to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunesmith.types import Audio


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``saved("clap", seed=1)``: the folder of a tiny model; wavlm_sv, encodec, stereo, dac, wavlm."""
    folders: dict[str, Path] = {}

    def get(kind: str, **options) -> Path:
        from tunesmith.captioners._tiny import save_clap
        from tunesmith.embeddings import _tiny

        key = "-".join([kind, *(f"{name}{value}" for name, value in options.items())])
        if key not in folders:
            folder = tmp_path_factory.mktemp("embeddings") / key
            save = {
                "clap": save_clap,
                "encodec": _tiny.save_encodec,
                "stereo": lambda *a, **o: _tiny.save_encodec(*a, stereo=True, **o),
                "dac": _tiny.save_dac,
                "wavlm": _tiny.save_wavlm,
                "wavlm_sv": lambda *a, **o: _tiny.save_wavlm(*a, speaker=True, **o),
            }[kind]
            folders[key] = save(folder, **options)
        return folders[key]

    return get


@pytest.fixture(scope="session")
def noise() -> Callable[..., Audio]:
    """``noise(2.5, rate_hz=44_100, channels=2, seed=1)``."""

    def make(seconds: float, rate_hz: int = 16_000, channels: int = 1, seed: int = 0) -> Audio:
        rng = np.random.default_rng(seed)
        samples = 0.1 * rng.standard_normal((channels, round(seconds * rate_hz)))
        return Audio(samples.astype(np.float32), rate_hz)

    return make
