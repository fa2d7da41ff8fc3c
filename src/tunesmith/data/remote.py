"""Recordings that are not on a disk here: whatever `fsspec <https://filesystem-spec.readthedocs.io>`_ opens.

``s3://``, ``gs://``, ``hf://datasets/...``, ``https://``, ``file://`` ... Credentials are those that the
file system finds by itself (environment, its own configuration files): none are taken or kept here.

Texts are small and are copied beside empty files with the recordings' names, so that captions are
found exactly as on a disk. A recording itself is fetched when it is worked on, and removed after.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.data.sources import Rejection, Remote, Source, known, looks_like_one, shown, unfit
from tunesmith.data.tables import TABLES, TEXT_BYTES
from tunesmith.errors import UserError

_TEXTS = frozenset({".txt", ".json", ".lrc"})
_TRIES, _WAIT_S = 3, 0.5
# What changes with a file's content, by the names that file systems give it.
_VERSION = (
    *("etag", "mtime", "created", "lastmodified", "last_modified", "updated", "generation"),
    *("md5hash", "md5", "crc32c", "blob_id", "lfs", "version_id", "versionid", "checksum"),
)


def is_url(place: str | Path) -> bool:
    """Whether a place is for fsspec to open, ``file://`` included."""
    return "://" in str(place)


def find_remote(url: str, mirror: Path) -> tuple[list[Source], list[Rejection]]:
    """Every recording under a URL (or the one), sorted by name; like ``find_recordings``.

    Args:
        url: of a folder or a file.
        mirror: empty folder that takes the texts, and an empty file for each recording.

    Returns:
        The recordings, whose ``path`` is that of the empty file, and what looks like one but cannot be
        taken.

    Errors: :class:`UserError` if the URL cannot be opened or nothing is there.
    """
    system, root = _system(url)
    try:
        listed: Mapping[str, Mapping[str, Any]] = system.find(root, detail=True)
    except Exception as error:
        raise _unreachable(url, error) from None
    if not listed:
        raise UserError(f"{url} does not exist, or is empty", "check the address and your rights")
    alone = list(listed) == [root]
    found: list[Source] = []
    rejected: list[Rejection] = []
    texts: dict[str, Path] = {}
    for path, info in sorted(listed.items()):
        name = path.rpartition("/")[2] if alone else path.removeprefix(root).lstrip("/")
        parts = name.split("/")
        # Hidden files and folders are passed over, which leaves no `..` either.
        if any(not part or part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        here = mirror.joinpath(*parts)
        size_bytes = _size(system, path, info)
        is_sound = looks_like_one(here)
        is_text = here.suffix.lower() in _TEXTS or here.name in TABLES
        if not (is_sound or is_text):
            continue
        try:
            here.parent.mkdir(parents=True, exist_ok=True)
            here.touch()
        except (OSError, ValueError) as error:
            if is_sound:
                reason = f"has a name that no file can have here ({error.__class__.__name__})"
                rejected.append(Rejection(shown(name), 0.0, reason))
            continue
        if is_text and (size_bytes <= TEXT_BYTES or here.name in TABLES):
            texts[path] = here
        elif is_text:
            here.write_bytes(bytes(TEXT_BYTES + 1))  # as long as it takes to be called too long
        elif reason := unfit(here, size_bytes):
            rejected.append(Rejection(shown(name), 0.0, reason))
        else:
            remote = Remote(url, path, _version(info))
            found.append(Source(here, shown(name), size_bytes, remote))
    if alone and not (found or rejected):
        raise UserError(f"{url} is no recording by its name", f"known: {known()}")
    if texts:
        try:
            system.get(list(texts), [str(here) for here in texts.values()])
        except Exception as error:
            raise _unreachable(url, error) from None
    found.sort(key=lambda source: source.name)
    rejected.sort(key=lambda rejection: rejection.file)
    return found, rejected


@contextmanager
def at_hand(source: Source, sha256: str = "") -> Iterator[Path]:
    """A recording's file on a disk here; what had to be fetched is removed afterwards.

    Args:
        source: the recording.
        sha256: what its content was; checked where it is fetched.

    Errors: :class:`UserError` if it cannot be fetched or has changed. That is no fault of the
    recording: leaving it out would make another data set than the next run does.
    """
    if source.remote is None:
        yield source.path
        return
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        path = Path(folder) / f"recording{source.path.suffix}"
        _fetch(source, path)
        if sha256:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise UserError(f"{source.name} has changed while it was prepared", "run again")
        yield path


def _fetch(source: Source, into: Path) -> None:
    assert source.remote is not None
    system, _ = _system(source.remote.url)
    for attempt in range(_TRIES):
        try:
            system.get_file(source.remote.path, str(into))
            return
        except Exception as error:
            gone = isinstance(error, FileNotFoundError | PermissionError)
            if gone or attempt + 1 == _TRIES:
                raise UserError(
                    f"{source.name} cannot be fetched from {source.remote.url} ({_said(error)})",
                    "run again to go on, or move it away if that stays so",
                ) from None
            time.sleep(_WAIT_S * 2**attempt)


def _system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(url)
    except ImportError as error:
        raise UserError(
            f"{url} cannot be opened here", f"pip install what it needs: {error}"
        ) from None
    except Exception as error:
        raise _unreachable(url, error) from None
    return system, str(root).rstrip("/") or str(root)


def _unreachable(url: str, error: Exception) -> UserError:
    return UserError(
        f"{url} cannot be read ({_said(error)})", "check the address, your rights and the network"
    )


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _size(system: Any, path: str, info: Mapping[str, Any]) -> int:
    size = info.get("size")
    if size is None:  # plain web servers do not list it
        try:
            size = system.info(path).get("size")
        except Exception:
            size = None
    return 1 if size is None else int(size)


def _version(info: Mapping[str, Any]) -> str:
    """Changes when the content does, as far as the file system tells; empty where it does not."""
    told = {key: str(value) for key, value in info.items() if key.lower() in _VERSION and value}
    if not told:
        return ""
    return hashlib.sha256(repr([info.get("size"), *sorted(told.items())]).encode()).hexdigest()
