"""What is said in files, by a recogniser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.captioners._recogniser import Transcriber, pieces
from tunesmith.evaluation.hearing import read


def transcripts(files: Sequence[str | Path], transcriber: Transcriber) -> list[str]:
    """What is said in each file.

    Raises:
        UserError: a file cannot be read.
    """
    return [transcriber.transcribe(read(file)) for file in files]


__all__ = ["Transcriber", "pieces", "transcripts"]
