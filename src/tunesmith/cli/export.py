"""``tunesmith export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    adapter: Annotated[str, typer.Argument(help="A run's folder, a name, or owner/name.")],
    to: Annotated[
        str,
        typer.Option(
            help="peft (an adapter), diffusers (a LoRA for its pipeline) or merged (a checkpoint)."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder.")],
) -> None:
    """Write an adapter in a form that other programs open."""
    from tunesmith.errors import UserError

    if to == "merged":
        from tunesmith.cli.merge import merge

        merge(adapter, out)
        return
    if to not in ("peft", "diffusers"):
        raise UserError(f"--to {to}: unknown", "give peft, diffusers or merged")
    from tunesmith.cli._named import resolve
    from tunesmith.formats.hub import export_diffusers, export_peft

    write = export_peft if to == "peft" else export_diffusers
    for component in write(resolve(adapter), out):
        typer.echo(out / component)
