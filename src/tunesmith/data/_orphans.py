"""Text files that were meant for a recording which is not there, so that nobody reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tunesmith.data import ffmpeg
from tunesmith.data.sources import NOT_TAKEN, READABLE, Source, shown

_SUFFIXES = (".caption.txt", ".lyrics.txt", ".txt", ".json", ".lrc")
_SOUND = READABLE | ffmpeg.SUFFIXES | NOT_TAKEN.keys()
# First words of what lies beside recordings and speaks of all of them, or of something else.
_GENERAL = frozenset(
    [
        "about",
        "album",
        "annotations",
        "attribution",
        "authors",
        "booklet",
        "captions",
        "changelog",
        "citation",
        "config",
        "contact",
        "contents",
        "contributors",
        "copying",
        "copyright",
        "cover",
        "credits",
        "dataset",
        "datasets",
        "description",
        "descriptions",
        "disclaimer",
        "disc",
        "download",
        "errors",
        "files",
        "filelist",
        "history",
        "index",
        "info",
        "instructions",
        "labels",
        "licence",
        "licences",
        "license",
        "licenses",
        "links",
        "liner",
        "list",
        "log",
        "manifest",
        "measures",
        "meta",
        "metadata",
        "note",
        "notes",
        "package",
        "playlist",
        "prompts",
        "readme",
        "references",
        "rejected",
        "releases",
        "requirements",
        "robots",
        "samples",
        "settings",
        "source",
        "sources",
        "splits",
        "state",
        "stats",
        "summary",
        "tags",
        "terms",
        "test",
        "thumbs",
        "todo",
        "tracklist",
        "tracklisting",
        "tracks",
        "train",
        "urls",
        "valid",
        "validation",
        "version",
    ]
)


def orphans(sources: Sequence[Source]) -> list[str]:
    """Sidecars without a recording, names relative to the searched folder.

    Only folders that hold recordings are looked at, and notes on the folder as a whole (readme,
    licence, tracklist ...) are none. What could not be taken as a recording still has its sidecars.
    """
    folders = {source.path.parent: PurePosixPath(source.name).parent for source in sources}
    found: list[str] = []
    for folder, place in folders.items():
        try:
            names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError:
            continue
        stems = {Path(name).stem for name in names if Path(name).suffix.lower() in _SOUND}
        found += [
            (place / shown(name)).as_posix()
            for name in names
            if (meant := list(_stems(name))) and not stems.intersection(meant)
        ]
    return sorted(found)


def _stems(name: str) -> Iterator[str]:
    """The recordings' stems that a sidecar may be meant for: ``x.caption.txt`` for ``x``."""
    if _is_general(name):
        return
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix):
            yield name.removesuffix(suffix)


def _is_general(name: str) -> bool:
    stem = name.split(".")[0].casefold()
    parts = re.findall(r"[^\W\d_]+", stem)
    return not parts or parts[0] in _GENERAL or "".join(parts) in _GENERAL
