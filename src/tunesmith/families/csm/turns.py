"""What CSM reads: turns of speech, each its text and then its sound.

A turn is ``<|begin_of_text|>[speaker]text<|end_of_text|>``, its frames, and a frame that ends it, as the
chat template of ``transformers``' ``CsmProcessor`` lays it out. What is made is the last turn's sound; turns
before it are heard: they tell the model whose voice it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.families._tokens import Vocabulary
from tunesmith.types import Audio, Details

HEARD = -1
"""Stands in the ids where the sound of an earlier turn is heard."""
LONGEST = 512
"""Ids of one turn's text; more would be spoken for longer than the model was trained on."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Something that was said before: a reference for the voice.

    Attributes:
        text: the words.
        audio: their sound.
        speaker: who said it.
    """

    text: str
    audio: Audio
    speaker: int = 0


def speaker_of(details: Details) -> int:
    """The number of the speaker that a clip or prompt names; 0 where none is named.

    Raises:
        UserError: no number.
    """
    said = details.get("speaker", "")
    text = str(said).strip() or "0"
    number = text.removesuffix(".0")
    if isinstance(said, bool) or not (number.isascii() and number.isdigit()):
        raise UserError(
            f"the speaker '{text[:40]}' is no number", "number them: 0 for the first, 1 for another"
        )
    return int(number)


class Scribe:
    """Writes turns as ids.

    Args:
        words: tokenizer and added tokens.
        begin, end: ids around a turn's text.
        reserved: ids that stand for sound, which no text may hold.
    """

    def __init__(self, words: Vocabulary, begin: int, end: int, reserved: Sequence[int]) -> None:
        self._words, self._begin, self._end = words, begin, end
        self._reserved = frozenset(reserved)

    def text(self, text: str, speaker: int) -> list[int]:
        """The ids of one turn's text.

        Raises:
            UserError: it is too long, or holds a token that stands for sound.
        """
        written = f"[{speaker}]{text}"
        if len(self._words.pieces(written)) + 2 > LONGEST:
            raise UserError(
                f"the text is longer than {LONGEST} tokens ('{text[:40]} ...')",
                "speak it in parts, a few sentences each",
            )
        ids = self._words.ids(written)
        # Whether a tokenizer frames a text by itself differs among copies of the checkpoint.
        ids = ids if ids[:1] == [self._begin] else [self._begin, *ids]
        ids = ids if ids[-1:] == [self._end] else [*ids, self._end]
        if self._reserved & set(ids):
            raise UserError(
                f"the text '{text[:40]}' holds a token that stands for sound", "take it out"
            )
        return ids

    def prompt(
        self, text: str, details: Details, encode: Callable[[Audio], Tensor], eos: int
    ) -> dict[str, Tensor]:
        """What stands before the sound of a turn.

        Args:
            text: the words of the turn.
            details: ``speaker``; ``context``: earlier :class:`Turn` s, the first one first.
            encode: makes codes ``[K, T]`` of a sound.
            eos: the code that the frame at a sound's end consists of.

        Returns:
            ``ids`` ``[L]``; ``blank``, the same without the words; with a context also ``heard``, the
            codes ``[N, K]`` of the places that are :data:`HEARD` in both.
        """
        before: list[int] = []
        frames: list[Tensor] = []
        context: Any = details.get("context") or ()
        for turn in context:
            codes = encode(turn.audio).long().T
            frames.append(torch.cat([codes, torch.full_like(codes[:1], eos)]))
            before += [*self.text(turn.text, turn.speaker), *[HEARD] * len(frames[-1])]
        speaker = speaker_of(details)
        found = {
            "ids": torch.tensor(before + self.text(text, speaker)),
            "blank": torch.tensor(before + self.text("", speaker)),
        }
        return found | ({"heard": torch.cat(frames)} if frames else {})


def padded(texts: Sequence[Any], dropped: Sequence[bool], pad: int) -> dict[str, Tensor]:
    """Prompts side by side, padded at the end.

    Args:
        texts: what :meth:`Scribe.prompt` gives, one a row.
        dropped: rows that are to do without their words.
        pad: id of the padding.

    Returns:
        ``ids`` and ``present`` (1 where an id stands) ``[B, L]``; if any row has a context also
        ``heard`` ``[B, L, K]``.
    """
    rows = [text["blank" if gone else "ids"] for text, gone in zip(texts, dropped, strict=True)]
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    present = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        present[number, : len(row)] = 1
    found = {"ids": ids, "present": present}
    contexts = {number: text["heard"] for number, text in enumerate(texts) if "heard" in text}
    if contexts:
        codebooks = next(iter(contexts.values())).shape[-1]
        found["heard"] = torch.zeros((*ids.shape, codebooks), dtype=torch.long)
        for number, frames in contexts.items():
            found["heard"][number][ids[number] == HEARD] = frames
    return found
