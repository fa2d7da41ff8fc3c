"""Whether an adapter's files are those that were saved: hashed once, and again when they have changed."""

from __future__ import annotations

import os
from pathlib import Path

from tunesmith.formats.adapter import check_files

_REMEMBERED = 1024


class Whole:
    """Remembers which files agreed with their card's hashes, by what the system says of them."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, ...]] = {}

    def check(self, folder: Path) -> None:
        """Hold an adapter's files against its card, unless they were and have not changed since.

        Raises:
            UserError: a file is missing or not the one that was saved.
        """
        marks = _marks(folder)  # before they are read: a change from here on is seen the next time
        if self._known.get(folder) == marks:
            return
        check_files(folder)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[folder] = marks


def _marks(folder: Path) -> tuple[object, ...]:
    """Of each file: its name, place on the disk, size, and when it was written and changed."""
    found = []
    for place, _, names in sorted(os.walk(folder / "adapter")):
        found += [_mark(Path(place, name)) for name in sorted(names)]
    return (*found, _mark(folder / "adapter.json"))


def _mark(file: Path) -> tuple[object, ...]:
    try:
        seen = file.stat()
    except OSError:
        return (str(file),)
    return str(file), seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


__all__ = ["Whole"]
