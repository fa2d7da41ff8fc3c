"""Real processes, stopped and killed, end where an undisturbed one ends: bit for bit."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from procs import Running, SignalAt, SignalIn, cli
from safetensors.torch import load_file
from tiny import write_data

from tunesmith.training.log import read_metrics

STEPS = 8


@pytest.fixture(scope="module")
def words(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command line without its --out; the data is its own, so that it has to be encoded."""
    data = write_data(tmp_path_factory.mktemp("own") / "data", (0.45, 0.5, 0.35, 0.55, 0.4))
    settings = [
        f"train.{key}"
        for key in (
            "lr=1e-2",
            f"steps={STEPS}",
            "batch_size=2",
            "eval_every=2",
            "checkpoint_every=2",
            "ema=0.9",
        )
    ]
    previews = ["preview.every=4", "preview.seconds=0.3", "base.dtype=float32"]
    return [
        "train",
        "--base",
        str(tiny_base),
        "--method",
        "lora",
        "--data",
        str(data),
        *settings,
        *previews,
    ]


def outcome(folder: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Metrics without times, and every byte of weights, optimizer and previews."""
    lines = [
        {k: v for k, v in line.items() if k not in ("time", "seconds", "clips_per_s")}
        for line in read_metrics(folder / "metrics.jsonl")
    ]
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in (
            "adapter/**/*",
            f"checkpoints/step-{STEPS:08d}/*.safetensors",
            "previews/*/*",
        )
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }
    return lines, files


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = cli(*words, "--out", folder)
    assert done.code == 0, done.err
    lines, files = outcome(folder)
    assert len([line for line in lines if line["kind"] == "train"]) == STEPS
    assert len(files) >= 2 + 3 + 6
    assert load_file(folder / "adapter" / "decoder" / "adapter_model.safetensors")
    return lines, files


def resume(folder: Path) -> None:
    done = cli("train", "--resume", folder)
    assert done.code == 0, done.err


MOMENTS = {
    "encoding": SignalAt("encode", signal.SIGTERM, count=2),
    "validation of step 0": SignalIn("tunesmith.training.loop", "forward", signal.SIGINT, count=1),
    "preview of step 0": SignalIn("tunesmith.training.preview", "generate", signal.SIGTERM),
    "first step": SignalAt("train", signal.SIGINT, step=1),
    "later validation": SignalIn(
        "tunesmith.training.loop", "Loop._clip_losses", signal.SIGTERM, count=3
    ),
    "later preview": SignalIn("tunesmith.training.preview", "generate", signal.SIGINT, count=4),
    "a checkpoint": SignalIn("tunesmith.training.checkpoint", "flush", signal.SIGTERM, count=9),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_saves_and_the_run_goes_on(
    moment: str,
    words: list[str],
    whole: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    trap: Any = MOMENTS[moment]
    more = []
    if moment == "encoding":  # another caption: there is something to encode
        more = [f"data={write_data(tmp_path / 'data', (0.31, 0.32, 0.33), valid=1)}"]
    done = cli(*words, *more, "--out", tmp_path / "run", before=trap)
    assert done.code == 128 + trap.number, done.err
    last = done.err.splitlines()[-1]
    assert f"tunesmith train --resume {tmp_path / 'run'}" in last
    assert "stopped" in last
    assert "Traceback" not in done.err
    resume(tmp_path / "run")
    if not more:
        lines, files = outcome(tmp_path / "run")
        assert lines == whole[0]
        assert files == whole[1]


def _moments() -> list[Any]:
    draw = random.Random(7)
    found: list[Any] = [
        SignalIn("tunesmith.training.checkpoint", name, signal.SIGKILL, count=draw.randint(4, 12))
        for name in ("save_file", "flush")
    ]
    found.append(SignalIn("tunesmith.training.checkpoint", "Checkpoints._prune", signal.SIGKILL, 4))
    found.append(SignalIn("tunesmith.formats.adapter", "save_adapter", signal.SIGKILL))
    return found


@pytest.mark.parametrize("trap", _moments(), ids=lambda trap: f"{trap.name}-{trap.count}")
def test_a_kill_while_files_are_written_costs_nothing(
    trap: SignalIn, words: list[str], whole: Any, tmp_path: Path
):
    if trap.name == "save_adapter":
        trap = SignalIn("tunesmith.training.outcome", "save_adapter", trap.number)
    done = cli(*words, "--out", tmp_path / "run", before=trap)
    assert done.code == -signal.SIGKILL
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == whole


def test_kills_at_random_moments_cost_nothing(words: list[str], whole: Any, tmp_path: Path):
    """Several in one run, whenever the clock says; moments before the first file count as well."""
    draw = random.Random(11)
    folder = tmp_path / "run"
    for _ in range(3):
        again = (folder / "config.yaml").is_file()
        running = Running(*(["train", "--resume", folder] if again else [*words, "--out", folder]))
        deadline = time.monotonic() + 60
        while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.5))
        if running.process.is_alive():
            running.process.kill()
        assert running.end().code in (-signal.SIGKILL, 0)
    resume(folder)
    assert outcome(folder) == whole


def test_a_second_signal_does_not_wait():
    """Whoever presses Ctrl-C twice means it."""
    from tunesmith.training.signals import StopFlag

    before = signal.getsignal(signal.SIGINT)
    with StopFlag() as stop:
        assert stop() == 0
        signal.raise_signal(signal.SIGINT)
        assert stop() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
