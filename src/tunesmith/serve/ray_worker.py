"""The replicas with the model of an application on Ray Serve (see :mod:`.ray_app`)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.serve.request import Request
from tunesmith.types import Audio


@dataclass(frozen=True)
class Described:
    """What a front knows of its base; the model itself lies with the workers. As :class:`Bundle` has it."""

    name: str
    base_hash: str
    licence: str
    family: str
    sample_rate_hz: int
    channels: int
    max_s: float
    frame_rate_hz: float
    sampling: Any
    settings: tuple[str, ...]
    columns: tuple[str, ...]
    free_length: bool
    inpainting: str
    no_inpainting: str


def described(bundle: Any) -> Described:
    """What the front needs of a loaded base."""
    return Described(**{one.name: getattr(bundle, one.name) for one in fields(Described)})


class _Channel:
    """What an engine says of one request, in order, for a coroutine to read; a :class:`Sink`."""

    def __init__(self) -> None:
        self._loop, self._said = asyncio.get_running_loop(), asyncio.Queue()

    def _say(self, *event: Any) -> None:
        with suppress(RuntimeError):  # the loop is gone, and nobody listens
            self._loop.call_soon_threadsafe(self._said.put_nowait, event)

    def progress(self, share: float) -> None:
        self._say("progress", share)

    def part(self, audio: Audio) -> None:
        self._say("part", audio.samples, audio.sample_rate_hz)

    def finished(self) -> None:
        self._say("finished")

    def failed(self, error: Exception) -> None:
        ours = isinstance(error, UserError)
        self._say(
            "failed", ours, error.message if ours else repr(error), error.mend if ours else ""
        )

    def cancelled(self) -> None:
        self._say("cancelled")

    async def events(self) -> AsyncIterator[tuple[Any, ...]]:
        """Until the last one."""
        while True:
            event = await self._said.get()
            yield event
            if event[0] in ("finished", "failed", "cancelled"):
                return


class Held:
    """The adapters of one multiplexed id in a worker's engine; Ray drops the one that was used least lately."""

    def __init__(self, worker: Worker, names: Mapping[str, str]) -> None:
        self._worker, self._names = worker, {}
        worker.hold(names)
        self._names = dict(names)

    def release(self) -> None:
        """They are needed no more here."""
        names, self._names = self._names, {}
        self._worker.let_go(names)

    def __del__(self) -> None:  # called by Ray itself, and once more when it is collected
        with suppress(Exception):
            self.release()


class Worker:
    """A replica with the model.

    Args:
        base, options: as of :func:`tunesmith.serve.open_engine`.
    """

    def __init__(self, base: str, options: Mapping[str, Any]) -> None:
        from tunesmith.serve.engine import open_engine

        self._engine = open_engine(base, **options)
        self._held: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._engine.start()

    def describe(self) -> Described:
        """Of its base."""
        return described(self._engine.bundle)

    def hold(self, names: Mapping[str, str]) -> None:
        """Have these adapters in memory: ``{name: folder}``."""
        with self._lock:
            done = []
            try:
                for one in names.items():
                    if not self._held.get(one):
                        self._engine.add_adapter(one[0], Path(one[1]))
                    self._held[one] = self._held.get(one, 0) + 1
                    done.append(one)
            except UserError:
                for one in done:
                    self._drop(one)
                raise

    def let_go(self, names: Mapping[str, str]) -> None:
        """They are needed no more by one of those that held them."""
        with self._lock:
            for one in names.items():
                self._drop(one)

    def _drop(self, one: tuple[str, str]) -> None:
        self._held[one] -= 1
        if not self._held[one]:
            del self._held[one]
            # Of the same name from another folder, there may be one by now.
            if str(self._engine.adapters().get(one[0])) == one[1]:
                self._engine.remove_adapter(one[0])

    async def have(self, id: str) -> Held:
        """The adapters of a multiplexed id (see :func:`multiplexed_id`)."""
        return await asyncio.to_thread(Held, self, json.loads(id))

    async def make(self, request: Request, id: str) -> AsyncIterator[tuple[Any, ...]]:
        """What the engine says of a request, until its last word. Who stops reading calls it off."""
        channel, over, mine = _Channel(), False, None
        try:
            if id:
                await self.have(id)
                # Ray may drop what it keeps while this one still waits or runs.
                mine = await asyncio.to_thread(Held, self, json.loads(id))
        except UserError as error:
            yield ("failed", True, error.message, error.mend)
            return
        try:
            self._engine.submit(request, channel)
            async for event in channel.events():
                over = event[0] in ("finished", "failed", "cancelled")
                yield event
        finally:
            if not over:
                self._engine.cancel(request.id)
            if mine is not None:
                mine.release()


__all__ = ["Described", "Held", "Worker", "described"]
