"""``tunesmith push``."""

from __future__ import annotations

from typing import Annotated

import typer


def push(
    adapter: Annotated[str, typer.Argument(help="A run's folder or a name.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where on the hub.")],
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who sees it, if it is made now.")
    ] = True,
    rights: Annotated[
        str, typer.Option(help="Rights in the recordings, where the adapter does not say.")
    ] = "",
) -> None:
    """Upload an adapter to the Hugging Face hub: tensors, adapter.json and card, nothing else."""
    from tunesmith.cli._named import resolve
    from tunesmith.formats.hub import push as run

    made = run(resolve(adapter), repository, private=private, rights=rights)
    typer.echo(f"licence of the base's weights: {made.licence}")
    typer.echo(f"rights in the recordings: {made.rights}")
    typer.echo(made.url)
