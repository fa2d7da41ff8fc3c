"""``tunesmith blend``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def blend(
    adapters: Annotated[
        list[str], typer.Argument(metavar="NAME=WEIGHT...", help="e.g. jazz=0.3 classical=0.7")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder for the adapter.")],
    rank: Annotated[
        int | None,
        typer.Option(help="The best approximation of this rank; exact without it."),
    ] = None,
) -> None:
    """Make one adapter of several: exactly the weighted sum of what they change."""
    from tunesmith.api import blend as run
    from tunesmith.cli._named import resolve, weighted

    made = run(
        [(name, resolve(name), weight) for name, weight in weighted(adapters)], out, rank=rank
    )
    if made.loss is not None:
        path, worst = made.loss.worst
        typer.echo(
            f"rank {made.rank}: relative error {made.loss.error:.2e}, at worst {worst:.2e} ({path})"
        )
    else:
        typer.echo(f"rank {made.rank}: exact")
    typer.echo(f"adapter in {out}")
