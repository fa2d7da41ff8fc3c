"""A tiny run with several checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import write_data
from tunesmith.config import load_config
from tunesmith.training.run import train


@pytest.fixture(scope="session")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and four validation clips, each a recording of its own."""
    lengths = (0.5, 0.8, 0.5, 0.7, 0.6, 0.8, 0.5, 0.7, 0.6, 0.5)
    return write_data(tmp_path_factory.mktemp("data") / "noises", lengths, valid=4)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, noises: Path) -> Path:
    """A LoRA that learned the noises by heart, with the checkpoints of steps 3, 6 and 9."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    settings = {
        "base": str(tiny_base),
        "method": "lora",
        "data": str(noises),
        "out": str(folder),
        "train.steps": 9,
        "train.lr": 3e-3,
        "train.eval_every": 3,
        "train.checkpoint_every": 3,
        "train.keep_checkpoints": 5,
        "preview.every": 0,
    }
    train(load_config(settings=settings))
    return folder
