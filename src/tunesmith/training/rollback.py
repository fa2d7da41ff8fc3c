"""States to go back to, should a run go wrong.

They stand beside the checkpoints, written when the run looks healthy, and do not depend on how often
those are. Which of them count is part of the run's state: a run that was killed and resumed writes the
same ones again, and goes back to the same.
"""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.training.checkpoint import Checkpoints, Snapshot
from tunesmith.training.state import State

CUT = 10.0
"""What the learning rate is divided by at each return."""

MOST = 3
"""Returns; a run that goes wrong at a thousandth of its rate has another fault."""

KEPT = 3
"""Newest states that are kept, beside the first."""

_CARRIED = (
    "bad_steps",
    "train_s",
    "best_aim",
    "best_loss",
    "best_step",
    "first_loss",
    "first_general",
    "first_anchor",
    "first_judged",
    "best_judged",
    "pitfalls",
)
"""What stays as it is when all else goes back. The best weights are the best, whenever they were."""


class GoodStates:
    """States to go back to.

    Args:
        checkpoints: where they are written.
        total: steps of the run; about twenty states are written, five steps apart at the least.
    """

    def __init__(self, checkpoints: Checkpoints, total: int) -> None:
        self.checkpoints, self.every = checkpoints, max(5, total // 20)

    def is_due(self, state: State) -> bool:
        """Whether the state of this step is to be kept."""
        return state.step % self.every == 0 and state.step not in state.good

    def keep(self, snapshot: Callable[[], Snapshot], state: State) -> None:
        """Write the state of now, and let go of those that are neither the first nor recent."""
        first, rest = state.good[:1], state.good[1:]
        state.good = [*first, *[*rest, state.step][-KEPT:]]
        self.checkpoints.save(snapshot(), last=True)
        self.checkpoints.leave(state.good)

    def before(self, since: int, state: State) -> Snapshot | None:
        """The newest whole state from before a symptom; None after too many returns.

        Args:
            since: the first step that showed it. Its loss is that of the weights which the step before
                had made, so those are not good either.
            state: of now.
        """
        if state.rollbacks >= MOST:
            return None
        for step in reversed(state.good):
            if step < since - 1 and (found := self.checkpoints.at(step)) is not None:
                return found
        return None


def carry(before: State, after: State) -> None:
    """Give the state that a run went back to what has to be known of the one that it came from."""
    for name in _CARRIED:
        setattr(after, name, getattr(before, name))
    after.good = [step for step in before.good if step <= after.step]
    after.rate_factor = before.rate_factor / CUT
    after.rollbacks = before.rollbacks + 1
