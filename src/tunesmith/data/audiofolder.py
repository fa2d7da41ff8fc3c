"""A prepared data set on disk: a Hugging Face AudioFolder.

``DEST/train/*.flac`` and ``DEST/valid/*.flac``, each with a ``metadata.jsonl``; ``dataset.json``
says what was done, ``measures.jsonl`` what each clip is like, ``rejected.jsonl`` what was left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from tunesmith.atomic import (
    disk_error,
    link_or_copy,
    sync_folder,
    write_json,
    write_json_lines,
)
from tunesmith.data.sources import Rejection
from tunesmith.data.tables import read_table
from tunesmith.errors import UserError
from tunesmith.types import Clip, Split

MADE_BY = "tunesmith prepare"
FORMAT = 3
SPLITS: tuple[Split, ...] = get_args(Split)
# What Hugging Face `datasets` takes for a split when it stands in a path.
SPLIT_NAMES: dict[str, Split | None] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), None),
}
# The encoded clips are cached inside; whoever rebuilds the data set has no use for them.
MEASURES, REJECTED, RECORDS = "measures.jsonl", "rejected.jsonl", ".prepare"
_OURS = frozenset({"dataset.json", MEASURES, REJECTED, RECORDS, "check.html", ".cache", *SPLITS})
_JUNK = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class StagedClip:
    """A clip before it has its place.

    Attributes:
        staged: the file as it stands now.
        clip: its row; ``clip.path`` is ``<split>/<name>``, relative.
        measures: its row of ``measures.jsonl``.
    """

    staged: Path
    clip: Clip
    measures: Mapping[str, Any]


def clip_name(recording: str, key: str, staged: str) -> str:
    """File name of a clip, the same on every file system.

    The recording's own name is in it, unless it holds a word that `datasets` would take for the
    name of a split: ``valid/my_train_song.flac`` would turn up in both.
    """
    stem = recording.rsplit("/", 1)[-1].rsplit(".", 1)[0].lower()
    slug = re.sub(r"[^a-z0-9]+", "_", stem).strip("_")[:40].strip("_")
    if any(word in slug for word in SPLIT_NAMES):
        slug = ""
    return "-".join(filter(None, [slug, key[:10], staged]))


def columns(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """The rows of ``metadata.jsonl``, with the same columns and types in each.

    `datasets` refuses a set whose splits differ in columns or types. So a further column that is
    not in every row, or not of one type, becomes text (``""`` where there is none).
    """
    names = sorted({name for clip in clips for name in clip.extra})
    uniform: dict[str, type] = {}
    for name in names:
        kinds = {type(clip.extra[name]) if name in clip.extra else None for clip in clips}
        if len(kinds) == 1 and kinds <= {bool, int, float, str}:
            uniform[name] = next(kind for kind in kinds if kind)
        elif kinds == {int, float}:
            uniform[name] = float
        else:
            uniform[name] = str
        if uniform[name] is int and any(abs(clip.extra[name]) >= 1 << 63 for clip in clips):
            uniform[name] = str
    any_captions = any(clip.captions for clip in clips)
    any_variants = any(clip.variant_of for clip in clips)
    rows = []
    for clip in clips:
        row: dict[str, Any] = {
            "file_name": clip.path.name,
            "caption": clip.caption,
            "recording": clip.recording,
            "start_s": float(clip.start_s),
            "duration_s": float(clip.duration_s),
            "sha256": clip.sha256,
            "caption_source": clip.caption_source,
            "caption_confidence": float(clip.caption_confidence),
        }
        # `datasets` cannot tell the type of a list that is empty everywhere.
        if any_captions:
            row["captions"] = [clip.caption, *clip.captions]
        if any_variants:
            row["variant_of"] = clip.variant_of
        for name, kind in uniform.items():
            value = clip.extra.get(name, "")
            if kind is str and not isinstance(value, str):
                value = json.dumps(value, ensure_ascii=False)
            row[name] = kind(value)
        rows.append(row)
    return rows


def build(
    folder: Path,
    clips: Sequence[StagedClip],
    rejected: Iterable[Rejection],
    description: Mapping[str, Any],
) -> None:
    """Puts a data set together in ``folder``, ``dataset.json`` last.

    Errors: :class:`UserError` when it cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    rows = columns([staged.clip for staged in clips])
    try:
        folder.mkdir(parents=True)
        for side in SPLITS:
            mine = [i for i, staged in enumerate(clips) if staged.clip.split == side]
            if not mine:
                continue
            (folder / side).mkdir()
            for i in mine:
                link_or_copy(clips[i].staged, folder / clips[i].clip.path)
            write_json_lines(folder / side / "metadata.jsonl", [rows[i] for i in mine])
            sync_folder(folder / side)
    except OSError as error:
        raise disk_error(error, folder) from error
    write_json_lines(folder / MEASURES, [staged.measures for staged in clips])
    write_json_lines(folder / REJECTED, [asdict(one) for one in rejected])
    sync_folder(folder)
    write_json(folder / "dataset.json", {"made_by": MADE_BY, "format": FORMAT, **description})
    sync_folder(folder)


def describe(folder: Path) -> dict[str, Any] | None:
    """``dataset.json`` of a data set of ours; ``None`` for any other folder."""
    try:
        value = json.loads((folder / "dataset.json").read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("made_by") == MADE_BY else None


def check_replaceable(dest: Path) -> None:
    """Errors: :class:`UserError` if ``dest`` holds anything that ``prepare`` did not put there."""
    mend = "choose a new folder for the data set, or move that away"
    if not dest.exists():
        return
    if not dest.is_dir():
        raise UserError(f"{dest} is a file", "choose a folder for the data set")
    names = sorted(set(os.listdir(dest)) - _JUNK)
    if not names:
        return
    if describe(dest) is None:
        raise UserError(f"{dest} holds files that prepare did not make ({names[0]} ...)", mend)
    strange = [name for name in names if name not in _OURS]
    for side in SPLITS:
        if not (dest / side).is_dir():
            continue
        known = {"metadata.jsonl", *_JUNK}
        for row in read_table(dest / side / "metadata.jsonl"):
            if not isinstance(row, str):
                known.add(str(row.columns["file_name"]))
        strange += [f"{side}/{name}" for name in sorted(set(os.listdir(dest / side)) - known)]
    if strange:
        raise UserError(f"{dest} holds {strange[0]}, which prepare did not make", mend)
