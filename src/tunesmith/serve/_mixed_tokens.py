"""Trained tokens of many adapters at a time.

Inside, each adapter's token has a name of its own, so that two adapters may have been trained with one
word. A prompt that is asked with certain adapters has their words replaced by those names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.serve._rows import Current, over

_ROOM = 16  # vectors of tokens that a slot is reckoned with


class MixedTokens(nn.Module):
    """An embedding that answers for ids beyond its table with the rows of whichever adapter they are.

    Args:
        table: the base's embedding.
        room: vectors of all tokens together.
        slots: of adapters.
        current: where the rows of the batch are looked up.
        device: where it lives.
    """

    def __init__(
        self, table: nn.Module, room: int, slots: int, current: Current, device: torch.device
    ) -> None:
        super().__init__()
        self.table: Any = table
        self._current = current
        width = int(self.table.weight.shape[1])
        self.start: Tensor
        self.change: Tensor
        self.owner: Tensor
        for name in ("start", "change"):
            self.register_buffer(name, torch.zeros(room, width, device=device), persistent=False)
        owner = torch.full((room,), slots, device=device)
        self.register_buffer("owner", owner, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The table's, which some models look at."""
        return self.table.weight

    @torch.no_grad()
    def write(self, begin: int, slot: int, start: Tensor, rows: Tensor) -> None:
        """Let ids from ``begin`` beyond the table be these rows ``[V, d]``, ``start`` at strength 0."""
        span = slice(begin, begin + len(rows))
        self.start[span].copy_(start)
        self.change[span].copy_(rows.to(start.device) - start)
        self.owner[span] = slot

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings ``[B, ..., d]`` of ids ``[B, ...]``, in the table's precision."""
        beyond = ids - self.table.weight.shape[0]
        added = beyond >= 0
        plain = self.table(ids.masked_fill(added, 0))
        place = beyond.clamp(min=0, max=len(self.owner) - 1)
        change = self.change[place]
        rows = self._current.rows
        if rows is not None:
            strength = over(nn.functional.pad(rows.tokens, (0, 1)), len(ids))
            owner = self.owner[place].flatten(1)
            change = change * strength.gather(1, owner).view(*ids.shape, 1)
        return torch.where(added[..., None], (self.start[place] + change).to(plain.dtype), plain)


@dataclass(slots=True)
class _Word:
    """A token as the vocabulary has it; ``slot`` is None where none stands any more."""

    inside: str
    begin: int
    vectors: int
    slot: int | None
    token: str


class Words:
    """The vocabulary's side of :class:`MixedTokens`.

    Places in the vocabulary stay as they are while other tokens come and go, so that a text that was
    tokenised before is still read rightly.
    """

    def __init__(self, bundle: Bundle, table: MixedTokens) -> None:
        self._bundle, self.table = bundle, table
        self._words: list[_Word] = []
        self._serial = 0

    def room_for(self, tokens: Mapping[str, Tensor]) -> None:
        """Check that these tokens ``{token: [V, d]}`` can be taken in.

        Raises:
            UserError: there is no room.
        """
        taken = sum(word.vectors for word in self._words)
        gaps = [word.vectors for word in self._words if word.slot is None]
        for rows in tokens.values():
            if len(rows) in gaps:
                gaps.remove(len(rows))
            else:
                taken += len(rows)
        if taken > len(self.table.owner):
            raise UserError(
                f"there is room for {len(self.table.owner)} vectors of trained tokens, and these "
                f"would be {taken}",
                "remove an adapter that has some, or start with more slots",
            )

    def add(self, slot: int, tokens: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take in an adapter's tokens, ``{token: (start [V, d], rows [V, d])}``."""
        for token, (start, rows) in tokens.items():
            self._serial += 1
            inside = f"\u27e6{self._serial}\u27e7"
            gaps = (w for w in self._words if w.slot is None and w.vectors == len(rows))
            word = next(gaps, None)
            if word is None:
                begin = sum(one.vectors for one in self._words)
                word = _Word(inside, begin, len(rows), slot, token)
                self._words.append(word)
            word.inside, word.slot, word.token = inside, slot, token
            self.table.write(word.begin, slot, start, rows)
        if tokens:
            self._bundle.use_tokens({word.inside: word.vectors for word in self._words})

    def forget(self, slot: int) -> None:
        """The tokens of a slot are no words any more."""
        for word in self._words:
            if word.slot == slot:
                word.slot = None

    def written(self, text: str, slots: Mapping[str, int]) -> str:
        """A prompt with the words of these adapters, ``{name: slot}``, as the vocabulary has them.

        ``name:word`` is that adapter's; a bare word that several have is all of theirs, one after the
        other.
        """
        of: dict[str, list[_Word]] = {}
        for slot in slots.values():
            for word in self._words:
                if word.slot == slot:
                    of.setdefault(word.token, []).append(word)
        if not of:
            return text

        def replace(found: re.Match[str]) -> str:
            name, token = found["name"], found["token"]
            owners = of[token] if name is None else [w for w in of[token] if w.slot == slots[name]]
            return " ".join(word.inside for word in owners) if owners else found[0]

        return re.sub(_pattern(list(of), list(slots)), replace, text)


def _pattern(tokens: Sequence[str], names: Sequence[str]) -> str:
    """What finds a token, longest first, with or without an adapter's name before it."""

    def one(token: str) -> str:
        # A token that is a bare word must not be found inside of longer words.
        before = r"(?<!\w)" if token[0].isalnum() or token[0] == "_" else ""
        after = r"(?!\w)" if token[-1].isalnum() or token[-1] == "_" else ""
        return before + re.escape(token) + after

    longest = sorted(tokens, key=len, reverse=True)
    named = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return rf"(?:(?<!\w)(?P<name>{named}):)?(?P<token>{'|'.join(map(one, longest))})"


def room(slots: int) -> int:
    """Vectors of tokens that are reckoned with."""
    return max(64, slots * _ROOM)


__all__ = ["MixedTokens", "Words", "room"]
