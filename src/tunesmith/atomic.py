"""Files that are either there whole or not there: temporary name, flush, rename."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import ResourceError, UserError


def write_bytes(path: Path, data: bytes) -> None:
    """Puts ``data`` under ``path`` so that a kill at any moment leaves the old file or the new.

    Errors: :class:`ResourceError` when the disk is full, :class:`UserError` when the place cannot
    be written.
    """
    # The pid keeps an orphan of a killed run from writing into the same temporary file, the machine's
    # name a process of the same number elsewhere, where a cache is shared.
    temporary = path.with_name(f".tmp-{platform.node()[:40]}-{os.getpid()}-{path.name[-80:]}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> UserError:
    """The one line for an operating system error while writing ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"the disk is full (writing {path})", "free some space and run again")
    return UserError(
        f"cannot write {path}: {error.strerror or error}", "choose another folder or its rights"
    )


def sync_folder(path: Path) -> None:
    """Makes the renames inside a folder survive a power cut, where the system can do that."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse; the rename itself is still atomic
    finally:
        os.close(handle)


def json_line(row: Mapping[str, Any]) -> str:
    """One JSON object on one line; NaN is refused, because no other reader takes it."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a ``.jsonl`` file."""
    write_bytes(path, "".join(json_line(row) + "\n" for row in rows).encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a ``.json`` file, indented, for people too."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)
    write_bytes(path, (text + "\n").encode())


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise disk_error(error, target) from error
