"""What is said in a clip: placing a recording's text on its clips, and how far two texts agree."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

from tunesmith.metrics.wer import normalise

MOST_CER = 0.3
"""Character error rate from which on a clip's text and what was recognised in it disagree."""

_LOST = 0.5
_MOST_TRIES = 20_000


def place(text: str, heard: Sequence[str | None]) -> list[str]:
    """The part of a recording's text that each of its clips says.

    The words that were recognised in the clips, one clip after the other, are matched with those of the
    text (longest common runs first). What the recogniser missed or took for something else goes to the
    clips around it, where it fits best what was recognised there.

    Args:
        text: of the whole recording.
        heard: what was recognised in each clip, in order; None where a stretch of speech became no clip.

    Returns:
        One text a clip, with the spelling and the punctuation of ``text``; all words of it, in order.
    """
    if len(heard) == 1:
        return [text]
    words = text.split()
    plain = [normalise(word) for word in words]
    said = [(word, n) for n, line in enumerate(heard) for word in normalise(line or "").split()]
    matcher = SequenceMatcher(None, plain, [word for word, _ in said], autojunk=False)
    owner = [0] * len(words)
    word_at = said_at = 0
    for block in matcher.get_matching_blocks():
        before = said[said_at - 1][1] if said_at else 0
        after = said[block.b][1] if block.b < len(said) else len(heard) - 1
        here: list[str | None] = [
            None if line is None else "" for line in heard[before : after + 1]
        ]
        for word, clip in said[said_at : block.b]:
            here[clip - before] = f"{here[clip - before] or ''} {word}".strip()
        for index, clip in enumerate(_divided(plain[word_at : block.a], here), word_at):
            owner[index] = before + clip
        owner[block.a : block.a + block.size] = [
            clip for _, clip in said[block.b : block.b + block.size]
        ]
        word_at, said_at = block.a + block.size, block.b + block.size
    return [
        " ".join(word for word, one in zip(words, owner, strict=True) if one == clip)
        for clip in range(len(heard))
    ]


def _divided(plain: Sequence[str], here: Sequence[str | None]) -> list[int]:
    """Which of some neighbouring clips says each word, in order, by what was heard there besides."""
    count, clips = len(plain), len(here)
    if not count or clips == 1:
        return [0] * count
    if count * count * clips > _MOST_TRIES:  # next to nothing was recognised: by their number alone
        return [index * clips // count for index in range(count)]
    best = [0.0] + [float("inf")] * count
    cuts: list[list[int]] = []
    for line in here:
        now, first = [float("inf")] * (count + 1), [0] * (count + 1)
        for end in range(count + 1):
            for start in range(end + 1):
                cost = best[start] + _misfit(" ".join(plain[start:end]), line)
                if cost < now[end]:
                    now[end], first[end] = cost, start
        best = now
        cuts.append(first)
    owner, end = [0] * count, count
    for clip in range(clips - 1, -1, -1):
        start = cuts[clip][end]
        owner[start:end] = [clip] * (end - start)
        end = start
    return owner


def _misfit(words: str, line: str | None) -> float:
    # In a stretch that became no clip anything may have been said.
    return _LOST * len(words) if line is None else edits(words, line)


def edits(one: str, other: str) -> int:
    """Least number of characters to put in, take out or change (Levenshtein 1966)."""
    if not one or not other:
        return max(len(one), len(other))
    signs = np.array([ord(sign) for sign in other])
    steps = np.arange(len(other) + 1)
    row = steps.copy()
    for count, sign in enumerate(one, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (signs != ord(sign)))
        best = np.concatenate([[count], best])
        # Putting in from the left: the lowest of what stands before, a step for each place between.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def cer(text: str, heard: str) -> float:
    """Character error rate of what was heard against a text, by what :func:`normalise` leaves of both.

    Returns:
        0 for the same; above 1 where more was heard than is written. Infinity where the text has no words.
    """
    wanted = normalise(text)
    return edits(wanted, normalise(heard)) / len(wanted) if wanted else float("inf")


def wer_edits(text: str, heard: str) -> tuple[int, int]:
    """Word errors of what was heard, and words of the text."""
    wanted, found = normalise(text).split(), normalise(heard).split()
    number = {word: chr(index + 1) for index, word in enumerate(dict.fromkeys(wanted + found))}
    coded = ("".join(number[word] for word in line) for line in (wanted, found))
    return edits(*coded), len(wanted)
