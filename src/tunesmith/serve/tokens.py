"""The token of a server: from the environment or a file, never from a command line, which all can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tunesmith.errors import UserError

VARIABLE = "TUNESMITH_TOKEN"
_LEAST = 16


def find_token(file: str | Path | None = None) -> tuple[str, str]:
    """``(token, where it came from)``; both empty if there is none.

    Args:
        file: holds the token; one is made, for its owner alone to read, if it is not there.

    Raises:
        UserError: it cannot be read or made, or is too short or long to be one.
    """
    if file is None:
        token, where = os.environ.get(VARIABLE, "").strip(), f"${VARIABLE}"
        if not token:
            return "", ""
    else:
        where = str(Path(file).expanduser())
        token = _of_file(Path(where))
    if not _LEAST <= len(token) <= 1024 or not (token.isascii() and token.isprintable()):
        raise UserError(
            f"what {where} holds is no token",
            f"use at least {_LEAST} letters and digits, no spaces",
        )
    if " " in token:
        raise UserError(f"the token of {where} has a space in it", "leave it out")
    return token, where


def _of_file(path: Path) -> str:
    try:
        # Made as nobody else's from the first moment on.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise UserError(
            f"the token file {path} cannot be made ({error.strerror})", "give another place"
        ) from None
    else:
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the token file {path} cannot be read ({error})", "give a text file"
        ) from None


__all__ = ["VARIABLE", "find_token"]
