"""An engine for MusicGen: sequences join and leave between two tokens, each in a slot of its own.

What a sequence is, is settled when it begins (text, adapters, seed, settings, length); from then on a step
takes all of them one token further. Streamed sound goes out while its codes are being written.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import UserError
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.formats.adapter import check_base
from tunesmith.serve._decoder import Decoder
from tunesmith.serve._openmp import rest
from tunesmith.serve._slots import Slots
from tunesmith.serve._stream import StreamDecoder
from tunesmith.serve._threaded import Row, ThreadedEngine
from tunesmith.serve.attached import needs_turn
from tunesmith.serve.mixer import Mixer
from tunesmith.serve.recordings import recorded
from tunesmith.serve.request import Sink
from tunesmith.tasks.generate import check_details, check_duration
from tunesmith.types import Audio

_LOG = logging.getLogger(__name__)
_BEFORE_DECODING = 0.95  # how far a sequence counts as done when its codes are there


@dataclass(slots=True, eq=False)
class _Row(Row):
    """A request in the engine.

    Attributes:
        slot: where it runs; -1 while it waits.
        frames: that it will have.
        stream: what makes its sound in pieces; None if one is wanted.
        heard: frames at which the next piece is made.
    """

    slot: int = -1
    frames: int = 0
    stream: StreamDecoder | None = None
    heard: int = 0


class TokenEngine(ThreadedEngine[_Row]):
    """Continuous batching over a fixed number of slots; see :mod:`tunesmith.serve._slots`.

    Adapters that cannot share a batch (``full``) are refused: :class:`.batch_engine.BatchEngine` serves them.

    Args:
        bundle: a MusicGen with nothing attached; belongs to the engine until it is stopped.
        slots: sequences at a time. All are computed at each step, taken or not, so that a sound does not
            depend on its company; on a CPU fewer are quicker.
        int8: weights of the decoder's linears in 8 bits, on a CPU. The text encoder and the codec stay
            as they are.
        chunk_s: length of the pieces of streamed sound.
        adapters: that can be loaded at a time.
        rank: the largest of one of them.

    Raises:
        UserError: not a MusicGen, settings that make nothing, or int8 where it cannot be had.
    """

    bundle: MusicgenBundle

    def __init__(
        self,
        bundle: Any,
        *,
        slots: int = 8,
        int8: bool = False,
        chunk_s: float = 1.0,
        adapters: int = 16,
        rank: int = 64,
    ) -> None:
        if not isinstance(bundle, MusicgenBundle):
            raise UserError(
                f"family {bundle.family} writes no tokens that could join a batch",
                "use BatchEngine",
            )
        if slots < 1 or chunk_s <= 0:
            raise UserError(
                f"{slots} slots and pieces of {chunk_s:g} s make nothing", "give more of each"
            )
        if int8 and bundle.device.type != "cpu":
            raise UserError(f"int8 is for CPUs, and this runs on {bundle.device}", "leave it out")
        self.bundle, self.slots = bundle, slots
        self._chunk = max(1, round(chunk_s * bundle.frame_rate_hz))
        self._mixer = Mixer(bundle, slots=adapters, rank=rank)
        self._was_training = bundle.module.training
        bundle.module.eval()
        module = bundle.module
        positions = 1 + self._frames(bundle.max_s) + max(module.shifts)
        self._decoder = Decoder(module, slots, positions, int8=int8)
        self._sequences = Slots(self._decoder, module.shifts, module.pad)
        self._weights = torch.zeros(slots, adapters)
        # Which adapters run and which are let go of changes under this one.
        self._adapting = threading.Lock()
        self._running: dict[int, _Row] = {}
        super().__init__("token-engine", _Row)

    # --- any thread ---

    def start(self) -> None:
        _ = self.bundle.codec  # in memory before the first request
        super().start()

    def adapters(self) -> Mapping[str, Path]:
        return self._mixer.names

    def add_adapter(self, name: str, folder: Path) -> None:
        if needs_turn(check_base(folder, self.bundle), self.bundle):
            raise UserError(
                f"{name} changes the base itself, and cannot share a batch",
                "start the server with --engine batch, or make a LoRA of it: tunesmith extract",
            )
        with self._adapting:
            self._mixer.add(name, folder)

    def remove_adapter(self, name: str) -> None:
        with self._adapting:
            self._mixer.remove(name)

    def _let_go(self) -> None:
        self._mixer.detach()
        self.bundle.module.train(self._was_training)

    # --- the engine's thread ---

    @torch.inference_mode()
    def _work(self) -> None:
        self._sequences.warm()
        while self._wait():
            self._admit()
            if self._running:
                self._advance()
        for row in list(self._rows.values()):
            self._end(row, lambda sink: sink.cancelled())

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._some:
            while True:
                off = list(self._off)
                self._off.clear()
                for row in off:
                    if row in self._waiting:
                        self._waiting.remove(row)
                busy = bool(self._waiting or self._running)
                if off or self._aborting or busy or self._stopping:
                    go = not self._aborting and (busy or not self._stopping)
                    break
                rest()
                self._some.wait()
        for row in off:
            self._end(row, lambda sink: sink.cancelled())
        return go

    def _admit(self) -> None:
        """Let those who wait have the free slots, in the order in which they came."""
        taken: list[tuple[_Row, int]] = []
        for slot in self._sequences.free:
            with self._some:
                row = self._waiting.popleft() if self._waiting else None
            if row is None:
                break
            taken.append((row, slot))
        together = self._begin_texts(taken)
        for row, slot in taken:
            try:
                self._tell(row, 0.0)
                if row not in together:
                    self._begin_text(row, slot)
                self._begin(row, slot)
            except Exception as error:
                self._fail(row, error)
                self._release(slot)
        if taken:
            with self._adapting:
                self._mixer.set_rows(self._weights)

    def _begin_texts(self, taken: list[tuple[_Row, int]]) -> list[_Row]:
        """Read the texts of those who ask for no adapters in one pass, on a GPU in half precision.

        There alone: elsewhere a sound is the same to the last bit whoever begins at the same time.

        Returns:
            Those whose texts are read.
        """
        bundle = self.bundle
        plain = [one for one in taken if not any(one[0].request.adapters.values())]
        if bundle.device.type != "cuda" or self._decoder.dtype == torch.float32 or len(plain) < 2:
            return []
        try:
            with self._adapting:
                weights = self._mixer.weights([row.request.adapters for row, _ in plain])
                prompts = [
                    self._mixer.prompt(row.request.prompt, row.request.adapters) for row, _ in plain
                ]
                with self._mixer.use(weights):
                    states, mask = bundle.encode_text_together(prompts)
                    given = {"states": states, "mask": mask}
                    self._give([slot for _, slot in plain], given)
        except Exception:  # whose fault it is turns out when they are read one by one
            _LOG.exception("texts could not be read together")
            return []
        return [row for row, _ in plain]

    def _begin_text(self, row: _Row, slot: int) -> None:
        request, bundle = row.request, self.bundle
        with self._adapting:
            weights = self._mixer.weights([request.adapters])
            prompt = self._mixer.prompt(request.prompt, request.adapters)
            with self._mixer.use(weights):
                (text,) = bundle.encode_text([prompt])
                seen = torch.full((1, len(text["ids"])), int(prompt != ""), dtype=torch.long)
                given = {"states": text["states"][None], "mask": seen}
                self._give([slot], {name: one.to(bundle.device) for name, one in given.items()})
            self._weights[slot] = weights[0]

    def _give(self, slots: list[int], given: dict[str, torch.Tensor]) -> None:
        """Slots have these texts, and none for guidance."""
        states, mask = self.bundle.module.text_states(given, fresh=True)
        self._decoder.begin(
            slots,
            torch.cat([states, torch.zeros_like(states)]),
            torch.cat([mask, torch.zeros_like(mask)]),
        )

    def _begin(self, row: _Row, slot: int) -> None:
        """Begin a sequence whose text is read."""
        request, bundle = row.request, self.bundle
        check_duration(bundle, request.duration_s)
        check_details(bundle, request.details)
        row.slot, row.frames = slot, self._frames(request.duration_s)
        if request.streamed:
            row.stream = StreamDecoder(bundle)
            row.heard = self._chunk + row.stream.behind
        settings, known = request.settings or bundle.sampling, None
        if request.made_from is not None:
            known = bundle.encode_audio(recorded(request.made_from, bundle))
        self._sequences.begin(slot, row.frames, request.seed, settings, known)
        self._running[slot] = row

    def _frames(self, duration_s: float) -> int:
        return max(1, round(duration_s * self.bundle.frame_rate_hz))

    def _advance(self) -> None:
        """A step, and what is due after it."""
        try:
            broken = self._sequences.step()
        except Exception as error:  # whose fault it is cannot be told
            _LOG.exception("a step failed, and all sequences with it")
            for row in list(self._running.values()):
                self._decoder.clear(row.slot)
                self._fail(row, error)
            return
        for slot in broken:
            self._decoder.clear(slot)
            self._fail(
                self._running[slot],
                FloatingPointError("the model's answer has numbers that are none"),
            )
        sounds = self._sounds_at_once()
        for row in list(self._running.values()):
            try:
                self._hand_over(row, sounds.get(row.slot))
            except Exception as error:
                self._fail(row, error)

    def _sounds_at_once(self) -> dict[int, Audio]:
        """By slot, the sounds that are complete now, where several are: on a GPU one costs as much as all."""
        if self.bundle.device.type != "cuda":
            return {}
        of: dict[int, list[int]] = {}
        for slot, row in self._running.items():
            if row.stream is None and self._sequences.done(slot) >= row.frames:
                of.setdefault(row.frames, []).append(slot)
        found: dict[int, Audio] = {}
        for frames, slots in of.items():
            if len(slots) > 1:
                try:
                    codes = [self._sequences.codes(slot, frames) for slot in slots]
                    made = self.bundle.decode_together(codes)
                except (FloatingPointError, torch.OutOfMemoryError):  # each by itself, then
                    continue
                found |= dict(zip(slots, made, strict=True))
        return found

    def _hand_over(self, row: _Row, sound: Audio | None) -> None:
        """Tell the sink what there is: progress, sound, the end.

        Args:
            row: whose it is.
            sound: the whole, if it was decoded already.
        """
        done = self._sequences.done(row.slot)
        self._tell(row, done / row.frames * _BEFORE_DECODING)
        last = done >= row.frames
        if row.stream is not None and (last or done >= row.heard):
            codes = self._sequences.codes(row.slot, min(done, row.frames))
            piece = row.stream.push(codes, last=last)
            row.heard += self._chunk
            if piece is not None:
                row.sink.part(piece)
        elif last:
            if sound is None:
                codes = self._sequences.codes(row.slot, row.frames)
                sound = self.bundle.decode_audio(codes)
            row.sink.part(sound)
        if last:
            self._tell(row, 1.0)
            self._end(row, lambda sink: sink.finished())

    def _fail(self, row: _Row, error: Exception) -> None:
        if not isinstance(error, UserError):
            _LOG.warning("request %s failed: %s", row.request.id, error)
        self._end(row, lambda sink: sink.failed(error))

    def _end(self, row: _Row, say: Callable[[Sink], None]) -> None:
        if self._running.get(row.slot) is row:
            del self._running[row.slot]
            self._release(row.slot)
        super()._end(row, say)

    def _release(self, slot: int) -> None:
        self._sequences.end(slot)
        if bool(self._weights[slot].any()):  # only this thread writes them
            with self._adapting:
                self._weights[slot] = 0
                self._mixer.set_rows(self._weights)


__all__ = ["TokenEngine"]
