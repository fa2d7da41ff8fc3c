"""A run of every cell through the real loop: resumed anywhere, it is the run that never stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import Cell, same_bits
from tiny import write_data

import tunesmith.families
import tunesmith.training.run as run_module
from tunesmith.config import load_config
from tunesmith.errors import Stopped
from tunesmith.families import Base
from tunesmith.formats.adapter import load_adapter, read_card
from tunesmith.registry import plugin
from tunesmith.training.checkpoint import Checkpoints
from tunesmith.training.signals import StopFlag


@pytest.fixture
def on_tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Cell], None]:
    """Lets a family's ``tiny`` stand in for a base on the disk, whatever its layout would be."""

    def use(cell: Cell) -> None:
        base = Base("tiny", tmp_path, plugin("families", cell.variant.family), {})
        for module, name in ((tunesmith.families, "find_base"), (run_module, "find_base")):
            monkeypatch.setattr(module, name, lambda *_, **__: base)
        monkeypatch.setattr(tunesmith.families, "skeleton", lambda _: cell.make())
        monkeypatch.setattr(run_module, "load_base", lambda *_, **__: cell.make())

    return use


def files(folder: Path) -> dict[str, Any]:
    """All that a run says, but for times and its own place."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for key in ("time", "seconds", "clips_per_s"):
            line.pop(key, None)
    card = read_card(folder)
    previews = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.glob("previews/*/*.flac"))
    }
    return {"lines": lines, "card": card, "previews": previews}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_resumed_equals_uninterrupted(
    cell: Cell, ema: float, on_tiny: Callable[[Cell], None], tmp_path: Path
):
    if ema and cell.variant.channels == 2:
        pytest.skip("the average does not know of channels")
    on_tiny(cell)
    bundle = cell.make()
    data = write_data(
        tmp_path / "data",
        (0.3, 0.5, 0.4, 0.4, 0.3),
        rate_hz=bundle.sample_rate_hz,
        channels=bundle.channels,
    )

    def go(out: str, stop_at: tuple[str, int] | None = None, resume: bool = False) -> None:
        loaded = load_config(
            settings={
                "base": "tiny",
                "base.dtype": "float32",
                "method": cell.method,
                "data": str(data),
                "out": str(tmp_path / out),
                "train.lr": 1e-2,
                "train.steps": 6,
                "train.batch_size": 2,
                "train.accumulate": 2,
                "train.eval_every": 2,
                "train.checkpoint_every": 2,
                "train.caption_dropout": 0.3,
                "train.ema": ema,
                "preview.every": 3,
                "preview.seconds": 0.2,
            }
        )
        stop = StopFlag()

        def on_event(kind: str, values: Any) -> None:
            if stop_at == (kind, values.get("step")):
                stop.set(15)

        run_module.train(loaded, resume=resume, stop=stop, on_event=on_event)

    go("whole")
    moments = [("valid", 0), ("train", 1), ("checkpoint", 2), ("train", 3), ("valid", 4)]
    for number, moment in enumerate(moments):
        with pytest.raises(Stopped):
            go("parts", moment, resume=number > 0)
    go("parts", resume=True)
    whole, parts = files(tmp_path / "whole"), files(tmp_path / "parts")
    assert parts["lines"] == whole["lines"]
    assert [line["step"] for line in whole["lines"] if line["kind"] == "train"] == [*range(1, 7)]
    assert parts["card"] == whole["card"]
    assert parts["previews"] == whole["previews"]
    assert len(whole["previews"]) >= 6
    last = [Checkpoints(tmp_path / out / "checkpoints").newest() for out in ("whole", "parts")]
    assert last[0] is not None
    assert last[1] is not None
    left, right = Checkpoints.load(last[0][0]), Checkpoints.load(last[1][0])
    for part in ("weights", "optimizer", "averaged"):
        same_bits(dict(getattr(left, part)), dict(getattr(right, part)))
    assert bool(left.averaged) == bool(ema)
    assert left.optimizer
    assert {k: v for k, v in left.state.items() if k not in ("train_s", "log_offset")} == {
        k: v for k, v in right.state.items() if k not in ("train_s", "log_offset")
    }
    load_adapter(tmp_path / "parts", cell.make())
