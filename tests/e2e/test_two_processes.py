"""Two processes against one: the same losses, checkpoints that move, one stop and one error for all.

Gloo on the CPU, dropout 0. Runs stand next to each other in one launch, so that processes start once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from many import environment, free_port, run, together
from procs import Running

from tunesmith.formats.adapter import load_adapter, read_card
from tunesmith.training.checkpoint import Checkpoints
from tunesmith.training.log import read_metrics

CLOSE = 1e-5
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": {"name": "lora", "rank": 4}},
    "full": {"method": {"name": "full", "pull": 0.5}, "train.lr": 1e-3},
    "bottleneck": {"method": {"name": "bottleneck", "width": 8}},
    "prefix": {"method": {"name": "prefix", "length": 2, "mlp": True}},
    "textual_inversion": {
        "method": {"name": "textual_inversion", "token": "[x]", "init": "noise", "vectors": 2}
    },
}
MODES = ("ddp", "fsdp")
# A mean over the weights, other streams beside the main one, and previews: whatever a run can hold.
EVERYTHING: dict[str, Any] = {
    "train.ema": 0.5,
    "prior.weight": 0.5,
    "prior.clips": 3,
    "prior.seconds": 0.4,
    "preview.every": 3,
    "preview.seconds": 0.2,
}


@dataclass(frozen=True)
class Runs:
    """Where the runs of this file are, and how they ended: by process, then by name."""

    folder: Path
    ended: list[dict[str, dict[str, Any]]]

    def losses(self, name: str) -> list[tuple[str, int, dict[str, float]]]:
        lines = read_metrics(self.folder / name / "metrics.jsonl")
        return [
            (one["kind"], one["step"], {k: v for k, v in one.items() if k.endswith("loss")})
            for one in lines
            if one["kind"] in ("train", "valid")
        ]


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Every method, split both ways and not at all; and two runs that move between one and two."""
    folder = tmp_path_factory.mktemp("runs")

    def settings(name: str, method: str, **more: Any) -> dict[str, Any]:
        plain = {
            "base": str(tiny_base),
            "base.dtype": "float32",
            "data": str(tiny_data),
            "out": str(folder / name),
            "train.lr": 1e-2,
            "train.steps": 4,
            # Six clips: batches of five and of one, for which the second process has none.
            "train.batch_size": 5,
            "train.accumulate": 2,
            "train.eval_every": 2,
            "train.checkpoint_every": 100,
            "preview.every": 0,
        }
        return plain | METHODS[method] | more

    def job(name: str, method: str, **more: Any) -> dict[str, Any]:
        extra = {key: more.pop(key) for key in ("stop", "resume") if key in more}
        return {"settings": settings(name, method, **more), **extra}

    first = {
        f"{mode}-{method}": job(f"{mode}-{method}", method, parallel=mode)
        for mode in MODES
        for method in METHODS
    }
    moved = {f"moved-{mode}": {**EVERYTHING, "train.steps": 6, "parallel": mode} for mode in MODES}
    of = {"moved-ddp": "lora", "moved-fsdp": "full"}
    first |= {name: job(name, of[name], stop=[1, 2], **more) for name, more in moved.items()}
    ended = together(list(first.values()), folder / "first")
    alone = [run(job(f"one-{method}", method)) for method in METHODS]
    alone += [run(job(f"one-{name}", of[name], **more)) for name, more in moved.items()]
    alone += [
        run(job(name, of[name], stop=[0, 4], resume=True, **more)) for name, more in moved.items()
    ]
    assert [one["ended"] for one in alone] == ["done"] * 7 + ["stopped"] * 2
    last = {
        f"{name}-again": job(name, of[name], resume=True, **more) for name, more in moved.items()
    }
    again = together(list(last.values()), folder / "last")
    names = [*first, *last]
    return Runs(
        folder,
        [dict(zip(names, [*a, *b], strict=True)) for a, b in zip(ended, again, strict=True)],
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_have_the_losses_of_one(runs: Runs, mode: str, method: str):
    assert [one[f"{mode}-{method}"]["ended"] for one in runs.ended] == ["done", "done"]
    two, one = runs.losses(f"{mode}-{method}"), runs.losses(f"one-{method}")
    assert [at[:2] for at in two] == [at[:2] for at in one]
    assert {kind for kind, _, _ in one} == {"train", "valid"}
    for mine, theirs in zip(two, one, strict=True):
        assert mine[2] == pytest.approx(theirs[2], rel=CLOSE)
    assert one[-1][2]["loss"] < one[0][2]["loss"], "it has to learn something to be compared"


def test_one_writes_and_all_go_the_same_way(runs: Runs, tiny_base: Path):
    from tunesmith.families import find_base, load

    for name in ("ddp-lora", "fsdp-full"):
        leader, other = (one[name] for one in runs.ended)
        assert leader["step"] == other["step"] == 4
        assert [kind for kind in leader["events"] if kind == "train"] == ["train"] * 4
        # The adapter is whole, whoever held which part of it.
        folder = runs.folder / name
        load_adapter(folder, load(find_base(str(tiny_base))))
        facts = json.loads((folder / "run.json").read_text())
        assert facts["processes"] == 2
        mine, one = (
            read_card(runs.folder / n)["metrics"]["validation_loss"]
            for n in (name, f"one-{name.split('-')[1]}")
        )
        assert mine == pytest.approx(one, rel=CLOSE)


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_to_one_stops_all_and_checkpoints_move(runs: Runs, mode: str):
    """Two processes, stopped through the second; one, stopped again; then two to the end."""
    name = f"moved-{mode}"
    assert [one[name]["ended"] for one in runs.ended] == ["stopped", "stopped"]
    assert [one[name]["said"] for one in runs.ended] == ["stopped at step 2"] * 2
    # One of the start, and one of the stop.
    assert [one[name]["events"].count("checkpoint") for one in runs.ended] == [2, 2]
    assert [one[f"{name}-again"]["ended"] for one in runs.ended] == ["done", "done"]
    moved, whole = runs.losses(name), runs.losses(f"one-{name}")
    assert [at[:2] for at in moved] == [at[:2] for at in whole]
    assert [step for kind, step, _ in moved if kind == "train"] == [*range(1, 7)]
    for mine, theirs in zip(moved, whole, strict=True):
        assert mine[2].keys() == theirs[2].keys()
        assert mine[2] == pytest.approx(theirs[2], rel=CLOSE)
    assert "prior_loss" in next(told for kind, _, told in moved if kind == "train")
    previews = [
        sorted(p.relative_to(runs.folder / n).as_posix() for p in (runs.folder / n).rglob("*.flac"))
        for n in (name, f"one-{name}")
    ]
    assert previews[0] == previews[1]
    assert len(previews[0]) == 6
    snapshots = []
    for n in (name, f"one-{name}"):
        found = Checkpoints(runs.folder / n / "checkpoints").newest()
        assert found is not None
        snapshots.append(Checkpoints.load(found[0]))
    for part in ("weights", "optimizer", "averaged"):
        mine, theirs = (getattr(one, part) for one in snapshots)
        assert mine.keys() == theirs.keys()
        assert all(mine[key].shape == theirs[key].shape for key in mine)
        assert mine


# --- how it ends when something is wrong ---


@dataclass(frozen=True)
class Launched:
    """Makes a command line one of several; one of them may fail alone."""

    rank: int
    port: int
    fails: int | None = None

    def __call__(self) -> None:
        os.environ.update(environment(self.rank, 2, self.port))
        if self.rank == self.fails:
            from tunesmith.errors import ResourceError
            from tunesmith.training.gradients import Gradients

            def full(*_: Any, **__: Any) -> Any:
                raise ResourceError("out of memory", "take less")

            Gradients.add = full  # type: ignore[method-assign]


def test_an_error_in_one_ends_all_with_one_line(tiny_base: Path, tiny_data: Path, tmp_path: Path):
    words = ["train", "--base", tiny_base, "--method", "lora", "--data", tiny_data]
    words += ["--out", tmp_path / "run", "train.steps=3", "preview.every=0", "base.dtype=float32"]
    port = free_port()
    some = [Running(*words, before=Launched(rank, port, fails=1)) for rank in (0, 1)]
    leader, other = (one.end() for one in some)
    assert (leader.code, other.code) == (2, 3)
    said = [line for done in (leader, other) for line in done.err.splitlines() if "error" in line]
    assert said == ["error: out of memory - take less"]


def test_a_mistake_is_told_once(tiny_base: Path, tmp_path: Path):
    words = ["train", "--base", tiny_base, "--method", "lora", "--data", tmp_path, "train.lt=1"]
    port = free_port()
    other = Running(*words, "--out", tmp_path / "run", before=Launched(1, port))
    leader = Running(*words, "--out", tmp_path / "run", before=Launched(0, port)).end()
    assert leader.code == 2
    assert "train.lt" in leader.err
    other.process.terminate()  # what a launcher does once one has failed
    assert other.end().err == ""


def test_torchrun(tiny_base: Path, tiny_data: Path, tmp_path: Path):
    """The launcher itself: only its environment is needed of it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), "-m", "tunesmith", "train"]
    command += ["--base", str(tiny_base), "--method", "lora", "--data", str(tiny_data)]
    command += ["--out", str(tmp_path / "run"), "train.steps=2", "preview.every=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("adapter in") == 1
    assert done.stderr.count("training ") == 1
    assert read_card(tmp_path / "run")["steps"] == 2
