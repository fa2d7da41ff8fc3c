"""What processes share out between them, and what a process on its own does not do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from many import environment
from torch import nn

from tunesmith.methods._adapter import placed
from tunesmith.training import launch
from tunesmith.training.guards import _changed
from tunesmith.training.parallel import ALONE, Parallel
from tunesmith.training.sharding import Sharded
from tunesmith.training.streams import Stream, Streams
from tunesmith.types import Example


class One(Parallel):
    """One of several that talk to nobody."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def share(self, things: Sequence[Any]) -> Sequence[Any]:
        return things[self.rank :: self.world]


class Names:
    """Collates examples to their names and seeds."""

    @staticmethod
    def collate(examples: Sequence[Example], seeds: Sequence[int], drop: float) -> Any:
        return [(one.clip_id, seed) for one, seed in zip(examples, seeds, strict=True)]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_the_global_batch(world: int):
    """Whatever the number of processes: each clip once, with its own seed, and none beside them."""
    lengths = [4, 9, 2, 7, 5, 3, 8]
    examples = [Example(str(i), torch.zeros(1, n), {}) for i, n in enumerate(lengths)]
    bundle: Any = Names()

    def drawn(parallel: Parallel, step: int) -> Any:
        streams = Streams([Stream("train", examples, lengths, 5)], seed=3, bucket=True)
        (found,) = streams.draw(step, 2, bundle, 0.0, parallel)
        return found

    for step in range(3):  # batches of five and of two
        whole = drawn(ALONE, step)
        assert list(whole.weights) == [1.0, 1.0]
        shares = [drawn(One(rank, world), step) for rank in range(world)]
        assert {(one.clips, one.epoch) for one in shares} == {(whole.clips, whole.epoch)}
        for part, batch in enumerate(whole.batches):
            counted = [row for one in shares if one.weights[part] for row in one.batches[part]]
            assert sorted(counted) == sorted(batch)
            sizes = [len(one.batches[part]) for one in shares]
            assert max(sizes) - min(sizes) <= 1
            assert min(sizes) >= 1, "a process without a clip computes a stand-in"


def test_a_process_knows_that_it_was_launched(monkeypatch: pytest.MonkeyPatch):
    for name in launch.NAMES:
        monkeypatch.delenv(name, raising=False)
    assert (launch.rank(), launch.world_size(), launch.leads(), launch.tells()) == (
        0,
        1,
        True,
        True,
    )
    monkeypatch.setenv("WORLD_SIZE", "8")  # some schedulers set one of them
    assert launch.world_size() == 1
    for name, value in environment(3, 4, 29500).items():
        monkeypatch.setenv(name, value)
    assert (launch.rank(), launch.local_rank(), launch.world_size()) == (3, 3, 4)
    assert not launch.leads()


def test_a_norm_over_whole_parameters_is_torchs():
    torch.manual_seed(0)
    names = {str(i): nn.Parameter(torch.zeros(n, n)) for i, n in enumerate((3, 5, 2))}
    grads = {name: torch.randn_like(p) for name, p in names.items()}
    found = []
    for clip in (ALONE.clip, Sharded.clip):
        for name, parameter in names.items():
            parameter.grad = grads[name].clone()
        who: Any = () if clip == ALONE.clip else (None,)
        norm = clip(*who, names, 0.5)  # type: ignore[call-arg]
        found.append((norm, torch.cat([p.grad.flatten() for p in names.values()])))  # type: ignore[union-attr]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1])
    assert float(found[0][1].norm()) == pytest.approx(0.5, rel=1e-4)


def test_whole_tensors_stay_whole_where_nothing_is_split():
    value, parameter = torch.arange(3.0), nn.Parameter(torch.zeros(3))
    assert placed(value, parameter) is value
    assert placed(value, parameter, copy=True) is not value


def test_how_a_run_is_spread_is_no_setting_that_must_not_change():
    assert _changed({"parallel": "ddp", "seed": 0}, {"parallel": "fsdp", "seed": 1}) == ["seed"]
