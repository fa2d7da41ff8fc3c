"""``tunesmith studio``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli._exposed import warn_exposed


def studio(
    folder: Annotated[
        Path, typer.Argument(help="The studio's folder: data sets, runs, and all that is made.")
    ] = Path("studio"),
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than this needs a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the password. [default: $TUNESMITH_STUDIO_PASSWORD]",
            show_default=False,
        ),
    ] = None,
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="With --host: a folder that recordings and bases may be read from; several times.",
            show_default=False,
        ),
    ] = None,
    at_a_time: Annotated[
        int, typer.Option(min=1, help="Trainings, preparations ... that may run at a time.")
    ] = 2,
    browser: Annotated[bool, typer.Option(help="Open the page in this machine's browser.")] = False,
) -> None:
    """Open the studio: a page to prepare, train, compare, blend, listen and export, until Ctrl-C.

    Work goes on when the page is closed. What runs when the studio ends is saved, and resumed from
    the page.
    """
    import os

    from tunesmith.errors import UserError
    from tunesmith.studio.server import serve
    from tunesmith.training.signals import StopFlag

    password = os.environ.get("TUNESMITH_STUDIO_PASSWORD", "")
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--password-file {password_file}: not readable ({error})", "give a text file"
            ) from None
        if not password:
            raise UserError(f"--password-file {password_file}: it is empty", "put a password in it")

    def tell(address: str) -> None:
        typer.echo(f"studio: {address}")
        if password:
            typer.echo("it asks for the password; any user name will do", err=True)
        if host not in ("127.0.0.1", "localhost", "::1"):
            warn_exposed()
        typer.echo(f"everything is kept in {folder}; Ctrl-C stops it", err=True)
        if browser:
            import webbrowser

            webbrowser.open(address)

    with StopFlag() as stop:
        serve(
            folder,
            host=host,
            port=port,
            password=password,
            allow=tuple(allow or ()),
            most=at_a_time,
            ready=tell,
            stop=stop,
        )
