"""The server's own part of uvicorn: no patience with connections that say nothing, and an orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEAD_WAIT_S = 15.0


class PatientH11(H11Protocol):
    """Closes a connection that takes too long over a request's head; uvicorn waits for ever.

    An idle connection that has had an answer is uvicorn's own business (``timeout_keep_alive``), and bodies
    are the guard's.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waiting = self.loop.call_later(_HEAD_WAIT_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        between = self.conn.their_state is h11.IDLE  # a head that has begun counts as well
        if not between and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        elif between and self._waiting is None:
            self._waiting = self.loop.call_later(_HEAD_WAIT_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        self._waiting = None
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


class Server(uvicorn.Server):
    """Stops by the house's own flag, which a second Ctrl-C overrides.

    Args:
        config: uvicorn's.
        stop: whether a stop is asked for.
        close: brings the queue to its end; runs beside the loop, so that what runs is answered.
    """

    def __init__(
        self, config: uvicorn.Config, stop: Callable[[], int], close: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._stop, self._close = stop, close
        self._closing: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if self._stop() and self._closing is None:
            self._closing = asyncio.create_task(asyncio.to_thread(self._close))
        if self._closing is not None and self._closing.done():
            self._closing.result()
            return True
        return await super().on_tick(counter)


__all__ = ["PatientH11", "Server"]
