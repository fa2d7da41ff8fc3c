"""``tunesmith demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for data, run and report.")
    ] = Path("demo"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps. [default: the base's own]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of training and generation.")] = 0,
) -> None:
    """Adapt the embedded base to a style it has never heard; report.html shows what that did."""
    from tunesmith.cli._progress import RunDisplay
    from tunesmith.demo import demo as run
    from tunesmith.training.signals import StopFlag

    with StopFlag() as stop, RunDisplay() as display:
        result = run(out, steps=steps, seed=seed, stop=stop, on_event=display)
    base, adapted = result.numbers["base"], result.numbers["adapted"]
    for name, key in (("validation loss", "validation_loss"), ("KAD", "kad"), ("FAD", "fad")):
        typer.echo(f"{name:16} {base[key]:8.3f} -> {adapted[key]:8.3f}")
    general = result.numbers["general_loss_before"], result.numbers["general_loss_after"]
    typer.echo(f"{'general loss':16} {general[0]:8.3f} -> {general[1]:8.3f}")
    typer.echo(f"report: {result.report}")
