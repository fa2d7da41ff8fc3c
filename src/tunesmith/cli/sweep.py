"""``tunesmith sweep``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli._config_words import BaseName, Method, Recipe, file_and_settings

if TYPE_CHECKING:
    from tunesmith.sweep import Table


def sweep(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] KEY=VALUE,VALUE...",
            help="A configuration file, and settings with several values.",
        ),
    ] = None,
    base: BaseName = None,
    method: Method = None,
    data: Annotated[str | None, typer.Option(help="A folder made by `tunesmith prepare`.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The sweep's folder.")] = Path("sweep"),
    recipe: Recipe = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps (train.steps).")] = None,
    draw: Annotated[
        int | None, typer.Option("--random", min=1, help="Try so many combinations at random.")
    ] = None,
    halving: Annotated[
        bool, typer.Option(help="Stop the worse half at a quarter and at half of the steps.")
    ] = True,
    takes: Annotated[int, typer.Option(min=4, help="Takes of each trial to measure.")] = 16,
    seconds: Annotated[
        float | None, typer.Option(help="Of each take; else as held-out clips, at most 5.")
    ] = None,
    embedding: Annotated[
        str, typer.Option(help="What hears the takes: pocket, clap ...; the base's own by default.")
    ] = "",
    engine: Annotated[
        str, typer.Option(help="local, or ray: trials as tasks of a cluster.")
    ] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at a time.")] = None,
    seed: Annotated[int, typer.Option(help="Of the takes, and of --random.")] = 1,
) -> None:
    """Train every combination of some settings, and tell which comes nearest to held-out clips.

    'method.rank=4,16,64' 'train.lr=1e-4,3e-4' are six trials. Each is measured by KAD of takes of the
    held-out captions; the worse half is stopped at two rungs. Every fault of every combination is
    told before anything trains; run again, what is finished is not done again.
    """
    from tunesmith.cli._progress import RunDisplay
    from tunesmith.sweep import Wishes, trials_of
    from tunesmith.sweep import sweep as run
    from tunesmith.training.signals import StopFlag

    file, settings = file_and_settings(words)
    given = {"base": base, "method": method, "data": data, "train.steps": steps}
    trials = trials_of(file, settings, given, out, recipe=recipe, draw=draw, seed=seed)
    wishes = Wishes(takes, seconds, embedding, seed, halving, engine, workers)
    names = {trial.key: trial.name for trial in trials}
    with StopFlag() as stop, RunDisplay() as display:
        display.say(f"{len(trials)} trials in {out}")

        def on_event(kind: str, values: Mapping[str, Any]) -> None:
            of = values.get("of")
            display(kind, {**values, "of": names.get(of, of)} if of is not None else values)

        table = run(trials, out, wishes=wishes, stop=stop, on_event=on_event)
    _print(table, out)


def _print(table: Table, out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Shown

    heads, cells = table.cells(out)
    shown = Shown(box=None, pad_edge=False)
    for head in heads:
        shown.add_column(head, overflow="fold")
    for row, line in zip(table.rows, cells, strict=True):
        shown.add_row(*map(escape, line), style="bold" if row is table.best else None)
    Console(highlight=False).print(shown)
    typer.echo(table.note())
    for sentence in table.verdict:
        typer.echo(sentence)
    typer.echo(f"table: {out / 'sweep.html'}")
    if table.best is not None:
        typer.echo(f"best: {table.best.folder}")
