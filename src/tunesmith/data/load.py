"""Reads a prepared data set back, and any other Hugging Face AudioFolder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data._foreign import Problem, read_foreign
from tunesmith.data._sound import look
from tunesmith.data.audiofolder import SPLITS, describe
from tunesmith.data.recording import BadRecording
from tunesmith.data.sources import Rejection, file_sha256, shown
from tunesmith.data.tables import OWN_COLUMNS, read_table
from tunesmith.errors import UserError
from tunesmith.types import Clip

_AGAIN = "run `tunesmith prepare` again"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A data set as far as it can be read.

    Attributes:
        clips: train first, each in the order of the metadata.
        formats: of each clip's file: ``FLAC 32000 Hz mono``.
        unreadable: what is missing or cannot be opened, with the reason.
        notes: one line each: what was left alone, what does not add up.
        divided: the folder has no split of its own, so it was divided here.
    """

    clips: list[Clip]
    formats: Mapping[Path, str]
    unreadable: tuple[Rejection, ...]
    notes: tuple[str, ...]
    divided: bool


def is_intact(dest: Path) -> bool:
    """Whether every clip of a data set of ours is there with the bytes that were written."""
    try:
        clips = _ours(dest, _refuse)
        _check_count(dest, len(clips))
        return all(file_sha256(clip.path) == clip.sha256 for clip in clips)
    except (OSError, UserError):
        return False


def load_dataset(folder: str | Path) -> list[Clip]:
    """Reads a prepared data set, or any AudioFolder.

    In an AudioFolder that is not ours hashes and lengths are those of the files, captions come
    from sidecars, metadata or the files' names, and our columns count where the metadata has them
    (``recording``, ``start_s``, ``variant_of`` ...); a file without is a recording of its own. If
    there is no ``valid`` folder (or ``validation``, ``val``, ``dev``) it is divided by
    :func:`tunesmith.data.split.split`, recordings and equal files on one side. A ``test`` folder
    is left alone.

    Args:
        folder: with ``train/`` and ``valid/``, or with the files and their metadata.

    Returns:
        The clips, train first, each in the order of the metadata.

    Errors: :class:`UserError` for a folder that is missing, empty, torn, or whose metadata names
    files outside of it, and for a file that cannot be read.
    """
    root = _folder(folder)
    notes: tuple[str, ...] = ()
    if describe(root) is not None:
        clips = _ours(root, _refuse)
        _check_count(root, len(clips))
    else:
        foreign = read_foreign(root, _refuse)
        clips, notes = foreign.clips, foreign.notes
    if not clips:
        raise _empty(root, notes)
    return clips


def load_readable(
    folder: str | Path, on_progress: Callable[[int, int], None] | None = None
) -> Loaded:
    """Like :func:`load_dataset`, but what cannot be read is told rather than the end of it.

    Every file is opened, none is decoded as long as its length can be told without.

    Args:
        folder: as for :func:`load_dataset`.
        on_progress: told ``(done, total)``.

    Errors: :class:`UserError` if there is no folder, or nothing in it that can be read.
    """
    root = _folder(folder)
    bad: dict[str, Rejection] = {}

    def note(file: str, reason: str, mend: str) -> None:
        bad.setdefault(file, Rejection(file, 0.0, reason))

    if describe(root) is None:
        foreign = read_foreign(root, note, on_progress)
        clips, formats = foreign.clips, foreign.formats
        notes, divided = foreign.notes, foreign.divided
    else:
        clips, formats, notes, divided = [], {}, (), False
        rows = _ours(root, note)
        try:
            _check_count(root, len(rows) + len(bad))
        except UserError as error:
            notes = (error.message,)
        for done, clip in enumerate(rows):
            try:
                formats[clip.path] = look(clip.path).format
                clips.append(clip)
            except BadRecording as error:
                note(f"{clip.split}/{shown(clip.path.name)}", str(error), "")
            if on_progress is not None:
                on_progress(done + 1, len(rows))
    if not clips:
        raise nothing_readable(root, [*bad.values()]) if bad else _empty(root, notes)
    return Loaded(clips, formats, tuple(bad.values()), notes, divided)


def nothing_readable(root: Path, bad: Sequence[Rejection]) -> UserError:
    """What to raise where nothing is left."""
    more = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
    return UserError(
        f"nothing in {root} can be read: {bad[0].file}: {bad[0].reason}{more}",
        "replace or remove these files",
    )


def _folder(folder: str | Path) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root} is no folder", "give a data set that `tunesmith prepare` made")
    return root


def _empty(root: Path, notes: tuple[str, ...]) -> UserError:
    why = f" ({notes[0]})" if notes else ""
    return UserError(
        f"{root} holds no clips{why}", "make a data set with `tunesmith prepare SRC DEST`"
    )


def _refuse(file: str, reason: str, mend: str) -> None:
    raise UserError(f"{file}: {reason}", mend)


def _ours(root: Path, problem: Problem) -> list[Clip]:
    clips: list[Clip] = []
    for side in SPLITS:
        table = root / side / "metadata.jsonl"
        if not table.is_file():
            continue
        for row in read_table(table):
            if isinstance(row, str):
                where, _, reason = row.removesuffix("; passed over").partition(": ")
                problem(f"{side}/{where}", f"{reason} (in {root})", _AGAIN)
                continue
            value = row.columns
            path = table.parent / value["file_name"]
            if not os.path.isfile(path):  # unlike Path's, never an error itself
                name = f"{side}/{shown(value['file_name'])[:300]}"
                problem(name, f"is missing, {side}/{row.where} names it", _AGAIN)
                continue
            try:
                clip = Clip(
                    path=path,
                    caption=str(value["caption"]),
                    split=side,
                    recording=str(value["recording"]),
                    start_s=float(value["start_s"]),
                    duration_s=float(value["duration_s"]),
                    sha256=str(value["sha256"]),
                    caption_source=str(value["caption_source"]),
                    caption_confidence=float(value["caption_confidence"]),
                    captions=tuple(map(str, value.get("captions", ())))[1:],
                    variant_of=str(value.get("variant_of", "")),
                    extra={k: v for k, v in value.items() if k not in OWN_COLUMNS and v != ""},
                )
            except (KeyError, TypeError, ValueError) as error:
                problem(f"{side}/{row.where}", f"bad or missing column {error}", _AGAIN)
                continue
            clips.append(clip)
    return clips


def _check_count(root: Path, found: int) -> None:
    counts = (describe(root) or {}).get("counts", {})
    if not isinstance(counts, dict):
        return
    counted = counts.get("clips", found) + counts.get("variants", 0)
    if counted != found:
        raise UserError(f"{root} has {found} of its {counted} clips", _AGAIN)
