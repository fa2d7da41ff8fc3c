"""Where the studio's things lie, by names that cannot lead anywhere else.

``data/NAME`` prepared recordings, ``runs/NAME`` trainings, ``blends/NAME`` adapters made of others,
``tests/NAME`` listening tests, ``exports/NAME``, ``recordings/NAME`` what was uploaded.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.atomic import disk_error, write_json
from tunesmith.data import ffmpeg
from tunesmith.data.audiofolder import describe
from tunesmith.data.sources import NOT_TAKEN, READABLE
from tunesmith.errors import UserError
from tunesmith.families import EMBEDDED

Kind = Literal["data", "runs", "blends", "tests", "exports", "recordings"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,59}")
_BESIDE = frozenset({".txt", ".json", ".jsonl", ".csv", ".lrc"})
"""Captions and tables that ``prepare`` reads beside recordings."""


@dataclass(frozen=True, slots=True)
class Places:
    """The studio's folder, and what of the machine it may read beside it.

    Attributes:
        root: the studio's own folder.
        anywhere: whether recordings and bases may lie anywhere on this machine: only while nobody
            else can reach the studio.
        allowed: further folders they may lie in.
    """

    root: Path
    anywhere: bool = True
    allowed: tuple[Path, ...] = ()

    def folder(self, kind: Kind, name: str | None) -> Path:
        """The place of a name, there or not.

        Raises:
            UserError: an empty name, or one with more than letters, digits, ``_ . -`` and spaces.
        """
        name = (name or "").strip()
        if not _NAME.fullmatch(name) or name.endswith("."):
            raise UserError(
                f"'{name}' is no name" if name else "a name is missing",
                "give letters, digits, _ - and no more than 60 of them",
            )
        return self.root / kind / name

    def data_sets(self) -> list[str]:
        """Names of the prepared data sets."""
        return self._names("data", lambda path: describe(path) is not None)

    def runs(self) -> list[str]:
        """Names of the trainings, the latest first."""
        return self._names("runs", lambda path: (path / "config.yaml").is_file())

    def adapters(self) -> list[str]:
        """What can be heard: ``NAME`` of finished runs, then ``blends/NAME``."""
        runs = self._names("runs", lambda path: (path / "adapter.json").is_file())
        blends = self._names("blends", lambda path: (path / "adapter.json").is_file())
        return [*runs, *(f"blends/{name}" for name in blends)]

    def tests(self) -> list[str]:
        """Names of the listening tests, the latest first."""
        return self._names("tests", lambda path: (path / "test.json").is_file())

    def adapter(self, label: str | None) -> Path:
        """The folder of one of :meth:`adapters`.

        Raises:
            UserError: there is none of that name.
        """
        kind, _, name = (label or "").rpartition("/")
        if kind not in ("", "blends"):
            raise UserError(f"no adapter '{label}'", "choose one of the list")
        folder = self.folder("blends" if kind else "runs", name)
        if not (folder / "adapter.json").is_file():
            raise UserError(f"no adapter '{label}'", "train one first")
        return folder

    def source(self, text: str | None) -> Path:
        """A folder of recordings, or one recording, somewhere on this machine.

        Raises:
            UserError: there is none, or it may not be read from here.
        """
        if not (text or "").strip():
            raise UserError("no recordings", "give a folder, or upload some")
        path = Path(str(text).strip()).expanduser()
        self._check(path)
        if not path.exists():
            raise UserError(f"{path} does not exist", "give a folder of recordings on this machine")
        return path

    def base(self, text: str | None) -> str:
        """A base by name: an embedded one, a folder, or a hub id.

        Raises:
            UserError: none was given, or it is a folder that may not be read from here.
        """
        name = (text or "").strip()
        if not name:
            raise UserError("no base", "choose one: pocket works everywhere")
        if name not in EMBEDDED and Path(name).expanduser().exists():
            self._check(Path(name).expanduser())
        return name

    def take_in(self, name: str, files: Sequence[str]) -> tuple[Path, int]:
        """Copy uploaded files into ``recordings/NAME``; its folder, and how many were taken.

        Captions and tables that lie beside recordings come along; anything else stays out.

        Raises:
            UserError: nothing among them is a recording, or they cannot be written.
        """
        folder = self.folder("recordings", name)
        sound = READABLE | ffmpeg.SUFFIXES | NOT_TAKEN.keys()
        paths = [Path(file) for file in files]
        wanted = [one for one in paths if one.suffix.lower() in sound | _BESIDE]
        if not any(one.suffix.lower() in sound for one in wanted):
            raise UserError("no recordings among the uploaded files", "wav, flac, ogg, mp3, aiff")
        names = [one.name.lower() for one in wanted]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two of the files are called {twice}", "rename one of them")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in wanted:
                shutil.copyfile(path, folder / path.name.lstrip("."))
        except OSError as error:
            raise disk_error(error, folder) from error
        return folder, len(wanted)

    def remember_source(self, name: str, source: Path) -> None:
        """Keep where a data set's recordings are, to hear what was left out of them."""
        kept = self._sources() | {name: str(source.resolve())}
        write_json(self.root / "sources.json", kept)

    def source_of(self, name: str) -> Path | None:
        """Where a data set's recordings are; None if that is not known, or not allowed any more."""
        try:
            path = Path(self._sources()[name])
            self._check(path)
        except (KeyError, UserError):
            return None
        return path if path.exists() else None

    def _sources(self) -> dict[str, str]:
        try:
            kept = json.loads((self.root / "sources.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _check(self, path: Path) -> None:
        real = path.resolve()
        inside = any(real.is_relative_to(one.resolve()) for one in (self.root, *self.allowed))
        if not self.anywhere and not inside:
            raise UserError(
                f"{path} may not be read from here: others can reach this studio",
                "upload the files, or start the studio with --allow FOLDER",
            )

    def _names(self, kind: Kind, is_one) -> list[str]:
        folder = self.root / kind
        if not folder.is_dir():
            return []
        found = [one for one in folder.iterdir() if _NAME.fullmatch(one.name) and is_one(one)]
        return [one.name for one in sorted(found, key=lambda one: -one.stat().st_mtime)]


__all__ = ["Kind", "Places"]
