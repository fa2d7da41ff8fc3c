"""``tunesmith`` in a process that tells what it is doing, or kills itself inside a checkpoint write.

    python -m bench._victim NOTES [--die STAGE:COUNT] -- VERB ARGUMENTS...

NOTES is a small file into which the current activity is written as ``name:count``; it outlives a
SIGKILL. Nothing else differs from the command itself.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import tunesmith.cli
import tunesmith.data
import tunesmith.report.run
import tunesmith.training.checkpoint as checkpoint
import tunesmith.training.run as run
from tunesmith.training.loop import Loop
from tunesmith.training.preview import Previewer

STAGES = (
    "half of the weights",
    "half of the optimizer",
    "no manifest",
    "not renamed",
    "not pruned",
)


class Notes:
    """The activity, in a file of fixed size."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        self._stack = ["start"]
        self._counts: Counter[str] = Counter()
        self._write()

    def _write(self) -> None:
        os.pwrite(self._file, self._stack[-1].ljust(40).encode(), 0)

    def watch(self, owner: Any, name: str, activity: str) -> None:
        """Note the activity whenever a function runs."""
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self._counts[activity] += 1
            self._stack.append(f"{activity}:{self._counts[activity]}")
            self._write()
            try:
                return inner(*args, **kwargs)
            finally:
                self._stack.pop()
                self._write()

        setattr(owner, name, noted)


def die() -> None:
    """As if the power had gone."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(stage: str, wanted: int) -> None:
    """Kill this process at a stage of the ``wanted``-th checkpoint that it writes."""
    saves = 0
    save, prune = checkpoint.Checkpoints.save, checkpoint.Checkpoints._prune
    save_file, sha256, flush = checkpoint.save_file, checkpoint._sha256, checkpoint.flush

    def counted(self: Any, *args: Any) -> Path:
        nonlocal saves
        saves += 1
        return save(self, *args)

    def torn(tensors: Any, path: Path, *args: Any) -> None:
        save_file(tensors, path, *args)
        if saves == wanted and stage == f"half of the {Path(path).stem}":
            os.truncate(path, path.stat().st_size // 2)
            die()

    def hashed(path: Path) -> str:
        if saves == wanted and stage == "no manifest":
            die()
        return sha256(path)

    def flushed(path: Path) -> None:
        flush(path)
        if saves == wanted and stage == "not renamed" and path.is_dir():
            die()

    def pruned(self: Any) -> None:
        if saves == wanted and stage == "not pruned":
            die()
        prune(self)

    checkpoint.Checkpoints.save = counted  # type: ignore[method-assign]
    checkpoint.Checkpoints._prune = pruned  # type: ignore[method-assign]
    checkpoint.save_file, checkpoint._sha256, checkpoint.flush = torn, hashed, flushed  # type: ignore[assignment]


def main() -> None:
    notes_file, *rest = sys.argv[1:]
    before, words = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
    notes = Notes(notes_file)
    if before:
        stage, _, count = before[1].rpartition(":")
        die_while_writing(stage, int(count))
    notes.watch(tunesmith.data, "prepare", "prepare")
    notes.watch(run, "load_base", "load")
    notes.watch(run, "encode_sides", "encode")
    notes.watch(Loop, "_validate", "validate")
    notes.watch(Loop, "_step", "step")
    notes.watch(Loop, "save", "checkpoint")
    notes.watch(Previewer, "__call__", "preview")
    notes.watch(run, "finish", "finish")
    notes.watch(tunesmith.report.run, "report_on_run", "report")
    sys.argv = ["tunesmith", *words]
    tunesmith.cli.main()


if __name__ == "__main__":
    main()
