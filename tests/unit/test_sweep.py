"""Sweeps: grids and their faults, rungs, going on, and what the table may claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import write_data

from tunesmith.errors import ConfigError, Stopped, UserError
from tunesmith.formats.adapter import read_state
from tunesmith.metrics.gap import paired_p_value
from tunesmith.sweep import Wishes, sweep, trials_of
from tunesmith.sweep import run as run_module
from tunesmith.sweep import trial as trial_module
from tunesmith.sweep.grid import combinations, split_values
from tunesmith.sweep.table import Row, _holm, tabled
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import run_jobs

WISHES = Wishes(takes=4, seconds=0.3, embedding="pocket")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = (0.5, 0.6, 0.5, 0.6, 0.5, 0.6, 0.5, 0.6)
    return write_data(tmp_path_factory.mktemp("data") / "noise", lengths, valid=4)


@pytest.fixture
def grid(tiny_base: Path, data: Path, tmp_path: Path) -> Callable[..., Any]:
    """Trials on the tiny base, four steps each unless told otherwise."""

    def make(*words: str, **more: Any) -> Any:
        given = {
            "base": str(tiny_base),
            "method": "lora",
            "data": str(data),
            "train.steps": 4,
            "train.batch_size": 2,
            "watch": False,
        }
        return trials_of(None, words, given | more, tmp_path / "sweep")

    return make


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Lets trials run in this process, and lists those that were begun."""
    begun: list[tuple[str, Any]] = []

    def run(jobs: Any, *, apart: bool, **more: Any) -> Any:
        assert apart  # else a crash of one would take the sweep with it
        return run_jobs(jobs, **more)

    real = trial_module.train

    def train(loaded: Any, **more: Any) -> Any:
        begun.append((Path(loaded.config.out).name, more["resume"]))
        return real(loaded, **more)

    monkeypatch.setattr(run_module, "run_jobs", run)
    monkeypatch.setattr(trial_module, "train", train)
    return begun


def test_values_between_commas():
    assert split_values("4,16,64") == ["4", "16", "64"]
    assert split_values("[0.9,0.99],[0.9,0.999]") == ["[0.9,0.99]", "[0.9,0.999]"]
    assert split_values("'a, b',c") == ["'a, b'", "c"]
    assert split_values("{name: lora, rank: 4},full") == ["{name: lora, rank: 4}", "full"]


def test_every_combination_once():
    words = ["method.rank=4,16,4", "seed=3", "train.lr=1e-4,3e-4"]
    assert combinations(words) == [
        ("method.rank=4", "train.lr=1e-4"),
        ("method.rank=4", "train.lr=3e-4"),
        ("method.rank=16", "train.lr=1e-4"),
        ("method.rank=16", "train.lr=3e-4"),
    ]
    axes = [f"x{axis}=" + ",".join(map(str, range(100))) for axis in range(10)]
    drawn = combinations(axes, 5)  # of 10**20
    assert len(set(drawn)) == 5 and drawn == combinations(axes, 5) != combinations(axes, 5, seed=1)
    assert len(combinations(words, 99)) == 4
    for bad, message in (
        (["seed=3"], "nothing to sweep"),
        (["seed=1,"], "a value is missing"),
        (["seed=1,2", "seed=3,4"], "given twice"),
        (axes, "combinations are more than"),
    ):
        with pytest.raises(UserError, match=message):
            combinations(bad)


def test_numbers_are_numbers_and_keys_are_of_content(grid):
    trials = grid("train.lr=1e-4,3e-4", "method.rank=2,4")
    assert [trial.values for trial in trials] == [
        {"train.lr": lr, "method.rank": rank} for lr in (1e-4, 3e-4) for rank in (2, 4)
    ]
    assert [trial.loaded.config.train.lr for trial in trials] == [1e-4, 1e-4, 3e-4, 3e-4]
    assert len({trial.key for trial in trials}) == 4
    # The same settings said otherwise are the same trial.
    again = grid("method.rank=4,2", "train.lr=0.0003,0.0001")
    assert {trial.key for trial in again} == {trial.key for trial in trials}
    assert len(grid("train.lr=1e-4,0.0001")) == 1


def test_the_faults_of_every_combination_before_anything_trains(grid, tmp_path):
    with pytest.raises(ConfigError) as caught:
        grid("method.rank=0,4", "train.lr=-1,1e-4", "train.stepz=3")
    faults = {fault.key: str(fault) for fault in caught.value.faults}
    assert set(faults) == {"method.rank", "train.lr", "train.stepz"}
    assert "with method.rank=0 train.lr=-1 and 1 more" in faults["method.rank"]
    assert "with method.rank=0 train.lr=-1 and 1 more" in faults["train.lr"]
    assert "command line" in faults["train.stepz"]  # of all of them
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(UserError, match="steps is given twice"):
        grid("train.steps=1,2")


def test_the_worst_stop_and_the_rest_end_as_if_never_paused(grid, here, tmp_path):
    trials = grid("method.rank=1,2", "train.lr=1e-3,1e-2")
    out = tmp_path / "sweep"
    table = sweep(trials, out, wishes=WISHES)
    assert [row.state for row in table.rows] == ["finished"] * 2 + ["stopped at step 1"] * 2
    assert table.best is table.rows[0] and table.rows[0].kad <= table.rows[1].kad
    # All were measured at the first rung, and the two that were nearer there went on.
    first = {row.folder.name: row.rungs[1] for row in table.rows}
    assert max(first[row.folder.name] for row in table.rows[:2]) <= min(
        first[row.folder.name] for row in table.rows[2:]
    )
    assert all(row.p_best is not None for row in table.rows[1:2])
    told = json.loads((out / "sweep.json").read_text())
    assert told["embedding"] == "pocket" and told["held_out_clips"] == 4
    assert (out / told["best"] / "adapter.json").is_file()
    lines = (out / "sweep.csv").read_text().splitlines()
    assert lines[0].startswith("method.rank,train.lr,state,KAD") and len(lines) == 5
    page = (out / "sweep.html").read_text()
    assert "Nearest to the held-out clips" in page and page.count("<tr") == 5
    # Paused twice, a trial ends with the weights of a training that never was.
    paused = table.rows[0].folder
    begun = [resume for name, resume in here if name == paused.name]
    assert begun == [False, True, True]
    loaded = trial_module.load_config(paused / "config.yaml", {"out": str(tmp_path / "whole")})
    trial_module.train(loaded, resume=False)
    whole, mine = read_state(tmp_path / "whole"), read_state(paused)
    assert whole.keys() == mine.keys()
    for component, tensors in whole.items():
        assert tensors.keys() == mine[component].keys()
        assert all(bool((mine[component][key] == one).all()) for key, one in tensors.items())

    here.clear()
    again = sweep(trials, out, wishes=WISHES)
    assert here == [] and again == table


def test_what_is_finished_is_not_done_again_and_what_is_not_goes_on(grid, here, tmp_path):
    trials = grid("train.lr=1e-3,1e-2")  # two: no rung
    stop = StopFlag()

    def on_event(kind: str, values: Any) -> None:
        if kind == "train" and values["of"] == trials[1].key and values["step"] == 2:
            stop.set(15)

    with pytest.raises(Stopped):
        sweep(trials, tmp_path / "sweep", wishes=WISHES, stop=stop, on_event=on_event)
    assert [resume for _, resume in here] == [False, False]
    here.clear()
    table = sweep(trials, tmp_path / "sweep", wishes=WISHES)
    assert [resume for _, resume in here] == [True]
    assert [row.state for row in table.rows] == ["finished", "finished"]


def test_a_trial_that_fails_is_a_row_and_not_the_end(grid, here, tmp_path, monkeypatch):
    trials = grid("train.lr=1e-3,1e-2")
    real = trial_module.train

    def train(loaded: Any, **more: Any) -> Any:
        if loaded.config.train.lr == 1e-2:
            raise UserError("losses stayed NaN", "lower train.lr")
        return real(loaded, **more)

    monkeypatch.setattr(trial_module, "train", train)
    table = sweep(trials, tmp_path / "sweep", wishes=WISHES)
    assert [row.state for row in table.rows] == ["finished", "failed"]
    assert "NaN" in table.rows[1].failed and "only one" in " ".join(table.verdict)


def test_what_cannot_be_swept_is_said_at_once(grid, here, tiny_data, tmp_path):
    with pytest.raises(UserError, match="4 or more"):
        sweep(grid("seed=1,2", data=str(tiny_data)), tmp_path / "sweep", wishes=WISHES)
    with pytest.raises(UserError, match="no engine"):
        sweep(grid("seed=1,2"), tmp_path / "sweep", wishes=Wishes(engine="rai"))
    with pytest.raises(UserError, match="prove nothing"):
        sweep(grid("seed=1,2"), tmp_path / "sweep", wishes=Wishes(takes=3))
    assert here == []


def test_a_difference_has_to_be_more_than_chance():
    draw = np.random.default_rng(0)

    def clips(shift: float, count: int = 16) -> list[np.ndarray]:
        return [draw.standard_normal((2, 8)) + shift for _ in range(count)]

    reference, near, alike, far = clips(0.0, 30), clips(0.1), clips(0.1), clips(3.0)
    assert paired_p_value(reference, near, far) < 0.01
    assert paired_p_value(reference, near, alike) > 0.05
    assert paired_p_value(reference, near, near) == 1.0
    with pytest.raises(UserError, match="same prompts"):
        paired_p_value(reference, near, far[:5])


def test_the_table_says_whether_the_best_is_better(monkeypatch):
    draw = np.random.default_rng(0)
    sounds = {
        name: [draw.standard_normal((1, 8)) + shift for _ in range(16)]
        for name, shift in (("ref", 0.0), ("a", 0.0), ("b", 0.0), ("c", 3.0))
    }
    monkeypatch.setattr("tunesmith.sweep.table.open_embedder", lambda name: None)
    monkeypatch.setattr(
        "tunesmith.sweep.table.embed", lambda files, ear: sounds[Path(files[0]).parts[0]]
    )

    def row(name: str, kad: float) -> Row:
        return Row((f"x={name}",), {"x": name}, Path(name), "finished", 4, kad=kad, takes=("0",))

    facts = {"takes": 16, "seconds": 1.0, "seed": 1}
    clear = tabled([row("c", 9.0), row("a", 0.1)], "pocket", ["ref/0"], facts)
    assert clear.best is not None and clear.best.words == ("x=a",)
    assert "more than the chance" in clear.verdict[1]
    alike = tabled([row("b", 0.2), row("a", 0.1), row("c", 9.0)], "pocket", ["ref/0"], facts)
    assert "no more than noise against x=b (" in alike.verdict[1]
    stopped = Row(("x=d",), {"x": "d"}, Path("d"), "stopped at step 1", 1, rungs={1: 0.01})
    table = tabled([stopped, row("a", 0.1)], "pocket", ["ref/0"], facts)
    assert table.best is not None and table.best.words == ("x=a",)
    assert "only one" in table.verdict[1]


def test_holm():
    assert _holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
