"""``tunesmith import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_(
    folder: Annotated[
        Path, typer.Argument(help="With adapter_config.json and adapter_model.safetensors.")
    ],
    base: Annotated[str, typer.Option(help="The base that it was made for.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder for the adapter.")],
) -> None:
    """Take in a LoRA that was made elsewhere with PEFT."""
    from tunesmith.formats.peft_import import import_peft

    made = import_peft(folder, base, out)
    how = "; ranks and scales folded into one" if made.folded else ""
    typer.echo(f"{made.linears} linears, rank {made.rank}{how}")
    if made.made_for and made.made_for != base:
        typer.echo(f"note: its configuration names the base {made.made_for}", err=True)
    typer.echo(f"adapter in {made.folder}")
