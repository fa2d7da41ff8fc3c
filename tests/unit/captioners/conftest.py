"""Captioners of random weights, saved once, and sounds to play to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunesmith.types import Audio


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``models("qwen2_audio", seed=1)``: the folder of a tiny model; ``clap`` is one too."""
    folders: dict[str, Path] = {}

    def get(kind: str, **options) -> Path:
        from tunesmith.captioners._tiny import save_audio_llm, save_clap

        key = "-".join([kind, *(f"{name}{value}" for name, value in options.items())])
        if key not in folders:
            folder = tmp_path_factory.mktemp("captioners") / key
            save = save_clap if kind == "clap" else lambda *a, **o: save_audio_llm(*a, kind, **o)
            folders[key] = save(folder, **options)
        return folders[key]

    return get


@pytest.fixture(scope="session")
def clips() -> list[Audio]:
    """Noise of several lengths, rates and channel counts."""
    rng = np.random.default_rng(0)
    shapes = [(1, 1.0, 16_000), (2, 1.7, 44_100), (1, 0.2, 8000), (2, 5.0, 22_050)]
    return [
        Audio((0.1 * rng.standard_normal((c, round(s * hz)))).astype(np.float32), hz)
        for c, s, hz in shapes
    ]


@pytest.fixture(scope="session")
def silence() -> Audio:
    return Audio(np.full((2, 8000), 1 / 32768, np.float32), 16_000)
