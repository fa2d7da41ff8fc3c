"""Sequences under way, one a slot: each with its position, delay pattern, seed, settings and length."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.families._sampling import Streams, pick
from tunesmith.families.musicgen.delay import apply_delay, undo_delay
from tunesmith.serve._captured import Captured
from tunesmith.serve._decoder import Decoder
from tunesmith.serve._pick import Choice, native_choice
from tunesmith.types import GenerationSettings

_FREE = -1
_AHEAD = 2
"""Steps that are handed to a GPU before the first of them is done, so that it never waits."""


@dataclass(slots=True, eq=False)
class _Sequence:
    """What is written in a slot.

    Attributes:
        frames: how many are wanted.
        place: of the last token that is there.
        settings: how it is sampled.
    """

    frames: int
    place: int
    settings: GenerationSettings


class Slots:
    """A fixed number of sequences, all of which a step takes one token further.

    Every step has the same number of rows, taken or not: a sequence comes out the same to the last bit
    whoever is beside it. On a GPU all of a step happens there, and the next one is handed over before it
    is done; on a CPU what is sampled alike is sampled at once.

    Args:
        decoder: what is stepped.
        shifts: delay of each codebook.
        pad: the start and padding token.
        apart: make steps as on a GPU.
    """

    def __init__(
        self, decoder: Decoder, shifts: Sequence[int], pad: int, *, apart: bool = False
    ) -> None:
        self._decoder, self._shifts, self._pad = decoder, list(shifts), pad
        device, slots, count = decoder.device, decoder.slots, decoder.codebooks
        self._apart = apart or device.type == "cuda"
        self._tokens = torch.full((slots, count, decoder.positions), pad, device=device)
        self._uniform = torch.zeros(slots, decoder.positions, count, device=device)
        self._numbers = torch.arange(slots, device=device)
        self._at: list[_Sequence | None] = [None] * slots
        self._alike: list[tuple[GenerationSettings, list[int], Tensor]] = []
        # What follows is for steps of which the host sees nothing.
        self._places = torch.zeros(slots, dtype=torch.long, device=device)
        self._moves = torch.zeros(slots, dtype=torch.long, device=device)  # 1 where a sequence is
        self._broken = torch.zeros(slots, dtype=torch.bool, device=device)
        self._choice = Choice(slots, decoder.codes, device)
        self._native = None if self._apart else native_choice(slots, decoder.codes, device)
        self._busy = torch.zeros(0, dtype=torch.long)
        self._captured = Captured(device)
        self._late: deque[tuple[list[_Sequence | None], Tensor, torch.cuda.Event | None]] = deque()

    @property
    def free(self) -> list[int]:
        """Slots without a sequence."""
        return [slot for slot, one in enumerate(self._at) if one is None]

    @torch.inference_mode()
    def begin(
        self,
        slot: int,
        frames: int,
        seed: int,
        settings: GenerationSettings,
        known: Tensor | None = None,
    ) -> None:
        """Begin a sequence; the decoder has its text already.

        Args:
            slot: a free one.
            frames: T.
            seed: of its random numbers.
            settings: how it is sampled.
            known: codes ``[K, T0]`` that it begins with.
        """
        template = torch.full((1, len(self._shifts), frames), _FREE)
        given = 0 if known is None else min(known.shape[-1], frames)
        if known is not None:
            template[0, :, :given] = known[:, :given].to(template)
        laid, _ = apply_delay(template, torch.tensor([frames]), self._shifts, self._pad)
        length = laid.shape[-1]
        self._tokens[slot, :, :length] = laid[0].to(self._tokens.device)
        # Numbers are drawn from the first step that anything is sampled at, as the family does.
        drawn = Streams([seed]).draw((length - given) * len(self._shifts))
        self._uniform[slot, given:length] = drawn.view(length - given, -1).to(self._uniform.device)
        self._at[slot] = _Sequence(frames, 0, settings)
        if self._apart:
            self._places[slot], self._moves[slot], self._broken[slot] = 0, 1, False
            self._choice.set(slot, settings)
        if self._native is not None:
            self._native.set(slot, settings)
        self._group()

    def warm(self) -> None:
        """On a GPU, make steps of nothing, so that the first request waits for no kernel."""
        if self._captured.usable:
            for _ in range(3):  # launched, captured, replayed
                self.step()

    def end(self, slot: int) -> None:
        """Free a slot."""
        self._at[slot] = None
        self._tokens[slot, :, 0] = self._pad
        self._places[slot] = self._moves[slot] = 0
        self._decoder.end(slot)
        self._group()

    def done(self, slot: int) -> int:
        """Frames that are there in all codebooks, or will be when somebody looks."""
        one = self._at[slot]
        return 0 if one is None else max(0, one.place - max(self._shifts))

    def codes(self, slot: int, frames: int) -> Tensor:
        """The first of them, ``[K, frames]`` int16 on the CPU.

        Raises:
            FloatingPointError: the last of its logits were no numbers.
        """
        found = undo_delay(self._tokens[slot : slot + 1], frames, self._shifts)
        codes = found[0].to("cpu", torch.int16)
        if self._apart and bool(self._broken[slot]):
            raise FloatingPointError("the model's answer has numbers that are none")
        return codes

    def _group(self) -> None:
        """Slots that are sampled alike are sampled at once."""
        if self._apart:
            return
        if self._native is not None:
            busy = [slot for slot, one in enumerate(self._at) if one is not None]
            self._busy = torch.tensor(busy, dtype=torch.long)
            return
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
            Slots whose logits are no numbers any more, on a GPU some steps later; the others are as
            they should be.
        """
        at = [0 if one is None else one.place for one in self._at]
        if self._apart:
            furthest = max(at)
            self._captured(self._decoder.shapes(furthest), lambda: self._follow(furthest))
            broken = self._seen_broken()
        else:
            broken = self._follow_alike(at)
        for one in self._at:
            if one is not None:
                one.place += 1
        return broken

    def _follow_alike(self, at: list[int]) -> list[int]:
        """A step, group by group; slots whose logits are no numbers."""
        places = torch.tensor(at, device=self._tokens.device)
        logits = self._decoder.step(self._tokens[self._numbers, :, places], places, max(at))
        uniform, broken = self._uniform[self._numbers, places], []
        if self._native is not None:
            numbers = self._busy
            drawn, sound = self._native(logits, uniform, numbers)
            self._write(numbers, places[numbers] + 1, drawn)
            return [] if bool(sound.all()) else numbers[~sound].tolist()
        conditional, unconditional = logits.chunk(2)
        for settings, some, numbers in self._alike:
            mixed, without, drawn_by, now = conditional, unconditional, uniform, places
            if len(some) < len(at):
                mixed, without = mixed[numbers], without[numbers]
                drawn_by, now = uniform[numbers], places[numbers]
            if settings.guidance != 1:
                mixed = without + settings.guidance * (mixed - without)
            sums = mixed.sum((1, 2))
            if not bool(sums.isfinite().all()):
                broken += [
                    slot for slot, ok in zip(some, sums.isfinite().tolist(), strict=True) if not ok
                ]
            self._write(numbers, now + 1, pick(mixed, drawn_by, settings))
        return broken

    def _write(self, slots: Tensor, places: Tensor, drawn: Tensor) -> None:
        """Tokens ``[n, K]`` where none are yet."""
        there = self._tokens[slots, :, places]
        self._tokens[slots, :, places] = torch.where(there == _FREE, drawn, there)

    def _follow(self, furthest: int) -> None:
        """The same where nothing is read by the host: a graph can be captured of it."""
        numbers, places = self._numbers, self._places
        logits = self._decoder.step(self._tokens[numbers, :, places], places, furthest)
        drawn, sound = self._choice(logits, self._uniform[numbers, places])
        self._write(numbers, (places + 1).clamp_(max=self._tokens.shape[-1] - 1), drawn)
        self._broken.logical_or_(~sound)
        places.add_(self._moves)

    def _seen_broken(self) -> list[int]:
        """Slots that were broken some steps ago; the host is never further ahead than that."""
        if self._tokens.device.type != "cuda":
            return [slot for slot in self._broken.nonzero().flatten().tolist() if self._at[slot]]
        flags = torch.empty(self._broken.shape, dtype=torch.bool, pin_memory=True)
        flags.copy_(self._broken, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._late.append((list(self._at), flags, event))
        if len(self._late) <= _AHEAD:
            return []
        then, flags, event = self._late.popleft()
        assert event is not None
        event.synchronize()
        # A slot may have been given to another sequence since.
        return [
            slot
            for slot, bad in enumerate(flags.tolist())
            if bad and then[slot] is not None and then[slot] is self._at[slot]
        ]


__all__ = ["Slots"]
