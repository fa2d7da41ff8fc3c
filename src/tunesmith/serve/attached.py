"""What is attached to a base that serves: a mixer for most adapters, a switch for those it refuses.

A full fine-tune, and an adapter that widens what the base takes in, cannot share a batch with others. They
get a turn of their own: the mixer is taken off, the adapter put on, and back again. That costs a reload
each time the turn changes, so requests that can go together should.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import TASK, check_base
from tunesmith.formats.switch import Switch
from tunesmith.registry import plugins
from tunesmith.serve.mixer import Mixer

_LOG = logging.getLogger(__name__)
Weights = Mapping[str, float]
Turn = tuple[tuple[str, float, int], ...]
"""What has to be switched on: name, weight and version of each adapter; empty where the mixer serves."""


def needs_turn(card: Mapping[str, Any], bundle: Bundle) -> bool:
    """Whether an adapter cannot share a batch: it replaces weights, or changes what the base takes in.

    Args:
        card: its ``adapter.json``.
        bundle: its base.
    """
    method = plugins("methods").get(card["method"]["name"])
    trains_base = method is not None and bool(method.spec.get("trains_base"))
    # What is said to the base beside a prompt can differ from row to row only in its columns.
    foreign = (card.get("conditioning") or {}).keys() - set(bundle.columns)
    return trains_base or bool(card.get(TASK)) or bool(foreign)


@dataclass(frozen=True, slots=True)
class _Known:
    folder: Path
    version: int
    alone: bool
    conditioning: Mapping[str, Any]


class Attached:
    """The adapters of an engine. Adding and removing is for any thread, :meth:`use` for the engine's.

    Args:
        bundle: the base, with nothing attached.
        slots: adapters that the mixer holds.
        rank: the largest of one of them.
    """

    def __init__(self, bundle: Bundle, *, slots: int = 16, rank: int = 64) -> None:
        self._bundle, self._slots, self._rank = bundle, slots, rank
        self._known: dict[str, _Known] = {}
        self._version = 0
        self._mixer: Mixer | None = None  # while it is on the base
        self._switch: Switch | None = None  # the same
        self._on: Turn = ()
        # In this order where both are taken. What is on the base changes under both.
        self._turn, self._mount = threading.Lock(), threading.RLock()

    def folders(self) -> dict[str, Path]:
        """``{name: folder}`` of what can be asked for."""
        return {name: one.folder for name, one in list(self._known.items())}

    def add(self, name: str, folder: Path) -> None:
        """Load an adapter, or replace the one of that name. Waits for what is being made if it has to.

        Raises:
            UserError: it is not there, torn, of another base, or of a kind that cannot be served, or no
                slot is free; nothing has changed then.
        """
        card = check_base(Path(folder), self._bundle)
        said, alone = card.get("conditioning") or {}, needs_turn(card, self._bundle)
        if alone:
            # Tried once, so that what is torn is refused now and not when it is asked for.
            with self._turn, self._mount:
                self._take_off()
                with self._switched(Switch(self._bundle, {name: Path(folder)}), {name: 1.0}):
                    pass
                self._forget(name)
                self._keep(name, folder, alone, said)
            return
        while True:
            with self._mount:
                if self._mixer is not None:
                    self._mixer.add(name, Path(folder))
                    self._keep(name, folder, alone, said)
                    return
            with self._turn, self._mount:
                self._mix()

    def _keep(self, name: str, folder: Path, alone: bool, said: Mapping[str, Any]) -> None:
        self._version += 1
        self._known[name] = _Known(Path(folder), self._version, alone, said)

    def _forget(self, name: str) -> None:
        known = self._known.pop(name, None)
        if known is not None and not known.alone and self._mixer is not None:
            self._mixer.remove(name)

    def remove(self, name: str) -> None:
        """Forget an adapter; what is being made with it comes to its end.

        Raises:
            UserError: no such adapter.
        """
        with self._mount:
            if name not in self._known:
                raise UserError(f"no adapter '{name}'", did_you_mean(name, self._known))
            self._forget(name)

    def turn(self, adapters: Weights) -> Turn:
        """What a request has to wait for; requests of one turn can share a batch.

        Raises:
            UserError: an adapter that is not there (any more).
        """
        known = {}
        for name in adapters:
            if (one := self._known.get(name)) is None:
                raise UserError(f"no adapter '{name}'", "it was removed; ask for another")
            known[name] = one
        if not any(one.alone for one in known.values()):
            return ()
        return tuple(sorted((name, adapters[name], one.version) for name, one in known.items()))

    @contextmanager
    def use(self, turn: Turn, rows: Sequence[Weights]) -> Iterator[Wording]:
        """Let the rows of the batches inside have these adapters. Holds off all changes that would show.

        Args:
            turn: of all of them.
            rows: ``{name: weight}`` of each.

        Raises:
            UserError: adapters that cannot be had together, or that are gone.
        """
        with self._turn:
            if turn:
                with self._mount:
                    self._put_on(turn)
                yield Wording(self._switch, None)
                return
            with self._mount:
                self._mix(needed=any(rows))
                mixer = self._mixer
                # Under the lock: a slot that nobody is known to ask for could be given away.
                mixing = None if mixer is None else mixer.use(mixer.weights(rows))
                if mixing is not None:
                    mixing.__enter__()
            try:
                yield Wording(None, mixer)
            finally:
                if mixing is not None:
                    mixing.__exit__(None, None, None)

    def _mix(self, needed: bool = True) -> None:
        """The mixer is on, with all that it served before; not if nobody needs it."""
        if self._mixer is not None:
            return
        self._take_off()
        if not needed:
            return
        self._mixer = Mixer(self._bundle, slots=self._slots, rank=self._rank)
        for name, one in list(self._known.items()):
            if not one.alone:
                try:
                    self._mixer.add(name, one.folder)
                except UserError as error:  # its files have changed since they were checked
                    _LOG.warning("adapter %s is no longer served: %s", name, error)
                    del self._known[name]

    def _put_on(self, turn: Turn) -> None:
        if self._on == turn:
            return
        self._take_off()
        weights = {name: weight for name, weight, _ in turn}
        folders = {name: self._known[name].folder for name in weights if name in self._known}
        switch = Switch(self._bundle, folders)
        switch.select(weights)
        self._switch, self._on = switch, turn

    @contextmanager
    def _switched(self, switch: Switch, weights: Weights) -> Iterator[None]:
        switch.select(weights)
        try:
            yield
        finally:
            switch.select({})

    def _take_off(self) -> None:
        if self._mixer is not None:
            self._mixer.detach()
        if self._switch is not None:
            self._switch.select({})
        self._mixer, self._switch, self._on = None, None, ()

    def detach(self) -> None:
        """Take everything off the base; it is what it was."""
        with self._turn, self._mount:
            self._take_off()


@dataclass(frozen=True, slots=True)
class Wording:
    """How prompts are put to what is attached.

    Attributes:
        switch, mixer: which of them is.
    """

    switch: Switch | None
    mixer: Mixer | None

    def prompt(self, text: str, adapters: Weights) -> str:
        """A prompt as these adapters want to be asked."""
        if self.mixer is not None:
            return self.mixer.prompt(text, adapters)
        if self.switch is not None and self.switch.adapter is not None:
            return self.switch.adapter.prompt(text)
        return text

    def details(self, adapters: Weights, said: Mapping[str, Any]) -> dict[str, Any]:
        """What is told beside it: what the asker said, else what the adapters keep on their cards."""
        kept = self.mixer.details(adapters) if self.mixer is not None and adapters else {}
        spoken = {key: value for key, value in said.items() if value not in (None, "")}
        return {**kept, **spoken}


__all__ = ["Attached", "Turn", "Weights", "Wording", "needs_turn"]
