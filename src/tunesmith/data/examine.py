"""What has to be known of a recording before any is worked on: the hash of its bytes, and its tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.atomic import json_line, write_bytes
from tunesmith.data import tags
from tunesmith.data.remote import at_hand
from tunesmith.data.sources import Source, file_sha256
from tunesmith.data.tags import Tags
from tunesmith.errors import UserError

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Examined:
    """What was read of a recording.

    Attributes:
        sha256: of its bytes; empty if they cannot be read.
        tags: what the file says of itself.
        fault: why it cannot be read; empty if it can.
    """

    sha256: str
    tags: Tags = Tags()  # noqa: RUF009 - frozen
    fault: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "tags": asdict(self.tags), "fault": self.fault}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Examined:
        """Errors: KeyError or TypeError for anything but what :meth:`to_json` made."""
        return Examined(str(value["sha256"]), Tags(**value["tags"]), str(value["fault"]))


def examine(source: Source) -> Examined:
    """Reads a recording whole, once.

    Of one that has to be fetched the answer is kept under the cache folder, by its address and
    version: a run that goes on does not fetch it only to hear that it is the same.

    Errors: :class:`~tunesmith.errors.UserError` if it cannot be fetched.
    """
    entry = _entry(source)
    if entry is not None:
        try:
            return Examined.from_json(json.loads(entry.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError):
            pass
    with at_hand(source) as path:
        try:
            found = Examined(file_sha256(path), tags.read(path))
        except OSError as error:
            return Examined("", fault=f"cannot be read: {error.strerror}")
    if entry is not None:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(entry, json_line(found.to_json()).encode())
        except (OSError, UserError):
            pass  # it is fetched once more next time
    return found


def _entry(source: Source) -> Path | None:
    if source.remote is None or not source.remote.version:
        return None
    from tunesmith.data.encode import cache_folder  # brings torch

    parts = [_FORMAT, source.remote.url, source.remote.path, source.remote.version]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return cache_folder() / "examined" / key[:2] / f"{key}.json"
