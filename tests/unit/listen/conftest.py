"""A small test of short tones, and a client for its application."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from listening import tone

from tunesmith.listen.gather import Sounds, Voice
from tunesmith.listen.make import create


@pytest.fixture
def voices(tmp_path: Path) -> Callable[..., Sounds]:
    """Sides of so many items; side s of item i is a tone of 200 + 50 i + 7 s Hz."""

    def make(*names: str, items: int = 6) -> Sounds:
        return Sounds(
            tuple(
                Voice(
                    name,
                    {
                        f"{item:02d}": tone(
                            tmp_path / name / f"{item:02d}.wav",
                            200 + 50 * item + 7 * side,
                            0.05 * (side + 1),
                        )
                        for item in range(items)
                    },
                )
                for side, name in enumerate(names)
            )
        )

    return make


@pytest.fixture
def test_folder(tmp_path: Path, voices: Callable[..., Sounds]) -> Callable[..., Path]:
    """Makes a test and gives its folder; one item is for practice unless said otherwise."""

    def make(kind: str = "ab", sides: tuple[str, ...] = ("base", "mine"), **settings: Any) -> Path:
        items = settings.pop("count", 6)
        folder = tmp_path / f"test-{kind}"
        create(folder, voices(*sides, items=items), kind=kind, **{"seed": 1} | settings)  # type: ignore[arg-type]
        return folder

    return make
