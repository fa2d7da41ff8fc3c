"""What is said when a server can be reached from other machines."""

from __future__ import annotations

import typer


def warn_exposed() -> None:
    """One line on stderr."""
    typer.echo(
        "other machines can reach this server, without encryption: on an open network put it "
        "behind a proxy with TLS",
        err=True,
    )
