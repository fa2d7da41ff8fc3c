"""One run on several devices: a process each, and what they have to do together.

Every process draws the same global batch and computes its share of it. The sums and counts behind each
loss term are those of all shares together, so the gradients, averaged over the processes, are those of
one process with the whole batch, whatever was padded and whoever had more clips. All decide alike,
because all see the same numbers; one, the leader, writes and listens.

This stands on ``torch.distributed`` and not on Accelerate. ``accelerate launch`` and ``torchrun`` set the
same environment variables, and those are all that is needed of a launcher; what Accelerate would wrap is
ours already (the sampler must not be sharded by another hand, losses are sums and counts, checkpoints are
no pickles), and what is left of it, DDP, ``fully_shard`` and a clipped norm, is three calls of torch.

:class:`Parallel` is one process: it does nothing, and changes no bit.
:class:`tunesmith.training.processes.Processes` is one of several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

from torch import Tensor, nn

from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter
from tunesmith.training import launch
from tunesmith.training.checkpoint import Snapshot
from tunesmith.training.signals import StopFlag
from tunesmith.types import Batch, Loss

Mode = Literal["auto", "ddp", "fsdp"]
Thing = TypeVar("Thing")


class Parallel:
    """One process on its own.

    Attributes:
        rank: which process this is.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def leader(self) -> bool:
        """Whether this process writes files, prints, and makes what is to be heard."""
        return self.rank == 0

    @property
    def split(self) -> bool:
        """Whether the model's weights are split over the processes."""
        return False

    # --- talk ---

    def begin(self, stop: StopFlag) -> StopFlag:
        """A run begins; the flag that comes back is up as soon as it is up in any process."""
        return stop

    def end(self) -> None:
        """A run has ended well; nobody leaves while another one still has to hear of it."""

    def elsewhere(self) -> bool:
        """Whether another process has told that it failed, so that nothing is left to tell here."""
        return False

    def lead(self, make: Callable[[], Thing]) -> Thing:
        """What ``make`` gives in the leader, where alone it is called. It has to be JSON.

        Raises:
            UserError, Stopped: whatever it raised there, in every process.
        """
        return make()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader does it, then the others: what it left in a cache is not made again."""
        yield

    def meet(self) -> None:
        """Wait until every process is here."""

    def share(self, things: Sequence[Thing]) -> Sequence[Thing]:
        """The part that is this process's to do."""
        return things

    def told(self, mine: Thing) -> list[Thing]:
        """What every process has to say, in their order. It has to be JSON."""
        return [mine]

    def agreed(self, number: int) -> int:
        """The largest that any process gives: a signal that reached one has reached all."""
        return number

    @contextmanager
    def together(self) -> Iterator[None]:
        """A stretch in which each does its part; whoever was stopped in it stops all at its end."""
        yield

    def summed(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """Sums over the processes, the same bits in each."""
        return values

    def from_leader(self, make: Callable[[], Snapshot | None]) -> Snapshot | None:
        """A snapshot that the leader alone can read."""
        return make()

    # --- the model ---

    def know(self, module: nn.Module) -> None:
        """Remember what is the base's own, before a method is attached: what it adds is not split."""

    def wrap(
        self, bundle: Bundle, adapter: Adapter, mode: Mode, optimizer: str
    ) -> Callable[[Batch], Loss]:
        """What to call for the loss of this process's share, so that gradients become everyone's.

        Parameters may be others afterwards: ask the adapter for them again.

        Args:
            bundle: the base with the method attached.
            adapter: the attached method.
            mode: ``ddp``: every process holds the whole model; ``fsdp``: a part of its weights each;
                ``auto``: the first, unless it would not fit.
            optimizer: its name.

        Raises:
            UserError: what cannot be split.
        """
        return bundle.module

    def after_backward(self, names: Mapping[str, nn.Parameter]) -> None:
        """Called when a step's gradients are whole but for what :meth:`wrap` does not see."""

    def clip(self, names: Mapping[str, nn.Parameter], limit: float) -> float:
        """Scale gradients down to a norm over all of them, and return what that was."""
        return float(nn.utils.clip_grad_norm_(names.values(), limit or math.inf, foreach=True))

    def gathered(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Whole tensors of split ones. Every process has to ask; only the leader is to use them."""
        return tensors

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The module whole in every process, to be called in parts and by one alone."""
        yield


ALONE = Parallel()

_here: Parallel | None = None


def here() -> Parallel:
    """This process among those that a launcher started; connects them at the first call."""
    global _here
    if launch.world_size() == 1:
        return ALONE
    if _here is None:
        from tunesmith.training.processes import connect

        _here = connect()
    return _here


__all__ = ["ALONE", "Mode", "Parallel", "here"]
