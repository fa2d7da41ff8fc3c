"""Word and character error rate: whether what was to be said can be understood in the takes.

Edits (substitutions, deletions, insertions) of the least costly alignment, over the words (or
characters) that were to be said, of all takes together; through ``jiwer``. What a recogniser
mishears counts, too: compare with the rate of real recordings through the same recogniser.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.errors import UserError
from tunesmith.metrics._intervals import of_ratio
from tunesmith.metrics._result import Result

SPEC = {
    "name": "wer",
    "summary": "Word and character error rate: what a recogniser understands of the words asked for",
    "better": "lower",
    "needs": ["reference_texts", "texts"],
}

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})


def normalise(text: str) -> str:
    """Text as it is compared: what cannot be heard is taken out.

    Unicode NFKC, lower case (casefold), curly apostrophes made straight, punctuation and symbols to
    spaces save for apostrophes within words, white space to single spaces. Numbers are *not*
    spelled out and abbreviations not expanded ("7" is not "seven"): write prompts as they are spoken.
    """
    plain = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).casefold()
    plain = unicodedata.normalize("NFC", plain)
    out = []
    for index, sign in enumerate(plain):
        within = plain[index - 1 : index].isalnum() and plain[index + 1 : index + 2].isalnum()
        kept = unicodedata.category(sign)[0] in "LMN" or (sign == "'" and within)
        out.append(sign if kept else " ")
    return " ".join("".join(out).split())


def compute(reference: Sequence[str], hypothesis: Sequence[str], *, seed: int = 0) -> Result:
    """Word error rate over all takes, and the character error rate beside it.

    The interval is over takes, whose errors and lengths vary together: that of a ratio of sums
    (:func:`tunesmith.metrics._intervals.of_ratio`). Where there is no error at all it is 0 to 3 / words,
    the rule of three (Hanley & Lippman-Hand 1983), which takes words for independent. In a language
    written without spaces words are not told apart: look at the character error rate.

    Args:
        reference: N texts that were to be said.
        hypothesis: what was recognised in each take.
        seed: unused, nothing is drawn; here because every metric takes one.

    Returns:
        Errors per word, 0 and up (insertions can bring it above 1). ``n_reference`` is the number of
        words; ``details``: ``cer``, ``cer_low`` and ``cer_high`` where there is an interval,
        ``substitutions``, ``deletions``, ``insertions`` (words).

    Raises:
        UserError: different counts, a reference without words, or jiwer is not installed.
    """
    del seed
    if len(reference) != len(hypothesis) or not reference:
        raise UserError(
            f"wer: {len(reference)} texts and {len(hypothesis)} transcripts",
            "give one for each take",
        )
    jiwer = _package()
    wanted, heard = [normalise(one) for one in reference], [normalise(one) for one in hypothesis]
    for raw, text in zip(reference, wanted, strict=True):
        if not text:
            raise UserError(f"wer: there are no words in {raw!r}", "leave this take out")
    words = [jiwer.process_words(a, b) for a, b in zip(wanted, heard, strict=True)]
    signs = [jiwer.process_characters(a, b) for a, b in zip(wanted, heard, strict=True)]
    word_edits, word_counts = _counts(words)
    sign_edits, sign_counts = _counts(signs)
    details = {"cer": float(sign_edits.sum() / sign_counts.sum())}
    if between := _interval(sign_edits, sign_counts):
        details |= {"cer_low": between[0], "cer_high": between[1]}
    for kind in ("substitutions", "deletions", "insertions"):
        details[kind] = float(sum(getattr(one, kind) for one in words))
    warnings = []
    if not word_edits.sum():
        warnings.append(
            f"no error in {int(word_counts.sum())} words: the interval takes words for independent"
        )
    if len(words) == 1:
        warnings.append("one take: how much takes vary is not known")
    return Result(
        value=float(word_edits.sum() / word_counts.sum()),
        interval=_interval(word_edits, word_counts),
        p_value=None,
        n_reference=int(word_counts.sum()),
        n_candidate=len(words),
        dimension=1,
        warnings=tuple(warnings),
        details=details,
    )


def _counts(outputs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Edits and lengths of the references, one of each a take."""
    edits = [one.substitutions + one.deletions + one.insertions for one in outputs]
    lengths = [one.hits + one.substitutions + one.deletions for one in outputs]
    return np.array(edits, np.float64), np.array(lengths, np.float64)


def _interval(edits: np.ndarray, lengths: np.ndarray) -> tuple[float, float] | None:
    if not edits.sum():
        return 0.0, min(1.0, 3.0 / float(lengths.sum()))
    return of_ratio(edits, lengths, (0.0, float("inf")))


def _package() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise UserError(
            f"word error rates need a package that is not installed ({error})",
            "pip install 'tunesmith[evaluate]'",
        ) from error
    return jiwer
