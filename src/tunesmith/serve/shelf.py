"""The adapters of a server: those it began with, and those that are added and removed while it runs.

Two ways in: by the name of a folder within one folder that the server was told of, and by upload. An
upload lies under a random id, and no part of a client's words is ever part of a path. What was added is
remembered, so that jobs that wait across a restart find it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from tunesmith.atomic import disk_error, write_bytes, write_json
from tunesmith.errors import UserError
from tunesmith.formats.adapter import check_base
from tunesmith.serve.adapter_files import (
    CARD,
    CARD_BYTES,
    TENSORS,
    check_components,
    check_folder,
    check_name,
)
from tunesmith.serve.request import Engine

_LOG = logging.getLogger(__name__)
UPLOADS, _BOOK = "uploads", "adapters.json"
_BLOCK = 1 << 20


class Missing(UserError):
    """No such adapter, or no such folder of one (HTTP 404)."""


class Taken(UserError):
    """The name stands for another adapter already (HTTP 409)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An adapter that was added while a server ran.

    Attributes:
        source: whether it lies in the folder of adapters or among the uploads.
        place: its folder's name there.
    """

    source: Literal["folder", "upload"]
    place: str


class Shelf:
    """Adds adapters to an engine and removes them; safe to use from several threads.

    Args:
        engine: that mixes them.
        folder: the folder that names are looked up in; it need not be there.
        kept: a folder of the server's own, for uploads and for what was added.
        most_bytes: of one adapter's tensors.
        uploads: that are kept at a time.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        kept: Path,
        *,
        most_bytes: int = 512 << 20,
        uploads: int = 64,
    ) -> None:
        self._engine, self.folder, self.most_bytes = engine, folder, most_bytes
        self._uploads, self._most_uploads = kept / UPLOADS, uploads
        self._book = kept / _BOOK
        self._lock = threading.Lock()
        self._added: dict[str, Entry] = {}

    def restore(self) -> list[str]:
        """Add again what was added before a restart; a line for each that cannot be."""
        lost = []
        try:
            plain = json.loads(self._book.read_text(encoding="utf-8"))
            book = {check_name(name): Entry(**entry) for name, entry in plain.items()}
        except FileNotFoundError:
            book = {}
        except (OSError, ValueError, TypeError, AttributeError, UserError) as error:
            raise UserError(f"{self._book}: not readable ({error})", "remove it") from None
        for name, entry in book.items():
            try:
                if name not in self._engine.adapters():
                    self._add(name, entry)
                    self._added[name] = entry
            except UserError as error:
                lost.append(f"adapter '{name}' is gone: {error}")
        if self._uploads.is_dir():
            known = {one.place for one in self._added.values() if one.source == "upload"}
            for place in self._uploads.iterdir():
                if place.name not in known:
                    shutil.rmtree(place, ignore_errors=True)
        return lost

    def available(self) -> list[str]:
        """Names of the folder's adapters, whether they are loaded or not."""
        if not self.folder.is_dir():
            return []
        return sorted(
            place.name
            for place in self.folder.iterdir()
            if (place / CARD).is_file() and not place.name.startswith(".")
        )

    def add_named(self, name: str, folder: str, *, replace: bool = False) -> None:
        """Add an adapter of the folder.

        Args:
            name: that requests will give.
            folder: its folder's own name.
            replace: take the place of one of that name.

        Raises:
            Missing: no such folder.
            Taken: the name is another's.
            UserError: of another base, torn, not safetensors, leading out of the folder ...
        """
        check_name(name)
        if not (self.folder / check_name(folder)).is_dir():
            raise Missing(f"no adapter '{folder}' in the folder", "GET /v1/adapters names them")
        self._put(name, Entry("folder", folder), replace)

    def add_upload(
        self, name: str, card: bytes, tensors: Sequence[BinaryIO], *, replace: bool = False
    ) -> None:
        """Keep an adapter's files and add it.

        Args:
            name: that requests will give.
            card: its ``adapter.json``.
            tensors: its safetensors files, in any order: the card's hashes tell which is which.
            replace: take the place of one of that name.

        Raises:
            Taken: the name is another's.
            UserError: as :meth:`add_named`; nothing of it is kept then.
        """
        check_name(name)
        if len(card) > CARD_BYTES:
            raise UserError(f"{CARD} has more than {CARD_BYTES} bytes", "it holds no tensors")
        with self._lock:
            count = sum(one.source == "upload" for one in self._added.values())
            if count >= self._most_uploads:
                raise UserError(
                    f"{count} uploads are kept already", "remove one: DELETE /v1/adapters/NAME"
                )
        id = secrets.token_hex(16)
        place = self._uploads / id
        try:
            place.mkdir(parents=True, mode=0o700)
            write_bytes(place / CARD, card)
            try:
                # Of another base, or no card at all: said before anything large is copied.
                parts = check_components(
                    said := check_base(place, self._engine.bundle), self._engine.bundle
                )
            except RecursionError:
                raise UserError(
                    f"{CARD}: nested too deeply", "send the one that was saved"
                ) from None
            except UserError as error:
                told = error.message.replace(str(place / CARD), CARD).replace(str(place), name)
                raise UserError(told, error.mend) from None
            wanted = [(said["components"][part], part) for part in parts]
            if len(tensors) != len(parts):
                raise UserError(
                    f"{len(tensors)} files of tensors, the card names {len(parts)}",
                    "send each once",
                )
            for stream in tensors:
                digest = _sha256(stream)
                one = next((one for one in wanted if one[0] == digest), None)
                if one is None:
                    raise UserError(
                        "a file of tensors is none of those that the card names by hash",
                        "send the files as they were saved",
                    )
                wanted.remove(one)
                _copy(stream, place / "adapter" / one[1] / TENSORS)
            self._put(name, Entry("upload", id), replace)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise disk_error(error, Path(CARD)) from error
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def remove(self, name: str) -> None:
        """Forget an adapter; an upload's files go with it. The folder's stay.

        Raises:
            Missing: there is none.
        """
        with self._lock:
            if name not in self._engine.adapters():
                raise Missing(f"no adapter '{name[:64]}'", "GET /v1/adapters names them")
            self._engine.remove_adapter(name)
            self._forget(name)

    def _put(self, name: str, entry: Entry, replace: bool) -> None:
        with self._lock:
            if name in self._engine.adapters() and not replace:
                raise Taken(f"there is an adapter '{name}'", "give another name, or replace=true")
            self._add(name, entry)
            self._forget(name)
            self._added[name] = entry
            self._write()

    def _add(self, name: str, entry: Entry) -> None:
        root = self.folder if entry.source == "folder" else self._uploads
        place = root / check_name(entry.place)
        check_folder(place, root, self._engine.bundle, self.most_bytes)
        self._engine.add_adapter(name, place)

    def _forget(self, name: str) -> None:
        old = self._added.pop(name, None)
        self._write()
        if old is not None and old.source == "upload":
            shutil.rmtree(self._uploads / old.place, ignore_errors=True)

    def _write(self) -> None:
        plain = {
            name: {"source": one.source, "place": one.place} for name, one in self._added.items()
        }
        write_json(self._book, plain)


def shelved(folder: Path, kept: Path) -> list[Path]:
    """Folders of all adapters that a server could be asked for by name, or was sent.

    Args:
        folder, kept: as of :class:`Shelf`.
    """
    roots = [root for root in (folder, kept / UPLOADS) if root.is_dir()]
    return [card.parent for root in roots for card in sorted(root.glob(f"*/{CARD}"))]


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    for block in _blocks(stream):
        digest.update(block)
    return digest.hexdigest()


def _copy(stream: BinaryIO, file: Path) -> None:
    file.parent.mkdir(parents=True)
    stream.seek(0)
    with file.open("xb") as target:
        for block in _blocks(stream):
            target.write(block)
        target.flush()
        os.fsync(target.fileno())


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


__all__ = ["UPLOADS", "Entry", "Missing", "Shelf", "Taken", "shelved"]
