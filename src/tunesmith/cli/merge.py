"""``tunesmith merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    adapter: Annotated[str, typer.Argument(help="A run's folder, a name, or owner/name.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder for the checkpoint.")],
    strength: Annotated[float, typer.Option(help="How much of the adapter; 1 is as trained.")] = 1,
    base: Annotated[
        str | None, typer.Option(help="Where its base is, if its name does not lead there.")
    ] = None,
) -> None:
    """Fold an adapter into its base: a checkpoint that the plain library opens, in float32."""
    from tunesmith.api import merge as run
    from tunesmith.cli._named import resolve

    made = run(resolve(adapter), out, strength=strength, base=base)
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"opened again: differs from the live adapter by {made.difference:.1e} at most")
    typer.echo(f"checkpoint in {made.folder}; it is a base as well: --base {made.folder}")
