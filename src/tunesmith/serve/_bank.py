"""Where the adapters of a mixer lie: their factors, bottlenecks, prefixes and tokens, by slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.serve import _places
from tunesmith.serve._mixed import Mixed, MixedLinear, Narrow
from tunesmith.serve._mixed_prefix import MixedKeys, MixedStates
from tunesmith.serve._mixed_tokens import MixedTokens, Words, room
from tunesmith.serve._opened import Opened
from tunesmith.serve._rows import Current


class Bank:
    """Room for adapters in the layers of a base.

    Args:
        bundle: the base; its layers are wrapped in place.
        slots: adapters at a time.
        ranks: of all of them together.
        current: where the layers look the rows of the batch up.
        targets: which linears of the sites are wrapped.

    Attributes:
        table: the base's own text embedding; None if it has none.

    Raises:
        UserError: something is attached to the base already.
    """

    def __init__(
        self, bundle: Bundle, slots: int, ranks: int, current: Current, targets: Sequence[str]
    ) -> None:
        self._bundle, self._current = bundle, current
        self.table: nn.Module | None = _places.text_table(bundle)
        self._layers = _places.wrap(bundle, ranks, current, targets)
        self._keys: dict[str, MixedKeys] = {}
        self._states: MixedStates | None = None
        self._words: Words | None = None
        if self.table is not None:
            rows = MixedTokens(self.table, room(slots), slots, current, bundle.device)
            _places.put_text_table(bundle, rows)
            self._words = Words(bundle, rows)

    def check(self, name: str, opened: Opened) -> None:
        """Raise :class:`UserError` if what an adapter changes is not there, or of another size."""
        for place, (down, up) in opened.factors.items():
            d, k = self._layer(name, place).sizes
            if down.shape[1] != k or up.shape[0] != d or up.shape[1] != down.shape[0]:
                raise UserError(
                    f"{place} of {name} has factors {list(down.shape)} and {list(up.shape)}, where the "
                    f"base has [{d}, {k}]",
                    "the adapter was made for a base of another size",
                )
        for place in opened.bottlenecks:
            self._layer(name, place)

    def _layer(self, name: str, place: str) -> Mixed:
        if place not in self._layers:
            raise UserError(
                f"{name} changes {place}, which is not among the layers that adapters are mixed in",
                "merge it into its base, or start with more targets",
            )
        return self._layers[place]

    def room_for_words(self, opened: Opened) -> None:
        """Raise :class:`UserError` if an adapter's tokens are too many."""
        if self._words is not None:
            self._words.room_for({token: rows for token, (_, rows) in opened.tokens.items()})

    def write(self, slot: int, opened: Opened, ranks: Sequence[int]) -> None:
        """Copy an adapter into a slot that no row asks for.

        Args:
            slot: which.
            opened: the adapter, checked.
            ranks: that its factors take, sorted.
        """
        with torch.no_grad():
            for place, layer in self._layers.items():
                layer.write(slot, ranks, opened.factors.get(place))
        for place, tensors in opened.bottlenecks.items():
            layer = self._layers[place]
            assert isinstance(layer, MixedLinear)
            layer.bottlenecks[slot] = Narrow(tensors, opened.activation, self._bundle.device)
        for place, vectors in opened.prefixes.items():
            if place not in self._keys:
                self._keys[place] = MixedKeys(self._current, self._bundle.device)
                _places.join(self._bundle, place, self._keys[place])
            self._keys[place].write(slot, vectors)
        if opened.states is not None:
            if self._states is None:
                self._states = MixedStates(self._current, self._bundle.device)
                self._bundle.module.joined_states = self._states
            self._states.write(slot, opened.states)
        if self._words is not None:
            self._words.add(slot, opened.tokens)

    def empty(self, slot: int) -> None:
        """Forget what lies in a slot that no row asks for any more."""
        for layer in self._layers.values():
            layer.forget(slot)
            if isinstance(layer, MixedLinear):
                layer.bottlenecks.pop(slot, None)
        for joined in (*self._keys.values(), self._states):
            if joined is not None:
                joined.forget(slot)
        if self._words is not None:
            self._words.forget(slot)

    def written(self, text: str, slots: dict[str, int]) -> str:
        """A prompt with these adapters' tokens as the vocabulary has them, ``{name: slot}``."""
        return text if self._words is None else self._words.written(text, slots)

    def detach(self) -> None:
        """Take everything off the base."""
        _places.unwrap(self._bundle, self._layers)
        for place in self._keys:
            _places.part(self._bundle, place)
        if self._states is not None:
            self._bundle.module.joined_states = None
        if self.table is not None:
            _places.put_text_table(self._bundle, self.table)
            self._bundle.use_tokens({})
        self._layers, self._keys, self._states, self._words = {}, {}, None, None


__all__ = ["Bank"]
