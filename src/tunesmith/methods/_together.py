"""A method and what trains beside it: tokens of its own, the input of a new task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from tunesmith.methods._adapter import Adapter, State


@dataclass(frozen=True, slots=True)
class Beside:
    """Something that is attached beside the method.

    Attributes:
        section: its section in a run's configuration and on an adapter's card: ``tokens``, ``task``.
        name: of the plug-in.
        module: the plug-in, with ``attach``.
        config: its settings.
    """

    section: str
    name: str
    module: Any
    config: Any


class Together(Adapter):
    """Several adapters on one base, at seams that do not meet.

    It goes by the first one's name and settings; the others' stand beside them.

    Args:
        main: the method.
        others: what was attached after it, in order.
        beside: what those are.
    """

    linear = False
    starts_as_base = False

    def __init__(self, main: Adapter, others: Sequence[Adapter], beside: Sequence[Beside]) -> None:
        self.main, self.others, self.beside = main, tuple(others), tuple(beside)
        self.method, self.config = main.method, main.config
        self.starts_as_base = all(one.starts_as_base for one in (main, *others))

    @property
    def _all(self) -> tuple[Adapter, ...]:
        return (self.main, *self.others)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: value for one in self._all for name, value in one.parameters().items()}

    def state(self) -> State:
        return {part: tensors for one in self._all for part, tensors in one.state().items()}

    def load_state(self, state: State) -> None:
        rest = dict(state)
        for one in self.others:
            own = [part for part in one.state() if part in rest]
            one.load_state({part: rest.pop(part) for part in own})
        self.main.load_state(rest)

    def set_strength(self, strength: float) -> None:
        # A word or a task is there or not: between the ends the method fades, and they stay.
        for one in self.others:
            one.set_strength(1.0 if strength else 0.0)
        self.main.set_strength(strength)

    def merge(self) -> None:
        for one in self.others:
            one.merge()  # says why it cannot be, before anything is changed
        self.main.merge()

    def detach(self) -> None:
        for one in reversed(self._all):
            one.detach()

    def caption(self, text: str) -> str:
        for one in self._all:
            text = one.caption(text)
        return text

    def prompt(self, text: str) -> str:
        for one in self._all:
            text = one.prompt(text)
        return text

    def rates(self) -> Mapping[str, float]:
        return {name: rate for one in self._all for name, rate in one.rates().items()}

    def after_step(self, rate: float) -> None:
        for one in self._all:
            one.after_step(rate)

    def peft_config(self, component: str) -> Mapping[str, Any] | None:
        for one in self.others:
            if component in one.state():
                return one.peft_config(component)
        return self.main.peft_config(component)


@contextmanager
def as_taught(bundle: Any, beside: Sequence[Beside]) -> Iterator[None]:
    """Let the bare base see examples as they will be when these are attached: with holes, say.

    Only so can its loss be compared with what becomes of it.
    """
    with ExitStack() as stack:
        for one in beside:
            if hasattr(one.module, "as_taught"):
                stack.enter_context(one.module.as_taught(bundle, one.config))
        yield


def attach_all(
    bundle: Any, method: Any, config: Any, beside: Sequence[Beside], seed: int | None
) -> Adapter:
    """Attach a method, and what trains beside it.

    Args:
        bundle: the base.
        method: the method's module, and ``config`` its settings.
        beside: the others, in order.
        seed: of the start; None where values will be loaded.
    """
    main = method.attach(bundle, config, seed)
    others: list[Adapter] = []
    try:
        for one in beside:
            others.append(one.module.attach(bundle, one.config, seed))
    except BaseException:
        for one in reversed((main, *others)):
            one.detach()
        raise
    return Together(main, others, beside) if others else main


__all__ = ["Beside", "Together", "as_taught", "attach_all"]
