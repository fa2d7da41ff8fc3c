"""What every test stands on: one thread, no network, caches and homes of its own, a tiny base."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

sys.path.insert(0, str(Path(__file__).parent))

from tiny import save_base, write_data

# A test must not fail because the machine is busy.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _places(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches and homes that are thrown away; child processes inherit them."""
    os.environ["TUNESMITH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["TUNESMITH_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums in another order differ in their last bits; a test must not depend on the machine's cores."""
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() != 1:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a mono base: 1,600 Hz, 50 frames a second, 4 codebooks of 32 codes, at most 4 s."""
    return save_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def other_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the same size with other weights."""
    return save_base(tmp_path_factory.mktemp("bases") / "other", seed=1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and two validation clips of 0.4 to 0.8 s at the tiny base's rate."""
    return write_data(
        tmp_path_factory.mktemp("data") / "noise", (0.4, 0.8, 0.5, 0.7, 0.6, 0.8, 0.5, 0.7)
    )


@pytest.fixture
def settings(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Settings of a short run on the tiny base; keyword ``train__lr`` stands for ``train.lr``."""

    def make(**changes: Any) -> dict[str, Any]:
        plain = {
            "base": str(tiny_base),
            "base.dtype": "float32",
            "method": {"name": "lora", "rank": 4},
            "data": str(tiny_data),
            "out": str(tmp_path / "run"),
            "train.lr": 1e-2,
            "train.steps": 8,
            "train.batch_size": 2,
            "train.eval_every": 4,
            "train.checkpoint_every": 3,
            "preview.every": 0,
        }
        return plain | {name.replace("__", "."): value for name, value in changes.items()}

    return make
