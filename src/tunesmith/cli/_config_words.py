"""What `train` and `plan` share: a configuration given in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [KEY=VALUE]...",
        help="A configuration file and settings that win over it.",
    ),
]
BaseName = Annotated[str | None, typer.Option(help="Base model: pocket, a folder, or a hub id.")]
Method = Annotated[str | None, typer.Option(help="What trains; see `tunesmith ls`.")]
Recipe = Annotated[str | None, typer.Option(help="A recipe by name; see `tunesmith ls`.")]


def file_and_settings(words: list[str] | None) -> tuple[Path | None, list[str]]:
    """The configuration file among the words, and the settings.

    Raises:
        UserError: there are two files.
    """
    from tunesmith.errors import UserError

    files = [word for word in words or [] if "=" not in word]
    if len(files) > 1:
        raise UserError(
            f"two configuration files: {', '.join(files)}", "give one; settings are KEY=VALUE"
        )
    settings = [word for word in words or [] if "=" in word]
    return (Path(files[0]) if files else None), settings
