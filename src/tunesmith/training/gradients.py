"""Forward and backward of one batch: as it comes, or recorded once a shape and replayed on a CUDA device.

A step of a small model is thousands of kernels that each run for microseconds: the processor that
starts them one by one is what takes the time. A CUDA graph starts all of them at once. It does the same
kernels on the same addresses, so every batch is padded to one of few shapes (the family says which),
and gradients keep their place in memory from step to step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.families._bundle import Bundle
from tunesmith.objectives.mixture import total_loss
from tunesmith.training.measure import forward
from tunesmith.types import Batch, Loss

_MOST = 64
"""Graphs that are kept: each holds a little memory, and what is in the way of replays, a large share."""


class Gradients:
    """Adds a batch's gradient to that of the parameters.

    Args:
        bundle: the base with the method attached.
        names: what trains.
        dtype: precision of the computation.
        module: what is called for the loss.
    """

    def __init__(
        self,
        bundle: Bundle,
        names: Mapping[str, nn.Parameter],
        dtype: torch.dtype,
        module: Callable[[Batch], Loss],
    ) -> None:
        self.bundle, self.names, self.dtype, self.module = bundle, names, dtype, module

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self.names.values():
            parameter.grad = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """All steps of a run are computed within."""
        yield

    def add(
        self, batch: Batch, counts: Mapping[str, float], weight: float, factor: float
    ) -> Tensor:
        """Add factor · weight · ∂L to the gradients.

        Args:
            batch: on the CPU.
            counts: of each term, over the whole step and all processes.
            weight: 0 for a stand-in, else 1.
            factor: of the gradient alone.

        Returns:
            weight · L, on the device.
        """
        numbers = torch.tensor([weight, factor, *counts.values()], device=self.bundle.device)
        return self._plain(batch, list(counts), numbers)

    def _plain(self, batch: Batch, terms: list[str], numbers: Tensor) -> Tensor:
        weight, factor, *counts = numbers.unbind()
        loss = forward(self.bundle, batch, self.dtype, self.module)
        named = dict(zip(terms, counts, strict=True))
        share = weight * total_loss(loss, named, self.bundle.term_weights)
        (factor * share).backward()
        return share.detach()


@dataclass
class _Tape:
    """A recorded pass, where it reads, and where it leaves its loss."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    numbers: Tensor
    loss: Tensor

    def run(self, batch: Batch, numbers: Tensor) -> Tensor:
        self.batch.codes.copy_(batch.codes)
        self.batch.frames.copy_(batch.frames)
        for name, value in batch.text.items():
            self.batch.text[name].copy_(value)
        self.numbers.copy_(numbers)
        self.graph.replay()
        return self.loss.clone()


class RecordedGradients(Gradients):
    """:class:`Gradients` that records a shape when it comes for the second time, and replays it then.

    Dropout and the like go on drawing from the seed that was set last, also within a replay.

    Attributes:
        record_s: seconds that recording took so far.
        refused: why nothing is recorded any more; empty while all is well.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.record_s, self.refused = 0.0, ""
        self._tapes: dict[Any, _Tape] = {}
        self._seen: set[Any] = set()
        self._pool: Any = None
        self._largest = 1

    def clear(self) -> None:
        grads = []
        for parameter in self.names.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                grads.append(parameter.grad)
        if grads:
            torch._foreach_zero_(grads)

    @contextmanager
    def running(self) -> Iterator[None]:
        # Nothing can be recorded on the default stream, and what ran before on the stream that records
        # has made the handles and workspaces that cannot be made while it does.
        stream, before = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(before)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            before.wait_stream(stream)

    def add(
        self, batch: Batch, counts: Mapping[str, float], weight: float, factor: float
    ) -> Tensor:
        fixed = None if self.refused else self.bundle.module.static(batch)
        if fixed is None:
            return super().add(batch, counts, weight, factor)
        terms, numbers = list(counts), torch.tensor([weight, factor, *counts.values()])
        tensors = (fixed.codes, fixed.frames, *fixed.text.values())
        key = (*terms, *fixed.text, *((one.shape, one.dtype) for one in tensors))
        tape = self._tapes.get(key)
        if tape is None and key in self._seen and len(self._tapes) < _MOST:
            tape = self._record(key, fixed, terms, numbers)
        if tape is None:
            self._seen.add(key)
            self._make_room(fixed.codes.numel())
            return self._plain(fixed, terms, numbers.to(self.bundle.device))
        return tape.run(fixed, numbers)

    def _make_room(self, size: int) -> None:
        """Let go of what is recorded where a batch of this size might not fit beside it.

        What a recording needed stays reserved for its replays; a new length is computed once beside that.
        """
        if self._tapes:
            torch.cuda.empty_cache()
            held = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
            if torch.cuda.mem_get_info()[0] < 1.2 * held * max(1.0, size / self._largest):
                self._tapes.clear()
                self._pool = None
                torch.cuda.empty_cache()
        self._largest = max(self._largest, size)

    def _record(self, key: Any, batch: Batch, terms: list[str], numbers: Tensor) -> _Tape | None:
        begin = time.perf_counter()
        device = self.bundle.device
        graph = torch.cuda.CUDAGraph()
        held, told = batch.to(device), numbers.to(device)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            # Other threads may go on with what has nothing to do with this one's stream.
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=torch.cuda.current_stream(),
                capture_error_mode="thread_local",
            ):
                loss = self._plain(held, terms, told)
        except RuntimeError as error:
            self.refused = str(error).strip().splitlines()[0]
            torch.cuda.synchronize()
            return None
        self.record_s += time.perf_counter() - begin
        self._tapes[key] = _Tape(graph, held, told, loss)
        return self._tapes[key]


def gradients_of(
    bundle: Bundle,
    names: Mapping[str, nn.Parameter],
    dtype: torch.dtype,
    module: Callable[[Batch], Loss],
    *,
    record: bool,
) -> Gradients:
    """Recorded ones where that is wished and can be: one process on CUDA. Else plain ones.

    Whatever a process group has hooked into the backward pass talks to other processes, which a
    recording would not wait for.
    """
    can = record and bundle.device.type == "cuda" and module is bundle.module
    return (RecordedGradients if can else Gradients)(bundle, names, dtype, module)


__all__ = ["Gradients", "RecordedGradients", "gradients_of"]
