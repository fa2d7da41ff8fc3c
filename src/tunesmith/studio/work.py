"""Work in the background: started, watched, stopped; it outlives the page that started it.

Everything that takes long is a piece of work with a key (``train/mine``). A page that is loaded anew
asks for the key and finds the work where it is. Nothing here knows of a browser.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.errors import Stopped, UserError
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import Job, run_jobs

OnEvent = Callable[[str, Mapping[str, Any]], None]
Target = Callable[[StopFlag, OnEvent], Any]
Ended = Literal["running", "done", "stopped", "failed"]

_SAID = 200  # lines that are kept of what a piece of work said
_PATIENCE_S = 60.0  # for a training to save itself when the studio ends


@dataclass(slots=True)
class Piece:
    """One piece of work. The work's own thread writes it, pages read it.

    Attributes:
        key: what it is asked for by.
        title: what is done, for a reader.
        state: how it stands.
        stage, done, total: what it is at, and how far; a ``total`` of 0 is unknown.
        said: lines, the latest last.
        told: the latest values of each kind of event.
        result: what it returned.
        error: one line; empty while nothing is wrong.
        started_s, ended_s: clock times; ``ended_s`` is 0 while it runs.
    """

    key: str
    title: str
    state: Ended = "running"
    stage: str = ""
    done: float = 0.0
    total: float = 0.0
    said: deque[str] = field(default_factory=lambda: deque(maxlen=_SAID))
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    result: Any = None
    error: str = ""
    started_s: float = field(default_factory=time.time)
    ended_s: float = 0.0
    _stop: StopFlag = field(default_factory=StopFlag)
    _thread: threading.Thread | None = None

    @property
    def runs(self) -> bool:
        return self.state == "running"

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop and has not yet."""
        return self.runs and bool(self._stop())

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return (self.ended_s or time.time()) - self.started_s

    def event(self, kind: str, values: Mapping[str, Any]) -> None:
        """Take notice of an event of the public functions."""
        self.told[kind] = dict(values)
        if kind in _COUNTED:
            self.stage = str(values.get("stage") or _COUNTED[kind])
            self.done, self.total = float(values["done"]), float(values["total"])
        elif kind == "start":
            self.stage = "training"
            self.done, self.total = float(values["step"]), float(values["total"])
        elif kind == "train":
            self.stage, self.done = "training", float(values["step"])
            self.total = float(self.told.get("start", {}).get("total", 0))
        elif kind == "phase":
            self.stage, self.done, self.total = str(values["name"]), 0.0, 0.0
        elif kind == "say":
            self.said.append(str(values["line"]))


_COUNTED = {"encode": "encoding", "prepare": "", "prior": "sampling the prior", "takes": "clips"}


class Work:
    """All pieces of work of a studio.

    Args:
        most: how many may run at a time; each may take a core and the memory of a base.
    """

    def __init__(self, most: int = 2) -> None:
        self.most = most
        self._pieces: dict[str, Piece] = {}
        self._lock = threading.Lock()
        self._closed = False

    def start(self, key: str, title: str, target: Target) -> Piece:
        """Begin.

        Args:
            key: of the work; work that has ended under this key is forgotten.
            title: for a reader.
            target: called with a stop flag and a listener to events, in a thread.

        Raises:
            UserError: it is running already, or as much as may run is.
        """
        with self._lock:
            running = [piece for piece in self._pieces.values() if piece.runs]
            if any(piece.key == key for piece in running):
                raise UserError(f"{title}: that is running already", "wait for it, or stop it")
            if len(running) >= self.most:
                names = ", ".join(piece.title for piece in running)
                raise UserError(
                    f"{len(running)} things are running ({names})", "wait for one, or stop it"
                )
            if self._closed:
                raise UserError("the studio is closing", "start it again")
            piece = Piece(key, title)
            self._pieces[key] = piece
        piece._thread = threading.Thread(
            target=_run, args=(piece, target), name=f"studio {key}", daemon=True
        )
        piece._thread.start()
        return piece

    def of(self, key: str) -> Piece | None:
        """The piece of work under a key, running or ended; None if there was none."""
        return self._pieces.get(key)

    def running(self, before: str = "") -> list[Piece]:
        """What runs now, the latest first, of all keys that begin so."""
        with self._lock:
            found = [
                one for one in self._pieces.values() if one.runs and one.key.startswith(before)
            ]
        return sorted(found, key=lambda piece: -piece.started_s)

    def stop(self, key: str) -> bool:
        """Ask work to stop at its next safe place; whether there was any."""
        piece = self.of(key)
        if piece is None or not piece.runs:
            return False
        piece._stop.set(signal.SIGTERM)
        return True

    def close(self, patience_s: float = _PATIENCE_S) -> None:
        """Stop everything and wait until it is saved; nothing new begins."""
        self._closed = True
        running = self.running()
        for piece in running:
            self.stop(piece.key)
        until = time.monotonic() + patience_s
        for piece in running:
            if piece._thread is not None:
                piece._thread.join(max(0.0, until - time.monotonic()))


def _run(piece: Piece, target: Target) -> None:
    state: Ended = "failed"
    try:
        piece.result = target(piece._stop, piece.event)
        state = "done"
    except Stopped as stopped:
        state, piece.error = "stopped", str(stopped)
    except UserError as error:
        piece.error = str(error)
    except Exception as error:
        # A fault of ours: the page has one line, whoever started the studio has all of it.
        traceback.print_exc(file=sys.stderr)
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        piece.error = f"a fault of the program: {last} (the terminal has the traceback)"
    piece.ended_s = time.time()
    piece.state = state  # last: who sees it ended sees all of it


def elsewhere(call: str, **arguments: Any) -> Target:
    """Work in a process of its own: training owns the global random generators of its process.

    Args:
        call: ``module:function`` as :class:`tunesmith.training.workers.Job` has it.
        arguments: JSON.
    """

    def target(stop: StopFlag, on_event: OnEvent) -> Any:
        job = Job("work", call, arguments)
        on_event("phase", {"name": "opening a process of its own, and PyTorch in it"})
        # With one worker the job would run here; of two only one is made, with half of the cores.
        return run_jobs([job], workers=2, stop=stop, on_event=on_event)[job.name]

    return target


__all__ = ["OnEvent", "Piece", "Target", "Work", "elsewhere"]
