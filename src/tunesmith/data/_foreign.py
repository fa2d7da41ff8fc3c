"""Reads a Hugging Face AudioFolder, or a folder of sound, that `prepare` did not make."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.data._sound import look
from tunesmith.data.audiofolder import SPLIT_NAMES, SPLITS
from tunesmith.data.caption import Caption, Captions
from tunesmith.data.recording import BadRecording
from tunesmith.data.sources import NOT_TAKEN, Source, file_sha256, find_recordings, shown
from tunesmith.data.split import split
from tunesmith.data.tables import TABLES, one_line, read_table
from tunesmith.types import Clip, Split

Problem = Callable[[str, str, str], None]
"""Told ``(file, reason, mend)`` of what cannot be read; may raise, or else it is left out."""

_NAME = 300  # characters of a recording's name that are kept


@dataclass(frozen=True, slots=True)
class Foreign:
    """What such a folder holds.

    Attributes:
        clips: train first.
        formats: of each file.
        notes: one line each: what was left alone.
        divided: the folder has no split of its own, so it was divided here.
    """

    clips: list[Clip]
    formats: dict[Path, str]
    notes: tuple[str, ...]
    divided: bool


def read_foreign(
    root: Path, problem: Problem, on_progress: Callable[[int, int], None] | None = None
) -> Foreign:
    """The clips of a folder from elsewhere; see :func:`tunesmith.data.load.load_dataset`."""
    _check_tables(root, problem)
    found, rejected = find_recordings(root)
    for one in rejected:
        # A score beside the recordings does no harm; a recording that is missed would.
        if Path(one.file).suffix.lower() not in NOT_TAKEN and _side(one.file) is not None:
            problem(one.file, one.reason, "run `tunesmith prepare` on this folder")
    captions = Captions(root)
    clips: list[Clip] = []
    formats: dict[Path, str] = {}
    alone: Counter[str] = Counter()
    for done, source in enumerate(found):
        side = _side(source.name)
        if side is None:
            alone[source.name.split("/")[0]] += 1
            continue
        try:
            seen = look(source.path)
            sha256 = file_sha256(source.path)
        except (BadRecording, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
            problem(source.name, reason, "replace or remove it")
            continue
        formats[source.path] = seen.format
        caption, row = captions.of(source), captions.columns(source)
        clips.append(_clip(source, side, sha256, seen.seconds, caption, row))
        if on_progress is not None:
            on_progress(done + 1, len(found))
    clips = _with_originals(clips)
    divided = not any(clip.split == "valid" for clip in clips)
    warnings: tuple[str, ...] = ()
    if divided:
        clips, warnings = _divided(clips)
    notes = [
        f"{count:,} {'clip' if count == 1 else 'clips'} in {name}/ "
        f"{'is' if count == 1 else 'are'} left alone: neither trained nor validated with"
        for name, count in alone.items()
    ]
    clips.sort(key=lambda clip: SPLITS.index(clip.split))
    return Foreign(clips, formats, (*notes, *warnings, *captions.orphans(found)), divided)


def _side(name: str) -> Split | None:
    return SPLIT_NAMES.get(name.split("/")[0].lower(), "train")


def _clip(
    source: Source,
    side: Split,
    sha256: str,
    seconds: float,
    caption: Caption,
    row: Mapping[str, Any],
) -> Clip:
    """A clip, with those of our columns that its row has and that are what they should be."""
    kind, confidence = caption.source, caption.confidence
    if kind == "metadata":  # else they speak of a caption that is not taken
        kind = _word(row.get("caption_source"))[:40] or kind
        sure = _number(row.get("caption_confidence"))
        confidence = sure if sure is not None and 0 <= sure <= 1 else confidence
    start_s = _number(row.get("start_s"))
    return Clip(
        path=source.path,
        caption=caption.text,
        split=side,
        recording=_word(row.get("recording")) or source.name,
        start_s=start_s if start_s is not None and start_s >= 0 else 0.0,
        duration_s=seconds,
        sha256=sha256,
        caption_source=kind,
        caption_confidence=confidence,
        captions=caption.variants,
        variant_of=_word(row.get("variant_of")),
        extra=dict(caption.extra),
    )


def _word(value: object) -> str:
    """A name from a table, on one line; empty if it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 1 << 63 else ""
    return shown(one_line(value))[:_NAME] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _check_tables(root: Path, problem: Problem) -> None:
    """Tells of names that climb out of the folder and of files that are missing."""
    mend = "correct that row"
    for at, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = Path(os.path.relpath(at, root)).as_posix()
        before = "" if place == "." else f"{place}/"
        for name in TABLES:
            for row in read_table(Path(at) / name) if name in names else ():
                if isinstance(row, str):
                    if "leads out" in row:
                        where, _, reason = row.removesuffix("; passed over").partition(": ")
                        problem(f"{before}{where}", reason, mend)
                elif not os.path.isfile(row.file):  # unlike Path's, never an error itself
                    file = PurePosixPath(before, row.columns["file_name"].replace("\\", "/"))
                    if _side(file.as_posix()) is not None:
                        called = shown(one_line(file.as_posix()))[:_NAME]
                        problem(called, f"is missing, {before}{row.where} names it", mend)


def _with_originals(clips: Sequence[Clip]) -> list[Clip]:
    """Clips that are varied versions only of what is there, and is none itself."""
    known = {clip.path.name for clip in clips if not clip.variant_of}
    return [clip if clip.variant_of in known else replace(clip, variant_of="") for clip in clips]


def _divided(clips: Sequence[Clip]) -> tuple[list[Clip], tuple[str, ...]]:
    """Train and valid, and what to say of it: what is of one recording or has the same bytes is held together.

    Equal files stand on one side, and so do varied versions and their originals; there are none
    of those to validate with.
    """
    tops = _groups(clips)
    units: dict[str, dict[str, Clip]] = {}  # by group, by content
    for clip in sorted(clips, key=lambda clip: (clip.recording, clip.start_s)):
        if not clip.variant_of:
            units.setdefault(tops[clip.sha256], {}).setdefault(clip.sha256, clip)
    # By content, so that neither file names nor the order of a folder matter.
    keys = {top: _key(sorted(same)) for top, same in units.items()}
    plan = split({keys[top]: [c.duration_s for c in same.values()] for top, same in units.items()})
    sides: dict[str, Split | None] = {
        sha256: side
        for top, same in units.items()
        for sha256, side in zip(same, plan.sides[keys[top]], strict=True)
    }
    named = {clip.path.name: sides[clip.sha256] for clip in clips if not clip.variant_of}
    out = []
    for clip in clips:
        side = named[clip.variant_of] if clip.variant_of else sides[clip.sha256]
        if side and not (clip.variant_of and side == "valid"):
            out.append(replace(clip, split=side))
    return out, plan.warnings


def _groups(clips: Sequence[Clip]) -> dict[str, str]:
    """For every content one that stands for all that shares a recording with it, near or far."""
    top = {clip.sha256: clip.sha256 for clip in clips}

    def find(sha256: str) -> str:
        while top[sha256] != sha256:
            top[sha256] = top[top[sha256]]
            sha256 = top[sha256]
        return sha256

    first: dict[str, str] = {}
    for clip in clips:
        top[find(clip.sha256)] = find(first.setdefault(clip.recording, clip.sha256))
    return {sha256: find(sha256) for sha256 in top}


def _key(hashes: Sequence[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
