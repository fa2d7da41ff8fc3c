"""A progress display for runs, fed by the run's events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RunDisplay:
    """Prints what happens; one live bar while something counts. Use as a context manager.

    Args:
        quiet: print nothing: of several processes one tells.
    """

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.console = Console(stderr=True, highlight=False, quiet=quiet)
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
        self._bars: dict[str, tuple[str, Any]] = {}
        self._totals: dict[str, int] = {}

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def _bar(self, of: str, name: str, done: int, total: int, note: str = "") -> None:
        shown, task = self._bars.get(of, ("", None))
        if shown != name:
            if task is not None:
                self._progress.remove_task(task)
            task = self._progress.add_task(f"{of} {name}".strip(), total=total, note=note)
            self._bars[of] = name, task
        self._progress.update(task, completed=done, note=note)

    def __call__(self, kind: str, values: Mapping[str, Any]) -> None:
        """Show one event of :func:`tunesmith.training.run.train`.

        Several runs at a time are told apart by ``of`` among the values.
        """
        of = str(values.get("of", ""))
        before = f"{of}: " if of else ""
        if kind == "encode":
            self._bar(of, "encoding", values["done"], values["total"])
        elif kind == "prepare":
            percent = int(100 * values["done"] / max(values["total"], 1))
            self._bar(of, str(values["stage"]), percent, 100)
        elif kind == "prior":
            self._bar(of, "sampling the prior", values["done"], values["total"])
        elif kind == "takes":
            self._bar(of, "clips", values["done"], values["total"])
            if not self.console.is_terminal and values["done"] == values["total"]:
                self.say(f"{before}{values['total']} clips")
        elif kind == "resumed" and values["from"]:
            self.say(f"{before}going on from {values['from']}")
        elif kind == "start":
            self._totals[of] = values["total"]
            self.say(
                f"{before}training {values['trainable_parameters']:,} parameters for {values['total']} steps on "
                f"{values['clips']} clips ({values['device']}, {values['dtype']})"
            )
            self._bar(of, "training", values["step"], values["total"])
        elif kind == "train":
            note = f"loss {values['loss']:.4f}  {values['clips_per_s']:.1f} clips/s"
            total = self._totals[of]
            self._bar(of, "training", values["step"], total, note)
            if values["skipped"]:
                self.say(f"{before}step {values['step']}: NaN or inf, skipped")
            elif not self.console.is_terminal and values["step"] % max(1, total // 20) == 0:
                self.say(f"{before}step {values['step']}/{total}  {note}")
        elif kind == "valid":
            parts = [
                f"{name} {values[key]:.4f}"
                for name, key in (
                    ("validation loss", "loss"),
                    ("general loss", "general_loss"),
                    ("anchor loss", "anchor_loss"),
                )
                if key in values
            ]
            self.say(f"{before}step {values['step']}: {', '.join(parts)}")
        elif kind == "judged":
            self.say(
                f"{before}step {values['step']}: similarity {values['similarity']:.3f}, intelligibility "
                f"{values['intelligibility']:.3f}, score {values['score']:.3f}"
            )
        elif kind == "pitfall":
            mend = f" - {values['mend']}" if values["mend"] else ""
            self.say(f"{before}pitfall: {values['message']}{mend}")
            if values["action"]:
                self.say(f"{before}  done: {values['action']}")
        elif kind == "phase":
            self.say(f"{before}{values['name']}")
