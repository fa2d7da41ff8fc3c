"""A step as CUDA graphs: the launches of all its kernels as one, which at small batches is most of its time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import torch

_LOG = logging.getLogger(__name__)
_MOST = 24
"""Graphs at a time. Their memory is shared, but each holds its launches."""


class Captured:
    """Makes steps, and on a GPU replays the graph that was captured of one of the same shapes.

    A step reads and writes tensors that stay where they are, and nothing else. The first of its shapes is
    made kernel by kernel and then captured for those that follow. If a capture fails, all are made so.

    Args:
        device: where steps run.

    Attributes:
        usable: whether anything is captured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.usable = device.type == "cuda"
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.usable else None

    def forget(self) -> None:
        """What graphs read is elsewhere from now on."""
        self._graphs.clear()

    def __call__(self, key: Hashable | None, run: Callable[[], None]) -> None:
        """Make a step.

        Args:
            key: of its shapes; None if they do not say which kernels it launches.
            run: makes it.
        """
        if not self.usable or key is None:
            return run()
        graph = self._graphs.get(key)
        if graph is not None:
            return graph.replay()
        with torch.cuda.device(self._device):
            # What libraries set up at their first call must not be captured, and belongs aside.
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                run()
            torch.cuda.current_stream().wait_stream(aside)
            try:
                self._keep(key, run)
            except RuntimeError as error:
                _LOG.warning("no CUDA graphs, steps are launched kernel by kernel: %s", error)
                self.usable = False
                self._graphs.clear()

    def _keep(self, key: Hashable, run: Callable[[], None]) -> None:
        if len(self._graphs) >= _MOST:
            self._graphs.clear()
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy an adapter meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        self._graphs[key] = graph


__all__ = ["Captured"]
