"""Reads a prepared data set back, and any other Hugging Face AudioFolder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import soundfile

from tunesmith.data.audiofolder import SPLIT_NAMES, SPLITS, describe
from tunesmith.data.caption import Captions
from tunesmith.data.sources import NOT_TAKEN, file_sha256, find_recordings
from tunesmith.data.split import split
from tunesmith.data.tables import OWN_COLUMNS, TABLES, read_table
from tunesmith.errors import UserError
from tunesmith.types import Clip


def is_intact(dest: Path) -> bool:
    """Whether every clip of a data set of ours is there with the bytes that were written."""
    try:
        clips = _ours(dest)
        return all(file_sha256(clip.path) == clip.sha256 for clip in clips)
    except (OSError, UserError):
        return False


def load_dataset(folder: str | Path) -> list[Clip]:
    """Reads a prepared data set, or any AudioFolder.

    In an AudioFolder without our columns every file is a recording of its own, its hash is
    computed, captions come from sidecars, metadata or the files' names, and if it has no ``valid``
    folder (or ``validation``, ``val``, ``dev``) it is divided by
    :func:`tunesmith.data.split.split`. A ``test`` folder is left alone.

    Args:
        folder: with ``train/`` and ``valid/``, or with the files and their metadata.

    Returns:
        The clips, train first, each in the order of the metadata.

    Errors: :class:`UserError` for a folder that is missing, empty, torn, or whose metadata names
    files outside of it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root} is no folder", "give a data set that `tunesmith prepare` made")
    clips = _ours(root) if describe(root) is not None else _foreign(root)
    if not clips:
        raise UserError(f"{root} holds no clips", "make one with `tunesmith prepare SRC DEST`")
    return clips


def _ours(root: Path) -> list[Clip]:
    mend = "run `tunesmith prepare` again"
    clips: list[Clip] = []
    for side in SPLITS:
        table = root / side / "metadata.jsonl"
        if not table.is_file():
            continue
        for row in read_table(table):
            if isinstance(row, str):
                raise UserError(f"{side}/{row.removesuffix('; passed over')} (in {root})", mend)
            value = row.columns
            path = table.parent / value["file_name"]
            if not path.is_file():
                raise UserError(f"{side}/{row.where} names {path.name}, which is missing", mend)
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
                raise UserError(
                    f"{side}/{row.where}: bad or missing column {error}", mend
                ) from None
            clips.append(clip)
    counts = (describe(root) or {}).get("counts", {})
    counted = counts.get("clips", len(clips)) + counts.get("variants", 0)
    if counted != len(clips):
        raise UserError(f"{root} has {len(clips)} of its {counted} clips", mend)
    return clips


def _foreign(root: Path) -> list[Clip]:
    _check_tables(root)
    found, rejected = find_recordings(root)
    # A score beside the recordings does no harm; a recording that is missed would.
    rejected = [one for one in rejected if Path(one.file).suffix.lower() not in NOT_TAKEN]
    if rejected:
        raise UserError(
            f"{rejected[0].file}: {rejected[0].reason}", "run `tunesmith prepare` on this folder"
        )
    captions = Captions(root)
    clips: list[Clip] = []
    any_valid = False
    for source in found:
        side = SPLIT_NAMES.get(source.name.split("/")[0].lower(), "train")
        if side is None:
            continue
        any_valid |= side == "valid"
        caption = captions.of(source)
        extra = dict(caption.extra)
        try:
            info = soundfile.info(source.path)
            sha256 = file_sha256(source.path)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{source.name} cannot be read: {error}", "run `tunesmith prepare` on this folder"
            ) from None
        clips.append(
            Clip(
                path=source.path,
                caption=caption.text,
                split=side,
                recording=source.name,
                start_s=0.0,
                duration_s=info.frames / info.samplerate,
                sha256=sha256,
                caption_source=caption.source,
                caption_confidence=caption.confidence,
                captions=caption.variants,
                extra=extra,
            )
        )
    if not any_valid:
        clips = _divided(clips)
    return sorted(clips, key=lambda clip: SPLITS.index(clip.split))


def _check_tables(root: Path) -> None:
    """Refuses names that climb out of the folder and files that are missing."""
    mend = "correct that row"
    for at, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in TABLES:
            if name not in names:
                continue
            place = os.path.relpath(at, root)
            for row in read_table(Path(at) / name):
                if isinstance(row, str):
                    if "leads out" in row:
                        raise UserError(f"{place}/{row.removesuffix('; passed over')}", mend)
                elif not row.file.is_file():
                    raise UserError(
                        f"{place}/{row.where} names {row.columns['file_name']}, which is missing",
                        mend,
                    )


def _divided(clips: Sequence[Clip]) -> list[Clip]:
    by_content: dict[str, list[Clip]] = {}
    for clip in clips:
        by_content.setdefault(clip.sha256, []).append(clip)
    plan = split({key: [c.duration_s for c in same] for key, same in by_content.items()})
    sides = {
        id(clip): side
        for key, same in by_content.items()
        for clip, side in zip(same, plan.sides[key], strict=True)
    }
    return [replace(clip, split=sides[id(clip)]) for clip in clips if sides[id(clip)]]
