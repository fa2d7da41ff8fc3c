"""What engines share: requests that wait, are called off or end, and the one thread that works on them."""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tunesmith.serve._openmp import rest
from tunesmith.serve.request import Engine, Request, Sink

_LOG = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Row:
    """A request in an engine.

    Attributes:
        called_off: somebody does not want it any more.
        over: its sink was told how it ended.
        told: the share of progress that its sink knows.
    """

    request: Request
    sink: Sink
    called_off: bool = False
    over: bool = False
    told: float = -1.0


R = TypeVar("R", bound=Row)


class ThreadedEngine(Engine, Generic[R]):
    """Takes requests from any thread, and hands them to :meth:`_work` in one of its own.

    Args:
        name: of the thread.
        row: makes a row of a request and its sink.

    Attributes:
        _some: held to change what follows; told when there is something to do.
        _rows: all that have not ended, by id.
        _waiting: those that have not begun, in the order in which they came.
        _off: those that were called off since this was last looked at.
        _stopping: ends when nothing waits; ``_aborting``: ends now.
    """

    def __init__(self, name: str, row: Callable[[Request, Sink], R]) -> None:
        self._row = row
        self._rows: dict[str, R] = {}
        self._waiting: deque[R] = deque()
        self._off: deque[R] = deque()
        self._some = threading.Condition()
        self._stopping = self._aborting = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        rest()  # who loaded the model computes no more; see there
        self._thread.start()

    def submit(self, request: Request, sink: Sink) -> None:
        row = self._row(request, sink)
        with self._some:
            self._rows[request.id] = row
            self._waiting.append(row)
            self._some.notify()

    def cancel(self, id: str) -> None:
        with self._some:
            row = self._rows.get(id)
            if row is not None and not row.called_off:
                row.called_off = True
                self._off.append(row)
                self._some.notify()

    def stop(self, drain_s: float = 0.0) -> None:
        with self._some:
            self._stopping = True
            self._some.notify()
        if self._thread.is_alive():
            self._thread.join(drain_s)
            with self._some:
                self._aborting = True
                self._some.notify()
            self._thread.join()
            self._let_go()

    @abstractmethod
    def _work(self) -> None:
        """The thread: until it was stopped, and then ends what is left."""

    @abstractmethod
    def _let_go(self) -> None:
        """Give the base back as it was; the thread has ended."""

    def _tell(self, row: R, share: float) -> None:
        """Let a sink know how far it is, if that is news."""
        if not row.over and (share >= row.told + 0.01 or share == 1.0):
            row.told = share
            row.sink.progress(share)

    def _end(self, row: R, say: Callable[[Sink], None]) -> None:
        """Let go of a row, and tell its sink how it ended; once."""
        if row.over:
            return
        row.over = True
        with self._some:
            if self._rows.get(row.request.id) is row:
                del self._rows[row.request.id]
        try:
            say(row.sink)
        except Exception:  # it must not take the others with it
            _LOG.exception("a sink could not be told how request %s ended", row.request.id)


__all__ = ["Row", "ThreadedEngine"]
