"""``tunesmith export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    adapter: Annotated[str, typer.Argument(help="A run's folder, a name, or owner/name.")],
    to: Annotated[str, typer.Option(help="peft (an adapter) or merged (a checkpoint).")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder.")],
) -> None:
    """Write an adapter in a form that other programs open."""
    from tunesmith.errors import UserError

    if to == "merged":
        from tunesmith.cli.merge import merge

        merge(adapter, out)
        return
    if to != "peft":
        raise UserError(f"--to {to}: unknown", "give peft or merged")
    from tunesmith.cli._named import resolve
    from tunesmith.formats.hub import export_peft

    for component in export_peft(resolve(adapter), out):
        typer.echo(out / component)
