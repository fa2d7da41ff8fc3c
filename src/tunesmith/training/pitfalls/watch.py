"""All watchers of a run, as the loop sees them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.training.pitfalls.finding import Finding, Heard, Sound, Step, Validation, Watcher
from tunesmith.training.pitfalls.forgetting import Forgetting
from tunesmith.training.pitfalls.learning_rate import LearningRate
from tunesmith.training.pitfalls.too_long import TooLong


class Watch:
    """The watchers of one run.

    Args:
        watchers: who watches; none is a run that nobody watches.
        auto_fix: whether the loop may act on what they find.
    """

    def __init__(self, watchers: Sequence[Watcher] = (), *, auto_fix: bool = False) -> None:
        self.watchers, self.auto_fix = tuple(watchers), auto_fix

    @classmethod
    def usual(cls, lr: float, *, auto_fix: bool, max_bad_steps: int = 10) -> Watch:
        """Those that every run has.

        Args:
            lr: the configured peak rate, named in advice.
            auto_fix: whether the loop may act.
            max_bad_steps: NaN steps in a row that end a run; a watcher has to be earlier.
        """
        watchers = (LearningRate(lr, max_bad_steps), TooLong(), Forgetting(lr))
        return cls(watchers, auto_fix=auto_fix)

    @property
    def calm(self) -> bool:
        """Whether none of them is suspicious."""
        return all(one.calm for one in self.watchers)

    def memory(self) -> dict[str, Any]:
        """All that they remember, as plain data of its own."""
        return {one.name: copy.deepcopy(one.memory) for one in self.watchers}

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Remember what was known when :meth:`memory` was asked."""
        for one in self.watchers:
            one.memory = one.fresh() | copy.deepcopy(dict(memory.get(one.name, {})))

    def after_step(self, seen: Step) -> list[Finding]:
        return self._ask(lambda one: one.after_step(seen))

    def after_validation(self, seen: Validation) -> list[Finding]:
        return self._ask(lambda one: one.after_validation(seen))

    def after_preview(self, step: int, sounds: Sequence[Sound]) -> list[Finding]:
        """``sounds`` are the previews of a step, one a prompt, always in the same order."""
        if not sounds:
            return []
        heard = Heard(step, sounds)
        return self._ask(lambda one: one.after_preview(heard))

    def _ask(self, ask: Callable[[Watcher], Finding | None]) -> list[Finding]:
        found = [one for one in map(ask, self.watchers) if one is not None]
        return found if self.auto_fix else [replace(one, action="") for one in found]


__all__ = ["Watch"]
