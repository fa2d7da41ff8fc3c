"""Captions too generic: the text tells the model nothing that it could hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tunesmith.data._caption_stats import CaptionStats, caption_stats
from tunesmith.data._clip_measures import Measured, measured, name_of
from tunesmith.errors import UserError
from tunesmith.training.pitfalls.finding import Finding
from tunesmith.types import Clip

LEAST = 8
"""Fewer clips may share a caption without harm."""

WEAK_SHARE = 0.5
"""Share of the clips whose captions may hardly say anything (specificity below 0.4)."""

CONTRADICTING = 0.2
"""Share of the clips whose captions may contradict the tempo or key that `prepare` measured."""

_NAMED = 5
_SHOWN = 60  # characters of a caption


def look(clips: Sequence[Clip], root: Path, trigger: str = "") -> Finding | None:
    """Judge the captions that are trained with, as they stand in the data set.

    Tempo and key that ``prepare`` measured are held against them; nothing is measured now.

    Args:
        clips: the training side.
        root: the data set's folder.
        trigger: its trigger word, which tells nothing.
    """
    originals = [clip for clip in clips if not clip.variant_of] or list(clips)
    if len(originals) < LEAST:
        return None
    return judge(caption_stats(originals, _known(originals, root), trigger, most=len(originals)))


def _known(clips: Sequence[Clip], root: Path) -> list[Measured]:
    blank = [Measured(name_of(clip, root), None, None, 0.0, None, 0.0, None) for clip in clips]
    if not (root / "measures.jsonl").is_file():
        return blank
    names = {one.file for one in blank}
    try:
        # Only where all are known: to measure the others would take a while.
        lines = (root / "measures.jsonl").read_text(encoding="utf-8")
        if all(f'"{name}"' in lines for name in names):
            return measured(clips, root)[0]
    except (OSError, UserError):
        pass  # a table that cannot be read is what `tunesmith check` complains of
    return blank


def judge(stats: CaptionStats) -> Finding | None:
    """What a data set's captions say; ``stats`` as ``tunesmith check`` makes them."""
    contradicting = len(stats.contradicting) / stats.clips
    values = {
        "clips": stats.clips,
        "distinct": stats.distinct,
        "words": stats.words,
        "specificity": stats.specificity,
        "weak_share": stats.weak_share,
        "contradicting": round(contradicting, 4),
    }
    worst = [
        replace(one, add=one.add or "what tells this clip from the others")
        for one in stats.worst[:_NAMED]
    ]
    listed = "; ".join(
        f'"{one.caption[:_SHOWN]}" ({_of(one.file, one.clips)}): add {one.add}' for one in worst
    )
    if stats.english and stats.weak_share > WEAK_SHARE and worst:
        return Finding(
            "captions",
            f"the captions are generic: {stats.weak_share:.0%} of {stats.clips} clips have one that "
            f"hardly says anything, with {stats.words} telling words in all",
            f"say what is heard. {listed}",
            "",
            values,
        )
    if contradicting > CONTRADICTING:
        first = stats.contradicting[0]
        return Finding(
            "captions",
            f"{contradicting:.0%} of the captions contradict what was measured, such as {first.file}: "
            f"{', '.join(first.contradictions)}",
            "correct the captions; `tunesmith check` lists them",
            "",
            values,
        )
    return None


def _of(file: str, clips: int) -> str:
    return file if clips == 1 else f"{file} and {clips - 1} more"
