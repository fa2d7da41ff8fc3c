"""A method and trained tokens in one run: the production style that has a name of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.methods._adapter import Adapter, State


class Together(Adapter):
    """Two adapters on one base, at seams that do not meet.

    It goes by the first one's name and settings; the second one's stand beside them.

    Args:
        main: the method.
        tokens: the trained tokens, attached after it.
    """

    linear = False
    starts_as_base = False

    def __init__(self, main: Adapter, tokens: Adapter) -> None:
        self.main, self.tokens = main, tokens
        self.method, self.config = main.method, main.config
        self.tokens_config = tokens.config

    def parameters(self) -> dict[str, nn.Parameter]:
        return {**self.main.parameters(), **self.tokens.parameters()}

    def state(self) -> State:
        return {**self.main.state(), **self.tokens.state()}

    def load_state(self, state: State) -> None:
        mine = self.tokens.state().keys()
        self.tokens.load_state({part: state[part] for part in mine if part in state})
        self.main.load_state({part: some for part, some in state.items() if part not in mine})

    def set_strength(self, strength: float) -> None:
        # A word is there or not: between the ends the method fades, and the word keeps its meaning.
        self.tokens.set_strength(1.0 if strength else 0.0)
        self.main.set_strength(strength)

    def merge(self) -> None:
        self.tokens.merge()  # says why it cannot be, before anything is changed
        self.main.merge()

    def detach(self) -> None:
        self.tokens.detach()
        self.main.detach()

    def caption(self, text: str) -> str:
        return self.tokens.caption(self.main.caption(text))

    def prompt(self, text: str) -> str:
        return self.tokens.prompt(self.main.prompt(text))

    def rates(self) -> Mapping[str, float]:
        return {**self.main.rates(), **self.tokens.rates()}

    def after_step(self, rate: float) -> None:
        self.main.after_step(rate)
        self.tokens.after_step(rate)

    def peft_config(self, component: str) -> Mapping[str, Any] | None:
        if component in self.tokens.state():
            return self.tokens.peft_config(component)
        return self.main.peft_config(component)


def attach_all(
    bundle: Any,
    method: Any,
    config: Any,
    tokens: Any,
    tokens_config: Any,
    seed: int | None,
) -> Adapter:
    """Attach a method, and tokens beside it if ``tokens_config`` is not None.

    Args:
        bundle: the base.
        method: the method's module, and ``config`` its settings.
        tokens: the module of the method that trains tokens, and ``tokens_config`` its settings.
        seed: of the start; None where values will be loaded.
    """
    main = method.attach(bundle, config, seed)
    if tokens_config is None:
        return main
    try:
        return Together(main, tokens.attach(bundle, tokens_config, seed))
    except BaseException:
        main.detach()
        raise
