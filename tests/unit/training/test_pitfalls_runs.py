"""Watchers in runs of the tiny base: what is told, what is done, and that it survives being killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_data

from tunesmith.config import load_config
from tunesmith.errors import Diverged, Stopped
from tunesmith.formats.adapter import read_card, read_state
from tunesmith.training import checkpoint, rehearsal
from tunesmith.training import run as run_module
from tunesmith.training.checkpoint import Checkpoints
from tunesmith.training.log import read_metrics
from tunesmith.training.rollback import MOST
from tunesmith.training.run import Result
from tunesmith.training.signals import StopFlag

Settings = Callable[..., dict[str, Any]]
CLOCK = {"time", "seconds", "clips_per_s"}


def go(
    settings: dict[str, Any], *, resume: bool = False, stop_at: tuple[str, int] | None = None
) -> Result:
    stop = StopFlag()

    def on_event(kind: str, values: Any) -> None:
        if stop_at == (kind, values.get("step")):
            stop.set(15)

    loaded = load_config(settings=settings)
    return run_module.train(loaded, resume=resume, stop=stop, on_event=on_event)


def hot(settings: Settings, **changes: Any) -> dict[str, Any]:
    """A run whose rate is a hundred times too high."""
    wanted: dict[str, Any] = {
        "method": "full",
        "train__lr": 3.0,
        "train__steps": 14,
        "auto_fix": True,
        "data__anchor": 0,
    }
    return settings(**(wanted | changes))


def raw(folder: Path) -> list[dict[str, Any]]:
    """Every line of the log, those that were taken back included, without clock times."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = read_state(one), read_state(other)
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[part][name], tensor)
        for part, tensors in theirs.items()
        for name, tensor in tensors.items()
    )


def same_end(one: Path, other: Path) -> None:
    """All that a run leaves is the same bit for bit."""
    assert same_weights(one, other)
    assert raw(one) == raw(other)
    mine, theirs = read_card(one), read_card(other)
    assert mine["pitfalls"] == theirs["pitfalls"]
    assert (mine["step"], mine["metrics"]) == (theirs["step"], theirs["metrics"])
    ends = [Checkpoints(folder / "checkpoints").newest() for folder in (one, other)]
    first, second = (Checkpoints.load(end[0]) for end in ends if end)
    for part in ("weights", "optimizer"):
        left, right = getattr(first, part), getattr(second, part)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    skip = ("train_s", "log_offset")
    assert {k: v for k, v in first.state.items() if k not in skip} == {
        k: v for k, v in second.state.items() if k not in skip
    }


# --- going back ---


def test_too_high_a_rate_goes_back_and_on_at_a_tenth(settings: Settings, tmp_path: Path):
    events: list[tuple[str, Any]] = []
    loaded = load_config(settings=hot(settings))
    result = run_module.train(loaded, on_event=lambda kind, values: events.append((kind, values)))
    folder, state = tmp_path / "run", result.state
    assert 1 <= state.rollbacks <= MOST
    assert state.rate_factor == pytest.approx(10.0**-state.rollbacks)
    assert state.step == 14
    told = [one for one in state.pitfalls if one["name"] == "learning_rate"]
    assert len(told) == state.rollbacks
    assert told[0]["mend"] == "set train.lr to 0.3 (now 3)"
    assert told[0]["action"] == "went back to step 0 and on with the learning rate 0.3"
    assert [values for kind, values in events if kind == "pitfall"] == state.pitfalls
    # The log is as if the steps that were taken back had never been, but keeps why.
    lines = read_metrics(folder / "metrics.jsonl")
    assert [x["step"] for x in lines if x["kind"] == "train"] == [*range(1, 15)]
    rates = {x["step"]: x["lr"] for x in lines if x["kind"] == "train"}
    assert rates[5] < 3.0 * 1.01 * state.rate_factor
    assert len([x for x in lines if x["kind"] == "pitfall"]) == len(state.pitfalls)
    assert len([x for x in raw(folder) if x["kind"] == "train"]) > 14
    # Better than what it would have come to.
    without = go(hot(settings, out=str(tmp_path / "without"), auto_fix=False))
    assert without.state.last_loss is not None and state.last_loss is not None
    assert state.last_loss < without.state.last_loss
    for name in ("run.json", "adapter.json"):
        assert json.loads((folder / name).read_text())["pitfalls"] == state.pitfalls


def test_previews_of_steps_that_were_taken_back_are_gone(settings: Settings, tmp_path: Path):
    wanted = hot(settings, preview__every=3, preview__seconds=0.2, train__steps=10)
    go(wanted)
    steps = sorted(int(x.name[5:]) for x in (tmp_path / "run" / "previews").iterdir())
    assert steps == [0, 3, 6, 9, 10]


@pytest.mark.parametrize("at", [("train", 2), ("train", 4), ("pitfall", 4), ("train", 8)])
def test_stopped_and_resumed_around_a_return(
    settings: Settings, tmp_path: Path, at: tuple[str, int]
):
    whole = go(hot(settings, out=str(tmp_path / "whole")))
    assert whole.state.pitfalls[0]["step"] == 4, "or the steps above are no longer around it"
    with pytest.raises(Stopped):
        go(hot(settings), stop_at=at)
    go(hot(settings), resume=True)
    same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_and_resumed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
):
    """The writes of a run in turn: good states, checkpoints, best weights, that after the return."""
    whole = go(hot(settings, out=str(tmp_path / "whole"), train__checkpoint_every=2))
    assert whole.state.rollbacks
    save, calls = Checkpoints.save, [0, 0]

    class Killed(BaseException):
        pass

    def dying(self: Checkpoints, *args: Any, **kwargs: Any) -> Path:
        calls[0] += 1
        if calls[0] == calls[1] and when == "before":
            raise Killed
        path = save(self, *args, **kwargs)
        if calls[0] == calls[1]:
            raise Killed
        return path

    monkeypatch.setattr(checkpoint.Checkpoints, "save", dying)
    writes = 0
    for number in range(2, 60, 3):
        out = tmp_path / f"run-{number}"
        wanted = hot(settings, out=str(out), train__checkpoint_every=2)
        calls[:] = [0, number]
        try:
            go(wanted)
        except Killed:
            writes += 1
        else:
            break
        calls[:] = [0, 0]
        if (out / "checkpoints").is_dir() and not (out / "adapter.json").is_file():
            go(wanted, resume=True)
        same_end(out, tmp_path / "whole")
    assert 4 <= writes < 20


def test_after_a_few_returns_the_run_stops_with_its_best(settings: Settings, tmp_path: Path):
    """A thousandth of a rate of 3e6 is still too high."""
    result = go(hot(settings, train__lr=3e6, train__steps=40))
    assert result.state.rollbacks == MOST
    assert result.state.stopped_early
    assert result.state.step < 40
    assert "stopped early" in result.state.pitfalls[-1]["action"]
    assert result.used_step == result.state.best_step
    assert read_card(tmp_path / "run")["metrics"]["validation_loss"]["adapted"] <= 5


def test_nan_steps_go_back_before_they_end_the_run(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clip, calls = torch.nn.utils.clip_grad_norm_, [0]

    def clipped(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = list(parameters)
        calls[0] += 1
        if calls[0] in (6, 7, 8):
            parameters[0].grad[0] = float("nan")
        return clip(parameters, *args, **kwargs)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    result = go(settings(auto_fix=True, train__max_bad_steps=4, data__anchor=0))
    assert result.state.bad_steps == 3
    assert result.state.rollbacks == 1
    assert result.state.step == 8
    (told,) = result.state.pitfalls
    assert "NaN" in told["message"]
    json.loads((tmp_path / "run" / "adapter.json").read_text(), parse_constant=pytest.fail)
    # Without leave to act the run ends as it always did.
    calls[0] = 0
    with pytest.raises(Diverged):
        go(settings(out=str(tmp_path / "b"), train__max_bad_steps=3))


# --- stopping early, replay ---


def test_learning_by_heart_stops_the_run(settings: Settings, tmp_path: Path):
    wanted: dict[str, Any] = {
        "method": "full",
        "train__lr": 2e-2,
        "train__schedule": "constant",
        "train__steps": 60,
        "train__eval_every": 3,
        "data__anchor": 0,
    }
    plain = go(settings(**wanted, out=str(tmp_path / "plain")))
    fixed = go(settings(**wanted, auto_fix=True))
    names = [one["name"] for one in plain.state.pitfalls]
    assert "too_long" in names
    assert plain.state.step == 60
    assert fixed.state.stopped_early
    assert fixed.state.step < 60
    assert fixed.used_step == fixed.state.best_step
    assert fixed.state.best_loss <= plain.state.best_loss + 1e-9


def forgetful(settings: Settings, **changes: Any) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "train__lr": 3.0,
        "train__steps": 10,
        "train__eval_every": 2,
        "auto_fix": True,
    }
    return settings(**(wanted | changes))


def test_what_is_forgotten_is_replayed(settings: Settings, tmp_path: Path):
    result = go(forgetful(settings))
    folder = tmp_path / "run"
    assert result.state.replaying
    (first, *_) = [one for one in result.state.pitfalls if one["name"] == "forgetting"]
    assert first["action"] == "24 other clips are trained on besides from now on"
    assert first["values"]["measured_on"] == "anchor_loss"
    train = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in train if "replay_loss" in line] == [
        *range(first["step"] + 1, 11)
    ]
    without = go(forgetful(settings, out=str(tmp_path / "without"), auto_fix=False, data__anchor=8))
    first_half = raw(tmp_path / "without")[: first["step"]]
    assert [x.get("loss") for x in raw(folder)[: first["step"]]] == [
        x.get("loss") for x in first_half
    ]
    assert result.state.last_anchor is not None and without.state.last_anchor is not None
    assert result.state.last_anchor < without.state.last_anchor
    anchor = read_card(folder)["metrics"]["anchor_loss"]
    assert anchor == {"base": result.state.first_anchor, "last": result.state.last_anchor}


def test_what_a_base_made_is_measured_on_the_base(settings: Settings, tmp_path: Path):
    """A prefix does not start as the base: its first validation is not the base's."""
    prefix = {"name": "prefix", "length": 4}
    go(settings(method=prefix, data__anchor=2, train__steps=2, preview__every=0))
    lines = {line["kind"]: line for line in reversed(raw(tmp_path / "run"))}
    base, first = lines["base"]["anchor_loss"], lines["valid"]["anchor_loss"]
    assert base != first
    assert read_card(tmp_path / "run")["metrics"]["anchor_loss"]["base"] == base


def test_a_resumed_run_goes_on_replaying(settings: Settings, tmp_path: Path):
    go(forgetful(settings, out=str(tmp_path / "whole")))
    with pytest.raises(Stopped):
        go(forgetful(settings), stop_at=("train", 7))
    go(forgetful(settings), resume=True)
    same_end(tmp_path / "run", tmp_path / "whole")


def test_general_recordings_are_replayed_from_their_training_side(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    general = write_data(tmp_path / "general", (0.4, 0.5, 0.6, 0.4, 0.5), valid=2)
    monkeypatch.setattr(run_module, "reserve", lambda *_: pytest.fail("sampled all the same"))
    wanted = {"path": settings()["data"], "general": str(general)}
    for auto_fix, measured in ((True, 2), (False, 5)):
        loaded = load_config(settings=settings(data=wanted, auto_fix=auto_fix))
        assert len(rehearsal.forgetting_clips(loaded.config)) == measured
        assert len(rehearsal.replayable(loaded.config)) == (3 if auto_fix else 0)
    go(settings(data=wanted, auto_fix=True, train__steps=2))
    own = settings(data=wanted, auto_fix=True) | {"replay.path": str(general)}
    assert rehearsal.replayable(load_config(settings=own).config) == []


# --- silence ---


def test_watching_changes_nothing(settings: Settings, tmp_path: Path):
    """With and without watchers, and with clips that measure forgetting: the same weights."""
    told = go(hot(settings, out=str(tmp_path / "told"), auto_fix=False, data__anchor=3))
    assert {one["name"] for one in told.state.pitfalls} >= {"learning_rate", "forgetting"}
    assert all(one["action"] == "" for one in told.state.pitfalls)
    unwatched = go(hot(settings, auto_fix=False, watch=False))
    assert unwatched.state.pitfalls == []
    assert unwatched.state.step == told.state.step
    assert same_weights(tmp_path / "told", tmp_path / "run")


def test_auto_fix_changes_nothing_where_nothing_is_wrong(settings: Settings, tmp_path: Path):
    plain = go(settings(out=str(tmp_path / "plain")))
    fixed = go(settings(auto_fix=True))
    assert plain.state.pitfalls == fixed.state.pitfalls == []
    assert same_weights(tmp_path / "plain", tmp_path / "run")
    assert fixed.state.first_anchor is not None
    assert plain.state.first_anchor is None
    assert fixed.state.good == [0, 5]


def test_the_data_is_looked_through_once(settings: Settings, tmp_path: Path):
    data = write_data(tmp_path / "d", tuple([0.4] * 12), valid=2)
    for file in (data / "train").glob("*.txt"):
        file.write_text("music")
    wanted = settings(data=str(data), train__steps=4)
    with pytest.raises(Stopped):
        go(wanted, stop_at=("train", 2))
    result = go(wanted, resume=True)
    (found,) = [one for one in result.state.pitfalls if one["name"] == "captions"]
    assert found["step"] == 0
    lines = [line for line in raw(tmp_path / "run") if line["kind"] == "pitfall"]
    assert [line["name"] for line in lines].count("captions") == 1
    # A run about one word need not tell its clips apart.
    word = settings(data=str(data), out=str(tmp_path / "w"), train__steps=1)
    word |= {"concept.token": "sks", "concept.check": False}
    assert "captions" not in [one["name"] for one in go(word).state.pitfalls]
