"""One run, in this process: what it saves, refuses, skips and survives."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import tunesmith
from tunesmith.config import load_config
from tunesmith.errors import Diverged, ResourceError, Stopped, UserError
from tunesmith.families import find_base, load
from tunesmith.formats.adapter import load_adapter, read_card, read_state
from tunesmith.training import checkpoint
from tunesmith.training import run as run_module
from tunesmith.training.average import Average
from tunesmith.training.checkpoint import Checkpoints
from tunesmith.training.gradients import Gradients
from tunesmith.training.log import read_metrics
from tunesmith.training.loop import Loop
from tunesmith.training.run import Result
from tunesmith.training.signals import StopFlag

Settings = Callable[..., dict[str, Any]]


def go(
    settings: dict[str, Any], *, resume: bool = False, stop_at: tuple[str, int] | None = None
) -> Result:
    stop = StopFlag()

    def on_event(kind: str, values: Any) -> None:
        if stop_at == (kind, values.get("step")):
            stop.set(15)

    return run_module.train(
        load_config(settings=settings), resume=resume, stop=stop, on_event=on_event
    )


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == kind]


def test_what_a_run_leaves(settings: Settings, tmp_path: Path):
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()  # type: ignore[index]
    result = go(settings(preview__every=4, preview__seconds=0.2))
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]  # type: ignore[index]
    assert torch.equal(torch.random.get_rng_state(), state[2])
    folder = tmp_path / "run"
    assert result.folder == folder
    assert result.state.step == 8
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "run.json",
        "adapter.json",
        "metrics.jsonl",
        "README.md",
        "adapter/decoder/adapter_config.json",
        "adapter/decoder/adapter_model.safetensors",
        "previews/step-00000000/00.flac",
        "previews/step-00000004/01.flac",
        "previews/step-00000008/00.flac",
    } <= found
    assert {Path(name).suffix for name in found} <= {
        ".yaml",
        ".json",
        ".jsonl",
        ".md",
        ".safetensors",
        ".flac",
        "",
    }
    assert {Path(name).name for name in found if not Path(name).suffix} == {".lock"}
    assert [line["step"] for line in lines(folder, "train")] == [*range(1, 9)]
    assert [line["step"] for line in lines(folder, "valid")] == [0, 4, 8]
    card = read_card(folder)
    assert card["step"] == result.used_step == result.state.best_step
    assert card["trainable_parameters"] == result.trainable_parameters
    facts = json.loads((folder / "run.json").read_text())
    assert facts["data"]["train"]["clips"] == 6
    assert len(facts["data"]["valid"]["sha256"]) == 2
    assert facts["config"]["train"]["lr"] == 1e-2
    assert facts["versions"]["torch"] == torch.__version__


def test_the_weights_with_the_lowest_validation_loss_are_the_adapter(
    settings: Settings, tmp_path: Path
):
    """Also when they are not the last; their loss is the one on the card."""
    wanted = settings(method="full", train__lr=2e-2, train__steps=24, train__eval_every=2)
    result = go(wanted | {"train.schedule": "constant"})
    folder = tmp_path / "run"
    valid = {line["step"]: line["loss"] for line in lines(folder, "valid")}
    best = min(valid, key=lambda step: valid[step])
    assert result.used_step == best < 24, "noise is learned by heart, and validation gets worse"
    metrics = read_card(folder)["metrics"]["validation_loss"]
    assert metrics == {"base": valid[0], "adapted": valid[best]}


def test_validation_is_the_loss_of_the_saved_adapter(settings: Settings, tmp_path: Path):
    """The loss in the log is the one that the adapter has when it is loaded anew."""
    wanted = settings(train__ema=0.5)
    go(wanted)
    folder = tmp_path / "run"
    card = read_card(folder)
    bundle = load(find_base(wanted["base"]))
    load_adapter(folder, bundle)
    from tunesmith.data.encode import encode
    from tunesmith.data.load import load_dataset

    clips = [clip for clip in load_dataset(wanted["data"]) if clip.split == "valid"]
    batch = bundle.collate(list(encode(clips, bundle)), [0, 1])
    bundle.module.eval()
    with torch.no_grad():
        terms = bundle.module(batch)
    loss = sum(
        bundle.term_weights[name] * float(total.sum() / count.sum())
        for name, (total, count) in terms.items()
    )
    assert loss == pytest.approx(card["metrics"]["validation_loss"]["adapted"], rel=1e-5)


def test_torn_best_weights_are_not_the_end_of_a_run(settings: Settings, tmp_path: Path):
    wanted = settings(train__lr=0.3, train__steps=6, train__eval_every=1)
    with pytest.raises(Stopped):
        go(wanted, stop_at=("train", 5))
    (best,) = (tmp_path / "run" / "checkpoints" / "best").iterdir()
    (best / "weights.safetensors").write_bytes(b"torn")
    result = go(wanted, resume=True)
    assert result.used_step in (result.state.step, result.state.best_step)
    assert read_state(tmp_path / "run")


# --- NaN, memory, disk ---


def poison(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool], what: float = np.nan):
    """Makes the gradients of some steps non-finite; counts calls of the clipping."""
    calls = [0]
    clip = torch.nn.utils.clip_grad_norm_

    def clipped(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = list(parameters)
        calls[0] += 1
        if bad(calls[0]):
            parameters[0].grad[0] = what
        return clip(parameters, *args, **kwargs)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)


@pytest.mark.parametrize("what", [np.nan, np.inf])
def test_a_bad_step_is_skipped_and_counted(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: float
):
    poison(monkeypatch, lambda call: call in (3, 6), what)
    seen: dict[int, list[torch.Tensor]] = {}
    step = Loop._step

    def watched(loop: Loop) -> None:
        step(loop)
        seen[loop.state.step] = [p.detach().clone() for p in loop.names.values()]

    monkeypatch.setattr(Loop, "_step", watched)
    result = go(settings(train__max_bad_steps=2))
    assert result.state.bad_steps == 2
    assert result.state.step == 8
    for number in range(2, 9):
        same = all(torch.equal(a, b) for a, b in zip(seen[number], seen[number - 1], strict=True))
        assert same == (number in (3, 6))
    assert all(bool(torch.isfinite(p).all()) for p in seen[8])
    told = lines(tmp_path / "run", "train")
    assert [line["step"] for line in told if line.get("skipped")] == [3, 6]
    for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_after_too_many_the_run_ends_with_good_weights(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    poison(monkeypatch, lambda call: call >= 5)
    with pytest.raises(Diverged, match="3 steps in a row") as caught:
        go(settings(train__max_bad_steps=3, train__eval_every=2))
    assert caught.value.exit_code == 4
    assert "lower train.lr" in caught.value.mend
    found = Checkpoints(tmp_path / "run" / "checkpoints").newest()
    assert found is not None
    snapshot = Checkpoints.load(found[0])
    assert snapshot.state["step"] == 7
    assert all(bool(torch.isfinite(tensor).all()) for tensor in snapshot.weights.values())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in snapshot.optimizer.values())
    card = read_card(tmp_path / "run")
    assert card["step"] <= 6
    assert all(
        bool(torch.isfinite(t).all())
        for tensors in read_state(tmp_path / "run").values()
        for t in tensors.values()
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_says_what_to_change(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    add, calls = Gradients.add, [0]

    def greedy(gradients: Gradients, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6:
            raise error
        return add(gradients, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Gradients, "add", greedy)
        with pytest.raises(ResourceError, match=r"out of memory with train.batch_size=2") as caught:
            go(settings())
    assert "halve train.batch_size" in caught.value.mend
    assert caught.value.exit_code == 3
    assert go(settings(), resume=True).state.step == 8


def test_other_errors_are_not_called_memory(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Gradients, "add", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        go(settings())


def test_a_full_disk_stops_the_run_and_it_goes_on_later(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = go(settings(out=str(tmp_path / "whole")))
    save, calls = checkpoint.save_file, [0]

    def full(*args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(ResourceError, match="disk"):
            go(settings())
    go(settings(), resume=True)
    mine, theirs = read_state(tmp_path / "run"), read_state(whole.folder)
    assert all(torch.equal(mine["decoder"][name], t) for name, t in theirs["decoder"].items())


# --- early stopping, averaging ---


def test_early_stopping(settings: Settings, tmp_path: Path):
    wanted = settings(train__lr=0.5, train__steps=100, train__eval_every=1, train__patience=2)
    result = go(wanted)
    assert result.state.stopped_early
    assert result.state.step == result.state.best_step + 2 < 100
    steps = [line["step"] for line in lines(tmp_path / "run", "valid")]
    assert steps == [*range(result.state.step + 1)]
    again = go(wanted, resume=True)  # a run that has ended stays ended
    assert again.state.step == result.state.step
    assert again.used_step == result.used_step


def test_averaged_weights_are_the_average(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    history: list[torch.Tensor] = []
    loops: list[Loop] = []
    average = Average.update

    def watched(self: Average, names: Any, step: int) -> None:
        average(self, names, step)
        history.append(next(iter(names.values())).detach().clone())

    start: list[torch.Tensor] = []
    run = Loop.run

    def started(loop: Loop) -> Any:
        start.append(next(iter(loop.names.values())).detach().clone())
        loops[:] = [loop]
        return run(loop)

    monkeypatch.setattr(Average, "update", watched)
    monkeypatch.setattr(Loop, "run", started)
    go(settings(train__ema=0.3, train__steps=5))
    wanted = start[0]
    for step, weights in enumerate(history):
        decay = min(0.3, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * weights
    found = next(iter(loops[0].average.weights.values()))
    assert len(history) == 5
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


# --- resume and init_from ---


def test_a_run_is_not_overwritten(settings: Settings):
    go(settings(train__steps=2))
    with pytest.raises(UserError, match=r"already holds a run.*--resume"):
        go(settings(train__steps=2))


def test_resume_needs_a_run(settings: Settings, tmp_path: Path):
    with pytest.raises(UserError, match="holds no run"):
        go(settings(), resume=True)
    assert not (tmp_path / "run").exists()


def test_resume_with_other_settings_is_refused_by_name(settings: Settings, tmp_path: Path):
    with pytest.raises(Stopped):
        go(settings(), stop_at=("train", 3))
    with pytest.raises(UserError, match=r"other settings \(train.lr\)"):
        go(settings(train__lr=5e-3), resume=True)
    with pytest.raises(UserError, match=r"method.rank, seed"):
        go(settings(method={"name": "lora", "rank": 2}, seed=5), resume=True)
    with pytest.raises(UserError, match="init_from"):
        go(settings(init_from=str(tmp_path / "other")), resume=True)
    with pytest.raises(UserError, match=r"\(train.lr\)"):
        tunesmith.train(**_as_keywords(settings(train__lr=1e-4)), resume=True)
    assert go(settings(), resume=True).state.step == 8


def test_a_run_of_an_earlier_version_goes_on(settings: Settings, tmp_path: Path):
    """Settings that it did not know have their defaults, and only those."""
    with pytest.raises(Stopped):
        go(settings(), stop_at=("train", 3))
    file = tmp_path / "run" / "config.yaml"
    told = yaml.safe_load(file.read_text())
    del told["watch"], told["auto_fix"], told["data"]["anchor"], told["method"]["dropout"]
    del told["replay"]
    file.write_text(yaml.safe_dump(told))
    with pytest.raises(UserError, match=r"other settings \(auto_fix\)"):
        go(settings(auto_fix=True), resume=True)
    with pytest.raises(UserError, match=r"\(method.dropout\)"):
        go(settings(method={"name": "lora", "rank": 4, "dropout": 0.5}), resume=True)
    assert go(settings(), resume=True).state.step == 8


def _as_keywords(settings: dict[str, Any]) -> dict[str, Any]:
    head = {key: settings.pop(key) for key in ("base", "method", "data", "out")}
    return head | {"settings": settings}


def test_a_run_that_moved_can_be_resumed(settings: Settings, tmp_path: Path):
    with pytest.raises(Stopped):
        go(settings(), stop_at=("train", 3))
    (tmp_path / "run").rename(tmp_path / "moved")
    assert go(settings(out=str(tmp_path / "moved")), resume=True).state.step == 8


def test_resume_refuses_other_data(settings: Settings, tmp_path: Path, tiny_data: Path):
    import shutil

    from tiny import write_noise

    shutil.copytree(tiny_data, tmp_path / "data")
    wanted = settings(data=str(tmp_path / "data"))
    with pytest.raises(Stopped):
        go(wanted, stop_at=("train", 3))
    write_noise(tmp_path / "data" / "train" / "0.wav", 0.4, seed=99)
    with pytest.raises(UserError, match="the data has changed since this run began"):
        go(wanted, resume=True)


def test_a_torn_checkpoint_costs_steps_but_no_difference(settings: Settings, tmp_path: Path):
    whole = go(settings(out=str(tmp_path / "whole")))
    with pytest.raises(Stopped):
        go(settings(), stop_at=("train", 7))
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    (newest / "optimizer.safetensors").write_bytes(b"")
    result = go(settings(), resume=True)
    assert any("is torn" in warning for warning in result.warnings)
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in lines(tmp_path / "run", "train")] == [
            line[name] for line in lines(whole.folder, "train")
        ]


def test_all_checkpoints_torn_is_an_error_and_no_new_start(settings: Settings, tmp_path: Path):
    with pytest.raises(Stopped):
        go(settings(), stop_at=("train", 3))
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        (path / "manifest.json").unlink()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="is whole"):
        go(settings(), resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_init_from_takes_weights_and_nothing_else(settings: Settings, tmp_path: Path):
    first = go(settings(out=str(tmp_path / "first"), train__lr=5e-2))
    wanted = settings(init_from=str(first.folder), train__steps=3)
    starts: list[int] = []
    run = Loop.run
    weights: list[dict[str, torch.Tensor]] = []

    def watched(loop: Loop) -> Any:
        starts.append(loop.state.step)
        weights.append({k: v.clone() for k, v in loop.adapter.state()["decoder"].items()})
        return run(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "run", watched)
        second = go(wanted)
    assert starts == [0]
    saved = read_state(first.folder)["decoder"]
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in saved.items())
    assert first.state.best_loss == pytest.approx(lines(second.folder, "valid")[0]["loss"])
    assert [line["step"] for line in lines(second.folder, "train")] == [1, 2, 3]


def test_a_resumed_warm_start_does_not_warm_start_again(settings: Settings, tmp_path: Path):
    import shutil

    first = go(settings(out=str(tmp_path / "first"), train__steps=2))
    wanted = settings(init_from=str(first.folder))
    with pytest.raises(Stopped):
        go(wanted, stop_at=("train", 3))
    shutil.rmtree(first.folder)
    assert go(wanted, resume=True).state.step == 8


def test_init_from_refuses_what_does_not_fit(settings: Settings, tmp_path: Path, other_base: Path):
    first = go(settings(out=str(tmp_path / "first"), train__steps=1))
    for changes, complaint in (
        ({"base": str(other_base)}, "was made for base"),
        ({"method": "full"}, "is a 'lora' adapter, this run trains 'full'"),
        ({"method": {"name": "lora", "rank": 2}}, "has shape"),
    ):
        out = str(tmp_path / complaint.replace("'", "")[:8])
        with pytest.raises(UserError, match=complaint):
            go(settings(init_from=str(first.folder), out=out) | changes)


# --- folders ---


def _hold(folder: str, ready: Any, leave: Any) -> None:
    from tunesmith.training.guards import locked

    with locked(Path(folder)):
        ready.set()
        leave.wait(60)


def test_two_processes_do_not_train_in_one_folder(settings: Settings, tmp_path: Path):
    from procs import CONTEXT

    (tmp_path / "run").mkdir()
    ready, leave = CONTEXT.Event(), CONTEXT.Event()
    other = CONTEXT.Process(target=_hold, args=(str(tmp_path / "run"), ready, leave))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UserError, match="another process is training"):
            go(settings(train__steps=1))
        assert not (tmp_path / "run" / "config.yaml").exists()
    finally:
        leave.set()
        other.join(60)
    assert go(settings(train__steps=1)).state.step == 1


def test_out_that_cannot_be_a_folder(settings: Settings, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for out in ("file", "file/below"):
        with pytest.raises(UserError, match="cannot write"):
            go(settings(out=str(tmp_path / out)))


def test_too_long_a_preview_is_said_before_training(settings: Settings):
    with pytest.raises(UserError, match=r"preview.seconds=9 is beyond the base's 4"):
        go(settings(preview__every=2, preview__seconds=9.0))


def test_no_validation_clips_is_a_warning(settings: Settings, tmp_path: Path):
    from tiny import write_data

    # Named folders, and the only one is for training: nothing is divided off.
    data = write_data(tmp_path / "d", (0.4, 0.5), valid=0)
    result = go(settings(data=str(data), train__steps=2))
    if result.state.best_step == -1:
        assert any("no validation clips" in warning for warning in result.warnings)
        assert result.used_step == 2
    else:
        assert result.state.first_loss is not None
    assert read_state(tmp_path / "run")


def test_forgetting_is_measured_on_other_clips(settings: Settings, tmp_path: Path):
    from tiny import write_data

    general = write_data(tmp_path / "general", (0.4, 0.5, 0.6), valid=1)
    go(settings(data={"path": settings()["data"], "general": str(general)}))
    assert all(line["general_loss"] > 0 for line in lines(tmp_path / "run", "valid"))
    assert read_card(tmp_path / "run")["metrics"]["general_loss"]["base"] > 0
