"""What is to be compared, and with what: runs, bases, folders of recordings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from tunesmith.data.load import load_dataset
from tunesmith.errors import UserError
from tunesmith.evaluation.losses import chosen
from tunesmith.evaluation.open import BaseName, base_of, settings_of, voice_of
from tunesmith.families import EMBEDDED, find_base
from tunesmith.families._bases import looks_like_id
from tunesmith.formats.adapter import find_adapter
from tunesmith.types import Clip

_Thing = TypeVar("_Thing")

_INDEXES = ("config.json", "model_index.json")
_MOST_FILES = 1000
"""Sounds of a folder, or of a reference, beyond which more would only cost time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One side of a comparison.

    Attributes:
        key: short and unique; a folder's name too.
        kind: what it is.
        name: as the user knows it.
        base: what generates; None for a folder of recordings.
        path: of a run or a folder.
        against: key of what its numbers are compared with; empty for a base.
    """

    key: str
    kind: Literal["base", "run", "folder"]
    name: str
    base: BaseName | None = None
    path: str = ""
    against: str = ""


def wanted(words: Sequence[str]) -> list[Wanted]:
    """Runs, bases and folders by name; the base of every run stands before it.

    Raises:
        UserError: a word that names none of them, or nothing at all.
    """
    found: list[Wanted] = []

    def add(one: Wanted) -> Wanted:
        taken = {other.key for other in found}
        key, number = one.key, 2
        while key in taken:
            key, number = f"{one.key}-{number}", number + 1
        # A second "mine" is told by its folder, or a reader could not tell the two apart.
        name = (
            f"{Path(one.path).parent.name}/{one.name}" if key != one.key and one.path else one.name
        )
        found.append(replace(one, key=key, name=name))
        return found[-1]

    def base_key(base: BaseName) -> str:
        for one in found:
            if one.kind == "base" and one.base is not None and _same(one.base, base):
                return one.key
        name = Path(base.name).name + (f" ({base.quantize})" if base.quantize else "")
        name += " (zero-shot)" if base.voice_of else ""
        return add(Wanted("base", "base", name, base)).key

    for word in words:
        what = _kind(word)
        if what == "base":
            base_key(BaseName(word))
        elif what == "folder":
            path = Path(word).expanduser().resolve()
            add(Wanted(path.name or "folder", "folder", path.name, None, str(path)))
        else:
            run = find_adapter(word).resolve()
            if any(one.path == str(run) for one in found):
                continue
            base = base_of(run)
            against = base_key(base)
            add(Wanted(run.name, "run", run.name, base, str(run), against))
    first = next((one.key for one in found if one.kind == "base"), "")
    order = {"base": 0, "run": 1, "folder": 2}
    found = [replace(one, against=first) if one.kind == "folder" else one for one in found]
    return sorted(found, key=lambda one: order[one.kind])


def _same(one: BaseName, other: BaseName) -> bool:
    """Whether two bases are one: of the same weights, and told the same voice."""
    if replace(one, voice_of="") != replace(other, voice_of=""):
        return False
    return one == other or voice_of(one) == voice_of(other)


def _kind(word: str) -> Literal["base", "run", "folder"]:
    path = Path(word).expanduser()
    if word in EMBEDDED:
        return "base"
    if path.is_dir():
        if (path / "adapter.json").is_file() or (path / "config.yaml").is_file():
            return "run"
        if any((path / name).is_file() for name in _INDEXES):
            return "base"
        return "folder"
    looks = [("run", lambda: find_adapter(word)), ("base", lambda: find_base(word, weights=False))]
    mend = ""
    # Of what is on the hub most are bases, and each look fetches something.
    for kind, look in reversed(looks) if looks_like_id(word) else looks:
        try:
            look()
            return kind  # type: ignore[return-value]
        except UserError as error:
            mend = error.mend if kind == "run" else mend
    raise UserError(f"'{word}' is no run, no base and no folder of recordings", mend)


@dataclass(frozen=True, slots=True)
class Reference:
    """The recordings that all are measured against.

    Attributes:
        folder: where they are.
        split: the side of the data set that is used; None is all of it.
        clips: they themselves.
        warnings: what a reader has to know of them.
    """

    folder: str
    split: str | None
    clips: tuple[Clip, ...]
    warnings: tuple[str, ...] = ()


def reference_of(folder: str | Path | None, subjects: Sequence[Wanted]) -> Reference:
    """Given recordings, else the held-out side of the data that all runs were trained on.

    What any of the runs was trained on is left out; of more than 1,000 clips evenly spaced ones stay.

    Raises:
        UserError: there are none, or the runs were trained on different data.
    """
    trained = training_hashes(subjects)
    if folder is not None:
        path = str(Path(folder).expanduser())
        clips = chosen(path, None)
        held_out = [clip for clip in clips if clip.split == "valid"]
        if any(clip.sha256 in trained for clip in clips):
            clips = held_out
        split = "valid" if clips == held_out else None
    else:
        path = _data_of(subjects)
        split, clips = "valid", chosen(path, "valid")
    # Also of the runs' own data: it may have been divided anew since, or another way for another run.
    unheard = [clip for clip in clips if clip.sha256 not in trained]
    if not unheard:
        raise UserError(
            f"{path} has no held-out clips",
            "prepare it with --valid-share 0.2, or give other recordings of the kind with --reference",
        )
    warnings = ()
    if len(unheard) < 50:
        count = f"{len(unheard)} held-out clip{'s are' if len(unheard) > 1 else ' is'}"
        warnings = (f"{count} few: only large differences show",)
    return Reference(path, split, tuple(_spaced(unheard)), warnings)


def _data_of(subjects: Sequence[Wanted]) -> str:
    paths = {}
    for one in subjects:
        told = settings_of(Path(one.path)).get("data") if one.kind == "run" else None
        if told:
            paths[str(Path(told["path"]).expanduser().resolve())] = one.name
    if not paths:
        raise UserError(
            "nothing here says what to compare with",
            "give recordings of the kind with --reference DIR",
        )
    if len(paths) > 1:
        raise UserError(
            f"these runs were trained on different data ({', '.join(paths)})",
            "say with --reference which recordings they should come near to",
        )
    path = next(iter(paths))
    if not Path(path).is_dir():
        raise UserError(
            f"{path}, which {paths[path]} was trained on, is gone",
            "give recordings of the kind with --reference DIR",
        )
    return path


def training_hashes(subjects: Sequence[Wanted]) -> set[str]:
    """Hashes of all clips that any of the runs was trained on."""
    found: set[str] = set()
    for one in subjects:
        if one.kind == "run":
            found |= _trained_on(Path(one.path))
    return found


def _trained_on(run: Path) -> set[str]:
    try:
        told = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return set(told["data"]["train"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def training_clips(run: Path) -> list[Clip]:
    """The clips that a run was trained on, as far as they are still there."""
    told, hashes = settings_of(run).get("data") or {}, _trained_on(run)
    try:
        folder = Path(told["path"]).expanduser()
        return [clip for clip in load_dataset(folder) if clip.sha256 in hashes]
    except (KeyError, UserError):
        return []


def general_of(folder: str | Path | None, subjects: Sequence[Wanted]) -> str | None:
    """Given general recordings, else those of the runs, if they share them and they are there."""
    if folder is not None:
        return str(Path(folder).expanduser())
    paths = {
        (settings_of(Path(one.path)).get("data") or {}).get("general")
        for one in subjects
        if one.kind == "run"
    }
    path = paths.pop() if len(paths) == 1 else None
    place = Path(path).expanduser() if path else None
    return str(place) if place and place.is_dir() else None


def general_clips(path: str | None, subjects: Sequence[Wanted]) -> tuple[Clip, ...]:
    """Clips of general recordings that no run has trained on, nor may have replayed.

    Raises:
        UserError: all of them were trained on.
    """
    if path is None:
        return ()
    trained = training_hashes(subjects)
    clips = [clip for clip in chosen(path, None) if clip.sha256 not in trained]
    if any(_replays(settings_of(Path(one.path)), path) for one in subjects if one.kind == "run"):
        clips = [clip for clip in clips if clip.split == "valid"]
    if not clips:
        raise UserError(
            f"all of {path} was trained on or replayed", "give other recordings with --general DIR"
        )
    return tuple(_spaced(clips))


def _replays(settings: Mapping[str, Any], general: str) -> bool:
    """Whether a run may have trained on a folder's training side: asked to, or by ``auto_fix``."""
    prior, replay = (settings.get(section) or {} for section in ("prior", "replay"))
    given = [part.get("path") for part in (prior, replay)]
    there = Path(general).resolve()
    if any(path and Path(path).expanduser().resolve() == there for path in given):
        return True
    own = (settings.get("data") or {}).get("general")
    itself = bool(own) and Path(own).expanduser().resolve() == there
    begun = settings.get("watch") and settings.get("auto_fix")
    return bool(itself and begun and not replay.get("path") and not prior.get("weight")) and any(
        clip.split == "valid" for clip in chosen(general, None)
    )


def files_in(folder: str) -> list[str]:
    """The sound files of a folder or a data set; of very many, evenly spaced ones.

    Raises:
        UserError: there are fewer than 3.
    """
    found = [str(clip.path) for clip in load_dataset(folder) if not clip.variant_of]
    if len(found) < 3:
        raise UserError(
            f"{folder} holds {len(found)} sound files, 3 are the least", "give a folder of more"
        )
    return _spaced(found)


def _spaced(things: Sequence[_Thing]) -> list[_Thing]:
    """At most :data:`_MOST_FILES` of them."""
    if len(things) <= _MOST_FILES:
        return list(things)
    return [things[index * len(things) // _MOST_FILES] for index in range(_MOST_FILES)]


__all__ = [
    "Reference",
    "Wanted",
    "files_in",
    "general_clips",
    "general_of",
    "reference_of",
    "training_clips",
    "training_hashes",
    "wanted",
]
