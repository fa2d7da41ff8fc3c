from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import tunesmith.training.checkpoint as checkpoint
from tunesmith.errors import ResourceError, UserError
from tunesmith.training.checkpoint import (
    Checkpoints,
    Snapshot,
    optimizer_tensors,
    restore_optimizer,
)


def snapshot(step: int, size: int = 4, **state: Any) -> Snapshot:
    weights = {"decoder/a": torch.full((size,), float(step)), "decoder/b.c": torch.zeros(2, 3)}
    optimizer = {"decoder/a/step": torch.tensor(float(step))}
    return Snapshot(weights, optimizer, {}, {"step": step, "best": 1e-3, **state})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path: Path):
    path = Checkpoints(tmp_path).save(snapshot(7, best_loss=float("inf")))
    found = Checkpoints.load(path)
    for part in ("weights", "optimizer"):
        wanted, tensors = getattr(snapshot(7), part), getattr(found, part)
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert found.averaged == {}
    assert found.state == {"step": 7, "best": 1e-3, "best_loss": float("inf")}
    kinds = {file.suffix for file in path.iterdir()}
    assert kinds == {".safetensors", ".json"}, "no pickle"


def test_the_newest_are_kept(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest() is None
    for step in (1, 2, 10, 3):
        checkpoints.save(snapshot(step))
    assert names(tmp_path) == ["step-00000003", "step-00000010"]
    assert checkpoints.newest() == (tmp_path / "step-00000010", [])


def test_the_disk_budget_keeps_at_least_the_newest(tmp_path: Path):
    one = Checkpoints(tmp_path / "a").save(snapshot(1, size=1000))
    bytes_each = sum(file.stat().st_size for file in one.iterdir())
    roomy = Checkpoints(tmp_path / "b", keep=9, budget_bytes=3 * bytes_each + 100)
    tight = Checkpoints(tmp_path / "c", keep=9, budget_bytes=10)
    for step in range(1, 7):
        roomy.save(snapshot(step, size=1000))
        tight.save(snapshot(step, size=1000))
    assert names(tmp_path / "b") == [f"step-{step:08d}" for step in (4, 5, 6)]
    assert names(tmp_path / "c") == ["step-00000006"]


def tear(path: Path, how: str) -> None:
    file = path / "weights.safetensors"
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif how == "flipped":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
    elif how == "file gone":
        file.unlink()
    elif how == "no manifest":
        (path / "manifest.json").unlink()
    elif how == "cut manifest":
        (path / "manifest.json").write_text('{"weights')
    elif how == "empty manifest":
        (path / "manifest.json").write_text("{}")
    else:
        raise AssertionError(how)


TEARS = pytest.mark.parametrize(
    "how", ["cut", "flipped", "file gone", "no manifest", "cut manifest", "empty manifest"]
)


@TEARS
def test_a_torn_one_is_passed_over_with_a_remark(tmp_path: Path, how: str):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(snapshot(step))
    tear(tmp_path / "step-00000003", how)
    found = checkpoints.newest()
    assert found is not None
    assert found[0].name == "step-00000002"
    (remark,) = found[1]
    assert remark.startswith("step-00000003 is torn")


@TEARS
def test_when_all_are_torn_nothing_starts_over(tmp_path: Path, how: str):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        tear(checkpoints.save(snapshot(step)), how)
    with pytest.raises(UserError, match=r"no checkpoint under .* is whole"):
        checkpoints.newest()


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(snapshot(1))
    (tmp_path / ".step-00000002.tmp").mkdir()
    (tmp_path / ".step-00000002.tmp" / "weights.safetensors").write_bytes(b"half")
    found = checkpoints.newest()
    assert found is not None
    assert found[0].name == "step-00000001"
    assert names(tmp_path) == ["step-00000001"]


def test_one_set_aside_comes_back_if_nothing_replaced_it(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = checkpoints.save(snapshot(5))
    path.rename(tmp_path / ".step-00000005.old")
    found = checkpoints.newest()
    assert found == (path, [])
    shutil.copytree(path, tmp_path / ".step-00000005.old")
    assert checkpoints.newest() == (path, [])
    assert names(tmp_path) == ["step-00000005"]


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def test_the_same_step_again_is_safe_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Killed before any one of its moves, the only checkpoint there is stays whole: old or new."""
    moves, limit = [0], [10**9]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            moves[0] += 1
            if moves[0] > limit[0]:
                raise Killed
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(checkpoint, "save_file", counted(checkpoint.save_file))
    monkeypatch.setattr(checkpoint, "flush", counted(checkpoint.flush))
    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    checkpoints = Checkpoints(tmp_path / "x", keep=1)
    checkpoints.save(snapshot(5, note="old"))
    moves[0] = 0
    checkpoints.save(snapshot(5, note="new"))
    total = moves[0]
    assert total > 8
    seen = set()
    for kill_at in range(total):
        folder = tmp_path / str(kill_at)
        limit[0] = 10**9
        checkpoints = Checkpoints(folder, keep=1)
        checkpoints.save(snapshot(5, note="old"))
        moves[0], limit[0] = 0, kill_at
        with pytest.raises(Killed):
            checkpoints.save(snapshot(5, note="new"))
        limit[0] = 10**9
        found = Checkpoints(folder, keep=1).newest()
        assert found is not None, f"nothing is left after a kill at move {kill_at}"
        seen.add(Checkpoints.load(found[0]).state["note"])
    assert seen == {"old", "new"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
    ids=["space", "quota", "safetensors"],
)
def test_a_full_disk_is_said_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(snapshot(1))

    def full(*args: Any, **kwargs: Any) -> None:
        raise error

    for name in ("save_file", "flush"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, name, full)
            with pytest.raises(ResourceError, match=r"disk .* is full") as caught:
                checkpoints.save(snapshot(2))
        assert caught.value.exit_code == 3
        assert "step 2 was not written" in caught.value.message
        assert names(tmp_path) == ["step-00000001"]
        assert checkpoints.newest() == (tmp_path / "step-00000001", [])


def test_a_bug_of_ours_is_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ValueError("bug")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(ValueError, match="bug"):
        Checkpoints(tmp_path).save(snapshot(1))
    assert names(tmp_path) == []


def test_the_manifest_names_every_other_file(tmp_path: Path):
    path = Checkpoints(tmp_path).save(snapshot(1))
    manifest = json.loads((path / "manifest.json").read_text())
    assert sorted([*manifest, "manifest.json"]) == names(path)


def test_the_optimizer_goes_on_as_if_nothing_had_happened():
    def fresh() -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
        torch.manual_seed(0)
        named = {
            "decoder/a": torch.nn.Parameter(torch.randn(3, 3)),
            "decoder/a.b": torch.nn.Parameter(torch.randn(3)),  # a name that begins like another
        }
        return named, torch.optim.AdamW(named.values(), lr=0.1)

    def step(
        named: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, n: int
    ) -> None:
        for parameter in named.values():
            parameter.grad = torch.full_like(parameter, 0.3 * n)
        optimizer.step()

    left, one = fresh()
    for n in (1, 2):
        step(left, one, n)
    right, two = fresh()
    with torch.no_grad():
        for name, parameter in right.items():
            parameter.copy_(left[name])
    restore_optimizer(two, right, optimizer_tensors(one, left))
    for n in (3, 4):
        step(left, one, n)
        step(right, two, n)
    assert all(torch.equal(left[name], right[name]) for name in left)
    third, _ = fresh()
    assert not torch.equal(left["decoder/a"], third["decoder/a"])
