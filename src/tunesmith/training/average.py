"""A moving average of the weights that train (Polyak averaging), in the place of them when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The averaged weights; none where the decay is 0.

    Args:
        names: what trains.
        decay: of the average.

    Attributes:
        weights: the average by name.
    """

    def __init__(self, names: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = (
            {name: p.detach().clone() for name, p in names.items()} if decay else {}
        )

    @torch.no_grad()
    def update(self, names: Mapping[str, nn.Parameter], step: int) -> None:
        """Take in the weights after a step, the number of which is that of steps before it."""
        # Early on the average would mostly hold the start; the ramp is that of Tarvainen & Valpola.
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self.weights.items():
            tensor.lerp_(names[name], 1 - decay)

    @contextmanager
    def in_use(self, names: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """The averaged weights in the place of those that train, if there are any."""
        kept = {name: names[name].detach().clone() for name in self.weights}
        with torch.no_grad():
            for name, tensor in self.weights.items():
                names[name].copy_(tensor)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in kept.items():
                    names[name].copy_(tensor)


__all__ = ["Average"]
