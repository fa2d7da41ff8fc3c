"""Sequences under way, one a slot: each with its position, delay pattern, seed, settings and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.families._sampling import Streams, pick
from tunesmith.families.musicgen.delay import apply_delay, undo_delay
from tunesmith.serve._decoder import Decoder
from tunesmith.types import GenerationSettings

_FREE = -1


@dataclass(slots=True)
class _Sequence:
    """What is written in a slot.

    Attributes:
        frames: how many are wanted.
        place: of the last token that is there.
        settings: how it is sampled.
        streams: where its random numbers come from.
    """

    frames: int
    place: int
    settings: GenerationSettings
    streams: Streams


class Slots:
    """A fixed number of sequences, all of which a step takes one token further.

    Every step has the same number of rows, taken or not: a sequence comes out the same to the last bit
    whoever is beside it.

    Args:
        decoder: what is stepped.
        shifts: delay of each codebook.
        pad: the start and padding token.
    """

    def __init__(self, decoder: Decoder, shifts: Sequence[int], pad: int) -> None:
        self._decoder, self._shifts, self._pad = decoder, list(shifts), pad
        device = decoder.device
        self._tokens = torch.full(
            (decoder.slots, decoder.codebooks, decoder.positions), pad, device=device
        )
        self._numbers = torch.arange(decoder.slots, device=device)
        self._at: list[_Sequence | None] = [None] * decoder.slots
        self._alike: list[tuple[GenerationSettings, list[int], Tensor]] = []

    @property
    def free(self) -> list[int]:
        """Slots without a sequence."""
        return [slot for slot, one in enumerate(self._at) if one is None]

    def begin(self, slot: int, frames: int, seed: int, settings: GenerationSettings) -> None:
        """Begin a sequence; the decoder has its text already.

        Args:
            slot: a free one.
            frames: T.
            seed: of its random numbers.
            settings: how it is sampled.
        """
        device = self._tokens.device
        template = torch.full((1, len(self._shifts), frames), _FREE, device=device)
        laid, _ = apply_delay(
            template, torch.tensor([frames], device=device), self._shifts, self._pad
        )
        self._tokens[slot, :, : laid.shape[-1]] = laid[0]
        self._at[slot] = _Sequence(frames, 0, settings, Streams([seed]))
        self._group()

    def end(self, slot: int) -> None:
        """Free a slot."""
        self._at[slot] = None
        self._tokens[slot, :, 0] = self._pad
        self._decoder.end(slot)
        self._group()

    def done(self, slot: int) -> int:
        """Frames that are there in all codebooks."""
        one = self._at[slot]
        return 0 if one is None else max(0, one.place - max(self._shifts))

    def codes(self, slot: int, frames: int) -> Tensor:
        """The first of them, ``[K, frames]`` int16 on the CPU."""
        found = undo_delay(self._tokens[slot : slot + 1], frames, self._shifts)
        return found[0].to("cpu", torch.int16)

    def _group(self) -> None:
        """Slots that are sampled alike are sampled at once."""
        of: dict[GenerationSettings, list[int]] = {}
        for slot, one in enumerate(self._at):
            if one is not None:
                of.setdefault(one.settings, []).append(slot)
        device = self._tokens.device
        self._alike = [(s, some, torch.tensor(some, device=device)) for s, some in of.items()]

    @torch.inference_mode()
    def step(self) -> list[int]:
        """One token more for each sequence.

        Returns:
            Slots whose logits are no numbers any more; the others are as they should be.
        """
        at = [0 if one is None else one.place for one in self._at]
        places = torch.tensor(at, device=self._tokens.device)
        logits = self._decoder.step(self._tokens[self._numbers, :, places], places, max(at))
        conditional, unconditional = logits.chunk(2)
        broken: list[int] = []
        for settings, some, numbers in self._alike:
            mixed = conditional[numbers]
            if settings.guidance != 1:
                without = unconditional[numbers]
                mixed = without + settings.guidance * (mixed - without)
            sums = mixed.sum((1, 2))
            if not bool(sums.isfinite().all()):
                broken += [
                    slot for slot, ok in zip(some, sums.isfinite().tolist(), strict=True) if not ok
                ]
            sequences = [one for slot in some if (one := self._at[slot]) is not None]
            count = self._decoder.codebooks
            uniform = torch.cat([one.streams.draw(count) for one in sequences]).to(mixed.device)
            drawn = pick(mixed, uniform, settings)
            following = places[numbers] + 1
            there = self._tokens[numbers, :, following]
            self._tokens[numbers, :, following] = torch.where(there == _FREE, drawn, there)
            for one in sequences:
                one.place += 1
        return broken


__all__ = ["Slots"]
