"""``tunesmith extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def extract(
    adapter: Annotated[str, typer.Argument(help="A full fine-tune or a DoRA: folder or name.")],
    rank: Annotated[int, typer.Option(help="Rank of the LoRA: 4, 16, 64, 128 ...")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder for the adapter.")],
    base: Annotated[
        str | None, typer.Option(help="Where its base is, if its name does not lead there.")
    ] = None,
) -> None:
    """Make a LoRA of a full fine-tune (or of a DoRA), and say what it leaves out."""
    from tunesmith.api import extract as run
    from tunesmith.cli._named import resolve

    made = run(resolve(adapter), out, rank=rank, base=base)
    path, worst = made.loss.worst
    typer.echo(
        f"rank {made.rank}: relative error {made.loss.error:.3f} over {len(made.loss.whole)} linears, "
        f"at worst {worst:.3f} ({path})"
    )
    typer.echo(
        f"{made.outside:.1%} of the squared change lies in other weights (norms, biases, embeddings, "
        "heads) and is lost"
    )
    typer.echo(f"adapter in {made.folder}")
