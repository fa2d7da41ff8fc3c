"""The command line in processes of its own, without paying for torch's import each time.

A fork server imports everything once; each run is a fork of it: a real process, with real signals
and exit codes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "procs",
        "tunesmith.api",
        "tunesmith.cli",
        "tunesmith.cli._progress",
        "tunesmith.families.musicgen.loading",
        "tunesmith.methods.full",
        "tunesmith.methods.lora",
        "tunesmith.report.run",
        "rich.console",
        "rich.progress",
    ]
)


@dataclass(frozen=True)
class Done:
    """How a process ended: exit code (minus the signal's number if one killed it) and output."""

    code: int
    out: str
    err: str


def _main(arguments: list[str], folder: str, where: str | None, before: Any) -> None:
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # servers ignore it, and so would we
    if where is not None:
        os.chdir(where)
    if before is not None:
        before()
    sys.argv = ["tunesmith", *arguments]
    from tunesmith.cli import main

    main()


class Running:
    """A command line that runs.

    Args:
        arguments: its words.
        where: working folder.
        before: called in the process first; must be picklable.
    """

    def __init__(
        self,
        *arguments: object,
        where: Path | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        words = [str(argument) for argument in arguments]
        at = str(where) if where is not None else None
        self.process = CONTEXT.Process(target=_main, args=(words, self._folder.name, at, before))
        self.process.start()
        # Whoever ends it early is to find what it said: nothing is there before the process has begun.
        begun = Path(self._folder.name) / "err"
        while not begun.exists() and self.process.exitcode is None:
            time.sleep(0.005)

    def end(self) -> Done:
        """Wait for it."""
        self.process.join(280)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError("still running")
        code = self.process.exitcode
        out, err = (
            (Path(self._folder.name) / name).read_text() if code is not None else ""
            for name in ("out", "err")
        )
        self.process.close()
        self._folder.cleanup()
        return Done(code, out, err)


def cli(*arguments: object, where: Path | None = None, before: Any = None) -> Done:
    """Run ``tunesmith`` with these words to its end."""
    return Running(*arguments, where=where, before=before).end()


@dataclass(frozen=True)
class SignalAt:
    """Sends the process a signal when the run tells of its ``count``-th event of a kind."""

    kind: str
    number: int
    step: int | None = None
    count: int = 1

    def __call__(self) -> None:
        from tunesmith.cli._progress import RunDisplay

        show, seen = RunDisplay.__call__, [0]

        def watch(display: RunDisplay, kind: str, values: Any) -> None:
            show(display, kind, values)
            if kind == self.kind and (self.step is None or values.get("step") == self.step):
                seen[0] += 1
                if seen[0] == self.count:
                    os.kill(os.getpid(), self.number)

        RunDisplay.__call__ = watch  # type: ignore[method-assign]


@dataclass(frozen=True)
class SignalIn:
    """Sends the process a signal in the ``count``-th call of a function, before it does anything."""

    module: str
    name: str
    number: int
    count: int = 1

    def __call__(self) -> None:
        import importlib

        holder: Any = importlib.import_module(self.module)
        *path, last = self.name.split(".")
        for part in path:
            holder = getattr(holder, part)
        inner, seen = getattr(holder, last), [0]

        def watch(*args: Any, **kwargs: Any) -> Any:
            seen[0] += 1
            if seen[0] == self.count:
                os.kill(os.getpid(), self.number)
            return inner(*args, **kwargs)

        setattr(holder, last, watch)
