"""What an ACE-Step is told in words: caption, lyrics, language, tempo, key, metre and duration.

The templates are the pipeline's own functions: the text encoder was trained with exactly those lines.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from diffusers.pipelines.ace_step.pipeline_ace_step import TASK_INSTRUCTIONS, AceStepPipeline

from tunesmith.errors import UserError
from tunesmith.types import Details

COLUMNS = ("lyrics", "language", "bpm", "key", "time_signature")
"""Columns of a data set beside the caption."""

NEW, REPAINT = "text2music", "repaint"
"""What the pipeline calls making all of a sound, and making parts of one."""

_DURATION = "duration_s"
_LANGUAGE = "en"  # the pipeline's, where none is said


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a sound beside its caption; empty or None where nothing is.

    Attributes:
        lyrics: with structure tags such as ``[verse]``.
        language: of the lyrics, as a code.
        bpm: beats a minute.
        key: such as ``C major``.
        time_signature: beats a bar, such as ``4``: the template has no room for the note value.
        duration_s: of the sound.
    """

    lyrics: str = ""
    language: str = ""
    bpm: int | None = None
    key: str = ""
    time_signature: str = ""
    duration_s: float | None = None

    @property
    def anything(self) -> bool:
        """Whether something is said but how long it is, which every sound says."""
        return bool(self.lyrics or self.language or self.metas)

    @property
    def metas(self) -> list[str]:
        """Which of the lines after the caption say something, duration aside."""
        lines = (("bpm", self.bpm), ("key", self.key), ("time_signature", self.time_signature))
        return [name for name, value in lines if value]


def read(details: Details | None) -> Said:
    """What a row of a data set, or someone who asks for a sound, says.

    Raises:
        UserError: something that the model is not told, or a value that says nothing to it.
    """
    given = dict(details or {})
    for name in given:
        if name not in (*COLUMNS, _DURATION):
            raise UserError(f"ACE-Step is not told '{name}'", f"it is told: {', '.join(COLUMNS)}")
    duration = given.get(_DURATION)
    lyrics = given.get("lyrics")
    return Said(
        lyrics="" if _blank(lyrics) else str(lyrics),
        language=_plain(given.get("language")),
        bpm=_beats(given.get("bpm")),
        key=_plain(given.get("key")),
        time_signature=_metre(given.get("time_signature")),
        duration_s=None if _blank(duration) else float(duration),  # type: ignore[arg-type]
    )


def _blank(value: Any) -> bool:
    """Nothing, spaces, or what a table has where a cell is empty."""
    if isinstance(value, float) and math.isnan(value):
        return True
    return value is None or not str(value).strip()


def _plain(value: Any) -> str:
    return "" if _blank(value) else str(value).strip()


def _beats(value: Any) -> int | None:
    if _blank(value):
        return None
    try:
        beats = float(value)
    except (TypeError, ValueError):
        beats = math.nan
    if not 1 <= beats < 1000:
        raise UserError(f"a bpm of '{value}' is none", "give beats a minute, such as 120")
    return round(beats)


def _metre(value: Any) -> str:
    text = _plain(value)
    found = re.fullmatch(r"(\d+)(?:\.0+|\s*/\s*\d+)?", text)
    if text and not found:
        raise UserError(f"a time signature of '{text}' is none", "give one such as 4/4 or 3/4")
    return found[1] if found else ""


def written(caption: str, said: Said, task: str = NEW) -> tuple[str, str]:
    """The texts that are tokenised, ``(caption and what follows it, lyrics)``.

    Args:
        caption: of the sound.
        said: what else is said of it.
        task: :data:`NEW` or :data:`REPAINT`.
    """
    pipeline: Any = AceStepPipeline  # its templates ask nothing of an instance
    return pipeline._format_prompt(
        pipeline,
        prompt=caption,
        lyrics=said.lyrics,
        vocal_language=said.language or _LANGUAGE,
        audio_duration=said.duration_s,
        instruction=TASK_INSTRUCTIONS[task],
        bpm=said.bpm,
        keyscale=said.key,
        timesignature=said.time_signature,
    )
