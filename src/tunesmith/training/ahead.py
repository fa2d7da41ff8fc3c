"""The next step's batches, put together while a device computes this one's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from tunesmith.training.streams import Drawn


class Ahead:
    """Batches by step; what comes next is drawn in a thread of its own.

    Which batch a step has is a function of its number alone, so drawing ahead changes nothing, and a
    step that was not expected (the first one, or one gone back to) is drawn when asked for. On a CPU
    nothing is drawn ahead: the threads that compute would wait for it.

    Args:
        draw: the batches of a step.
        device: where they are computed.
    """

    def __init__(self, draw: Callable[[int], list[Drawn]], device: torch.device) -> None:
        self._draw = draw
        self._thread: Any = None if device.type == "cpu" else ThreadPoolExecutor(1, "next step")
        self._next: tuple[int, Future[list[Drawn]]] | None = None

    def step(self, number: int) -> list[Drawn]:
        """The batches of a step."""
        if self._thread is None:
            return self._draw(number)
        ready = self.close()
        found = ready[number] if number in ready else self._draw(number)
        self._next = (number + 1, self._thread.submit(self._draw, number + 1))
        return found

    def close(self) -> dict[int, list[Drawn]]:
        """Wait for what is being drawn, and hand it out; two threads never read the clips at once."""
        expected, self._next = self._next, None
        return {expected[0]: expected[1].result()} if expected else {}


__all__ = ["Ahead"]
