"""One of several processes that train one run: what :class:`Parallel` promises, over ``torch.distributed``.

Two ways lead from one process to another. In the steps it is collectives: gloo on the CPU for the few
numbers that all have to know, NCCL or gloo for gradients. Around them, where one may wait for another
through hours of encoding, it is the launcher's key-value store, asked now and then: such a wait has no
time limit, hears of a stop, and ends when another process has failed.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tunesmith import errors
from tunesmith.errors import Stopped, UserError
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter
from tunesmith.training import launch
from tunesmith.training.checkpoint import PARTS, Snapshot
from tunesmith.training.parallel import Mode, Parallel, Thing
from tunesmith.training.sharding import Sharded, fits_whole
from tunesmith.training.signals import StopFlag
from tunesmith.types import Batch, Loss

PATIENCE = timedelta(minutes=30)
"""Of a collective. All take the same steps at the same time; the long waits do not use any."""

_ASK_S = 0.05
_HEAR_S = 1.0
_connected: Processes | None = None


def connected() -> Processes | None:
    """The processes, if this one is connected to the others."""
    return _connected


def connect() -> Processes:
    """Connect to the others that the launcher started.

    Raises:
        UserError: more processes on a machine than it has devices.
    """
    global _connected
    backend = "gloo"
    if torch.cuda.is_available():
        backend, here, have = "cpu:gloo,cuda:nccl", launch.local_rank(), torch.cuda.device_count()
        if here >= have:
            raise UserError(
                f"there are {here + 1} processes or more on this machine, and {have} GPUs",
                f"start {have} a machine (--nproc-per-node {have}), or hide the GPUs "
                "(CUDA_VISIBLE_DEVICES=) to train on the CPU",
            )
        torch.cuda.set_device(here)
    store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("collectives", store),
        rank=rank,
        world_size=world,
        timeout=PATIENCE,
    )
    atexit.register(_disconnect)
    _connected = Processes(rank, world, dist.PrefixStore("tunesmith", store))
    return _connected


def _disconnect() -> None:
    # Only after a good end: it waits for the others, and one that failed must not.
    if _connected is not None and _connected.ended and dist.is_initialized():
        dist.destroy_process_group()


class _Everywhere(StopFlag):
    """A flag that is up as soon as it is up in any process, as long as somebody asks."""

    def __init__(self, own: StopFlag, store: dist.Store, key: str) -> None:
        self._own, self._store, self._key = own, store, key
        self._told, self._asked = False, -_HEAR_S
        super().__init__()

    @property
    def number(self) -> int:  # type: ignore[override]
        if self._own.number and not self._told:
            self._told = True
            self._store.set(self._key, str(self._own.number))
        if not self._own.number and time.monotonic() - self._asked >= _HEAR_S:
            self._asked = time.monotonic()
            if self._store.check([self._key]):
                self._own.set(int(self._store.get(self._key)))
                self._told = True
        return self._own.number

    @number.setter
    def number(self, value: int) -> None:
        if value:
            self._own.set(value)


class Processes(Parallel):
    """This process among several.

    Args:
        rank: which this is.
        world: how many there are.
        store: what all of them can read and write.
    """

    def __init__(self, rank: int, world: int, store: dist.Store) -> None:
        self.rank, self.world = rank, world
        self._store = store
        self._turns, self._runs = itertools.count(), itertools.count()
        self._stop: StopFlag | None = None
        self._own: set[int] = set()
        self.ended = False
        self._sharded: Sharded | None = None

    # --- talk ---

    def begin(self, stop: StopFlag) -> StopFlag:
        self._sharded, self.ended = None, False
        self._stop = _Everywhere(stop, self._store, f"stop-{next(self._runs)}")
        return self._stop

    def end(self) -> None:
        self.agreed(0)
        self.ended = True

    def first_to_tell(self) -> bool:
        """Whether no other process has told yet how the run ended; from then on this one has."""
        try:
            return self._store.add("failed", 1) == 1
        except RuntimeError:
            return False  # the process that holds the store has ended, and was the first

    @property
    def split(self) -> bool:
        return self._sharded is not None

    def elsewhere(self) -> bool:
        """Whether another process has told that it failed."""
        try:
            return self._store.add("failed", 0) > 0
        except RuntimeError:
            return True

    def lead(self, make: Callable[[], Thing]) -> Thing:
        with self.leader_first() as turn:
            if self.leader:
                turn["value"] = make()
        return turn["value"]

    @contextmanager
    def leader_first(self) -> Iterator[dict[str, Any]]:
        key, turn = f"turn-{next(self._turns)}", {}
        if not self.leader:
            turn = json.loads(self._awaited(key))
            if "error" in turn:
                raise _error(turn)
            yield turn
            return
        try:
            yield turn
        except Stopped as error:
            self._store.set(
                key,
                json.dumps(
                    {"error": "Stopped", "number": error.signal_number, "message": str(error)}
                ),
            )
            raise
        except UserError as error:
            told = {"error": type(error).__name__, "message": error.message, "mend": error.mend}
            self._store.set(key, json.dumps(told))
            raise
        except BaseException:
            self.first_to_tell()  # a bug: its traceback is to be seen, once
            raise
        else:
            text = json.dumps(turn)
            self._store.set(key, text)
            turn.update(json.loads(text))  # the same for all: tuples are lists

    def _awaited(self, key: str) -> bytes:
        try:
            while not self._store.check([key]):
                self._look_around()
                time.sleep(_ASK_S)
            return self._store.get(key)
        except RuntimeError as error:  # the store has gone with the process that held it
            raise UserError("another process ended the run") from error

    def _look_around(self) -> None:
        if self.elsewhere():
            raise UserError("another process ended the run")

    def meet(self) -> None:
        key = f"turn-{next(self._turns)}"
        self._store.add(key, 1)
        while self._store.add(key, 0) < self.world:
            if self._stop is not None:
                self._stop.check("stopped before training began; run the same command again")
            self._look_around()
            time.sleep(_ASK_S)

    def share(self, things: Sequence[Thing]) -> Sequence[Thing]:
        return things[self.rank :: self.world]

    def told(self, mine: Thing) -> list[Thing]:
        text = torch.frombuffer(bytearray(json.dumps(mine).encode()), dtype=torch.uint8)
        sizes = self._all(torch.tensor([len(text)]))
        longest = int(sizes.max())
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(text)] = text
        rows = self._all(padded).view(self.world, longest)
        return [
            json.loads(row[: int(size)].numpy().tobytes())
            for row, size in zip(rows, sizes, strict=True)
        ]

    def _all(self, mine: Tensor) -> Tensor:
        """Every process's tensor, one after the other; on the CPU."""
        found = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(found, mine)
        return torch.cat(found)

    def agreed(self, number: int) -> int:
        return int(self._all(torch.tensor([number])).max())

    @contextmanager
    def together(self) -> Iterator[None]:
        number, said = 0, ""
        try:
            yield
        except Stopped as error:
            number, said = error.signal_number, str(error)
        if number := self.agreed(number):
            raise Stopped(number, said or "stopped")

    def summed(self, values: Mapping[str, float]) -> Mapping[str, float]:
        # Gathered and added up in one order, not reduced: how a backend adds is its own affair, and
        # processes that disagree in a last bit may decide differently.
        mine = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64)
        sums = self._all(mine).view(self.world, -1).sum(dim=0).tolist()
        return dict(zip(sorted(values), sums, strict=True))

    def from_leader(self, make: Callable[[], Snapshot | None]) -> Snapshot | None:
        snapshot: Snapshot | None = None

        def header() -> dict[str, Any] | None:
            nonlocal snapshot
            snapshot = make()
            if snapshot is None:
                return None
            parts = {part: getattr(snapshot, part) for part in PARTS}
            kinds = {
                part: {n: [list(t.shape), str(t.dtype)] for n, t in tensors.items()}
                for part, tensors in parts.items()
            }
            return {"state": dict(snapshot.state), "kinds": kinds}

        told = self.lead(header)
        if told is None:
            return None
        parts: dict[str, dict[str, Tensor]] = {}
        for part, kinds in told["kinds"].items():
            parts[part] = {}
            for name, (shape, dtype) in kinds.items():
                if snapshot is not None:
                    whole = getattr(snapshot, part)[name].detach().to("cpu").contiguous()
                else:
                    whole = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
                dist.broadcast(whole.view(-1).view(torch.uint8), 0)
                parts[part][name] = whole
        return Snapshot(**parts, state=told["state"])

    # --- the model ---

    def know(self, module: nn.Module) -> None:
        self._own = {id(parameter) for parameter in module.parameters()}

    def wrap(
        self, bundle: Bundle, adapter: Adapter, mode: Mode, optimizer: str
    ) -> Callable[[Batch], Loss]:
        names = adapter.parameters()
        for parameter in names.values():
            # Seeded alike, but machines may differ in a last bit, where a start is computed.
            dist.broadcast(parameter.detach(), 0)
        if self._splits(bundle, names, mode):
            added = {p for p in names.values() if id(p) not in self._own}
            self._sharded = Sharded(bundle, added, self.world, optimizer)
            return bundle.module
        # Parameters without a gradient are looked for in each step: layer drop leaves some out, and a
        # stand-in for a lost caption is there in some shares alone.
        return DistributedDataParallel(
            bundle.module, broadcast_buffers=False, init_sync=False, find_unused_parameters=True
        )

    def _splits(self, bundle: Bundle, names: Mapping[str, nn.Parameter], mode: Mode) -> bool:
        if mode == "auto":
            asked = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
            split = asked or not fits_whole(bundle, names)
            return bool(self.agreed(int(split and not bundle.quantized)))
        if mode == "fsdp" and bundle.quantized:
            raise UserError(
                f"parallel=fsdp cannot split a base in {bundle.quantized}",
                "set parallel=ddp: in four bits it is an eighth of its size in every process",
            )
        return mode == "fsdp"

    def after_backward(self, names: Mapping[str, nn.Parameter]) -> None:
        if self._sharded is not None:
            self._sharded.average(self._sharded.added)

    def clip(self, names: Mapping[str, nn.Parameter], limit: float) -> float:
        if self._sharded is None:
            return super().clip(names, limit)
        return self._sharded.clip(names, limit)

    def gathered(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self._sharded is None:
            return tensors
        return self._sharded.gathered(tensors, keep=self.leader)

    @contextmanager
    def whole(self) -> Iterator[None]:
        if self._sharded is None:
            yield
            return
        with self._sharded.whole():
            yield


def _error(told: Mapping[str, Any]) -> Exception:
    """What the leader raised."""
    if told["error"] == "Stopped":
        return Stopped(told["number"] or signal.SIGTERM, told["message"])
    kind = getattr(errors, told["error"], UserError)
    known = kind if kind in (errors.ResourceError, errors.Diverged) else UserError
    return known(told["message"], told["mend"])


__all__ = ["Processes", "connect", "connected"]
