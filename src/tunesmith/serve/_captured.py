"""A step as CUDA graphs: the launches of all its kernels as one, which at small batches is most of its time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)


class Captured:
    """Runs a step as it is, or on a GPU as the graph that was captured of it for these shapes.

    A step reads and writes tensors that stay where they are, but for its two inputs, which are copied into
    two that do. If a capture fails, steps go on as they are.

    Args:
        slots: of a step.
        codebooks: tokens of each.
        device: where it runs.
    """

    def __init__(self, slots: int, codebooks: int, device: torch.device) -> None:
        self._usable = device.type == "cuda"
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._tokens = torch.zeros(slots, codebooks, dtype=torch.long, device=device)
        self._places = torch.zeros(slots, dtype=torch.long, device=device)

    def forget(self) -> None:
        """What graphs read is elsewhere from now on."""
        self._graphs.clear()

    def __call__(
        self,
        key: Hashable,
        run: Callable[[Tensor, Tensor], Tensor],
        tokens: Tensor,
        places: Tensor,
        *,
        plain: bool,
    ) -> Tensor:
        """The logits of a step; the next one may write over them.

        Args:
            key: of the shapes.
            run: the step.
            tokens, places: its inputs, ``[S, K]`` and ``[S]``.
            plain: nothing of it depends on anything but tensors that stay where they are.
        """
        if not (self._usable and plain):
            return run(tokens, places)
        self._tokens.copy_(tokens)
        self._places.copy_(places)
        if key not in self._graphs:
            try:
                self._graphs[key] = self._capture(run)
            except RuntimeError as error:
                _LOG.warning("no CUDA graphs, steps are launched kernel by kernel: %s", error)
                self._usable = False
                return run(tokens, places)
        graph, logits = self._graphs[key]
        graph.replay()
        return logits

    def _capture(
        self, run: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        # Once before, for what libraries set up at their first call. What is written is written twice.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run(self._tokens, self._places)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy an adapter meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            logits = run(self._tokens, self._places)
        return graph, logits


__all__ = ["Captured"]
