"""An engine for any family: requests that can share a batch are made together.

A row depends on its own seed alone, so what is made is the same whoever is made beside it.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tunesmith.errors import Stopped, UserError
from tunesmith.families._bundle import Bundle
from tunesmith.serve._openmp import rest
from tunesmith.serve._threaded import Row, ThreadedEngine
from tunesmith.serve.attached import Attached, Turn
from tunesmith.serve.recordings import made
from tunesmith.serve.request import Request
from tunesmith.types import Audio, GenerationSettings

_LOG = logging.getLogger(__name__)
_BEFORE_DECODING = 0.95  # how far a row counts as done when its codes are there


class BatchEngine(ThreadedEngine[Row]):
    """Dynamic batches over :meth:`.Bundle.generate_codes`, one at a time.

    The oldest request that waits decides what the next batch is; all that can go with it do, up to
    ``slots``. If nothing else waits, it is held back a moment for others to come.

    Args:
        bundle: the base, with nothing attached; belongs to the engine from now on.
        slots: rows of a batch.
        window_s: how long a lone request is held back.
        adapters: that can be loaded at a time.
        rank: the largest of one of them.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        slots: int = 8,
        window_s: float = 0.02,
        adapters: int = 16,
        rank: int = 64,
    ) -> None:
        if slots < 1:
            raise UserError(f"{slots} slots make nothing", "give at least 1")
        self.bundle, self.slots, self._window_s = bundle, slots, window_s
        self._attached = Attached(bundle, slots=adapters, rank=rank)
        self._polls: dict[Hashable, int] = {}
        super().__init__("batch-engine", Row)

    # --- any thread ---

    def adapters(self) -> Mapping[str, Path]:
        return self._attached.folders()

    def add_adapter(self, name: str, folder: Path) -> None:
        self._attached.add(name, folder)

    def remove_adapter(self, name: str) -> None:
        self._attached.remove(name)

    def _let_go(self) -> None:
        self._attached.detach()

    # --- the engine's thread ---

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            self._make(batch)
        for row in list(self._rows.values()):
            self._drop(row)

    def _next(self) -> list[Row] | None:
        """The rows of the next batch, in the order in which they came; None at the end."""
        held = 0.0
        while True:
            self._see_to_called_off()
            with self._some:
                if self._aborting or (self._stopping and not self._waiting):
                    return None
                now = time.monotonic()
                if not self._waiting:
                    held = 0.0
                    if not self._off:
                        rest()
                        self._some.wait()
                    continue
                held = held or now + self._window_s
                batch = self._matching()
                # Others that wait, but do not match, have waited long enough.
                alone = len(batch) == len(self._waiting) < self.slots
                if alone and now < held and not self._stopping:
                    self._some.wait(held - now)
                    continue
                for row in batch:
                    self._waiting.remove(row)
                return batch

    def _matching(self) -> list[Row]:
        first = self._key(self._waiting[0])
        found = []
        for row in self._waiting:
            if self._key(row) == first:
                found.append(row)
                if len(found) == self.slots:
                    break
        return found

    def _key(self, row: Row) -> Hashable:
        """What rows have to have in common."""
        request = row.request
        try:
            turn: Turn | None = self._attached.turn(request.adapters)
        except UserError:
            turn = None  # fails when it is made, where the asker is told
        if request.made_from is not None:
            return request.id  # goes alone: no other has its length and its holes
        return turn, self._most_s(request), request.settings or self.bundle.sampling

    def _most_s(self, request: Request) -> float:
        """The length that a batch is made with.

        Where the text decides the length, the next power of two: what is asked for is cut from it, so
        that nearly all requests go together and none depends on its company.
        """
        if not self.bundle.free_length:
            return request.duration_s
        return min(2.0 ** math.ceil(math.log2(request.duration_s)), self.bundle.max_s)

    def _make(self, batch: Sequence[Row]) -> None:
        """Make a batch; if it fails as a whole, each of its rows alone."""
        batch = [row for row in batch if not row.over]
        if not batch:
            return
        try:
            self._made(batch)
        except Stopped:
            self._see_to_called_off()
            if self._aborting:
                for row in batch:
                    self._drop(row)
        except Exception as caught:
            error = caught
            if len(batch) > 1:
                # One text too long, or too little memory for all of them: the others are not to blame.
                _LOG.info("a batch of %d failed (%s), its rows go alone", len(batch), error)
                for row in batch:
                    self._make([row])
                return
            self._end(batch[0], lambda sink: sink.failed(error))

    def _made(self, batch: Sequence[Row]) -> None:
        bundle, requests = self.bundle, [row.request for row in batch]
        settings, most_s = requests[0].settings or bundle.sampling, self._most_s(requests[0])
        for row in batch:
            self._tell(row, 0.0)
        if requests[0].made_from is not None:
            self._remade(batch[0], settings)
            return
        watch = _Watch(self, batch, self._guess(settings, most_s))
        turn = self._attached.turn(requests[0].adapters)
        with self._attached.use(turn, [one.adapters for one in requests]) as wording:
            details = [wording.details(one.adapters, one.details or {}) for one in requests]
            more: dict[str, Any] = {"details": details} if any(details) else {}
            codes = bundle.generate_codes(
                [wording.prompt(one.prompt, one.adapters) for one in requests],
                most_s,
                [one.seed for one in requests],
                settings,
                should_stop=watch,
                **more,
            )
            self._polls[settings, most_s] = watch.count
            for row, one in zip(batch, codes, strict=True):
                self._see_to_called_off()
                if not row.over:
                    self._hand_over(row, one)

    def _remade(self, row: Row, settings: GenerationSettings) -> None:
        """Make a sound from another, which no other row can share."""
        request = row.request
        assert request.made_from is not None
        watch = _Watch(self, [row], self._guess(settings, self._most_s(request)))
        turn = self._attached.turn(request.adapters)
        with self._attached.use(turn, [request.adapters]) as wording:
            prompt = wording.prompt(request.prompt, request.adapters)
            details = wording.details(request.adapters, request.details or {})
            audio = made(self.bundle, request, prompt, details or None, settings, watch)
        self._see_to_called_off()
        if not row.over:
            self._told_whole(row, audio)

    def _hand_over(self, row: Row, codes: Tensor) -> None:
        if self.bundle.free_length:
            most = max(1, round(row.request.duration_s * self.bundle.frame_rate_hz))
            codes = codes[..., :most]
        self._told_whole(row, self.bundle.decode_audio(codes))

    def _told_whole(self, row: Row, audio: Audio) -> None:
        self._tell(row, 1.0)
        row.sink.part(audio)
        self._end(row, lambda sink: sink.finished())

    def _guess(self, settings: GenerationSettings, most_s: float) -> int:
        """How often generation will ask whether to stop: as often as last time, else a step or a frame."""
        if (known := self._polls.get((settings, most_s))) is not None:
            return known
        if "steps" in self.bundle.settings:
            return settings.steps or self.bundle.sampling.steps or 50
        return round(most_s * self.bundle.frame_rate_hz)

    def _see_to_called_off(self) -> None:
        while self._off:
            self._drop(self._off.popleft())

    def _drop(self, row: Row) -> None:
        with self._some:
            if row in self._waiting:
                self._waiting.remove(row)
        self._end(row, lambda sink: sink.cancelled())


class _Watch:
    """Polled while a batch is made: tells how far it is, and stops it if nobody wants it any more."""

    def __init__(self, engine: BatchEngine, batch: Sequence[Row], expected: int) -> None:
        self._engine, self._batch, self._expected = engine, batch, max(1, expected)
        self.count = 0

    def __call__(self) -> int:
        engine = self._engine
        engine._see_to_called_off()
        if engine._aborting or all(row.over for row in self._batch):
            return signal.SIGTERM
        share = min(1.0, self.count / self._expected) * _BEFORE_DECODING
        for row in self._batch:
            engine._tell(row, share)
        self.count += 1
        return 0


__all__ = ["BatchEngine"]
