"""Ctrl-C and SIGTERM as a flag that every long stretch of work reads."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from tunesmith.errors import Stopped
from tunesmith.training import launch


class StopFlag:
    """Turns the first SIGINT or SIGTERM into a flag; a second one interrupts at once.

    Among several processes a second SIGTERM does not: schedulers send one to each, at their own time.

    Calling it gives the signal's number, 0 while none came. Outside the main thread, where Python
    allows no handlers, it only ever is what :meth:`set` made it.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, object] = {}

    def __call__(self) -> int:
        return self.number

    def set(self, number: int = signal.SIGINT) -> None:
        """Ask for a stop, as a signal would."""
        self.number = int(number)

    def check(self, message: str) -> None:
        """Raise :class:`Stopped` if a stop was asked for."""
        if self.number:
            raise Stopped(self.number, message)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGTERM and launch.world_size() > 1:
            return  # told by another process already; a launcher that means it sends SIGKILL
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
