"""A progress display for runs, fed by the run's events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RunDisplay:
    """Prints what happens; one live bar while something counts. Use as a context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            # Without a terminal a bar is noise in a log; lines are printed instead.
            disable=not self.console.is_terminal,
        )
        self._task: Any = None
        self._name = ""
        self._every = 1

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False)

    def _bar(self, name: str, done: int, total: int, note: str = "") -> None:
        if self._name != name:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._name = self._progress.add_task(name, total=total, note=note), name
        self._progress.update(self._task, completed=done, note=note)

    def __call__(self, kind: str, values: Mapping[str, Any]) -> None:
        """Show one event of :func:`tunesmith.training.run.train`."""
        if kind == "encode":
            self._bar("encoding", values["done"], values["total"])
        elif kind == "resumed" and values["from"]:
            self.say(f"going on from {values['from']}")
        elif kind == "start":
            self._total = values["total"]
            self._every = max(1, self._total // 20)
            self.say(
                f"training {values['trainable_parameters']:,} parameters for {values['total']} steps on "
                f"{values['clips']} clips ({values['device']}, {values['dtype']})"
            )
            self._bar("training", values["step"], values["total"])
        elif kind == "train":
            note = f"loss {values['loss']:.4f}  {values['clips_per_s']:.1f} clips/s"
            self._bar("training", values["step"], self._total, note)
            if values["skipped"]:
                self.say(f"step {values['step']}: NaN or inf, skipped")
            elif not self.console.is_terminal and values["step"] % self._every == 0:
                self.say(f"step {values['step']}/{self._total}  {note}")
        elif kind == "valid":
            parts = [
                f"{name} {values[key]:.4f}"
                for name, key in (("validation loss", "loss"), ("general loss", "general_loss"))
                if key in values
            ]
            self.say(f"step {values['step']}: {', '.join(parts)}")
        elif kind == "phase":
            self.say(str(values["name"]))
