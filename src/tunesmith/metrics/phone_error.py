"""Phone error rate: whether what was to be said can be understood, by sounds rather than words.

Edits (substitutions, deletions, insertions) of the least costly alignment over the phones that were to
be said, of all takes together. No dictionary and no language model stands between sound and figure, so
a short sentence counts, and so does one in a language whose words the recogniser has never met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.errors import UserError
from tunesmith.metrics._intervals import of_ratio
from tunesmith.metrics._result import Result

SPEC = {
    "name": "phone_error",
    "summary": "Phone error rate: what a phone recogniser understands of what was to be said",
    "better": "lower",
    "needs": ["reference_phones", "phones"],
}


def edits(wanted: Sequence[str], heard: Sequence[str]) -> int:
    """Fewest substitutions, deletions and insertions from one sequence to another (Levenshtein 1966)."""
    row = list(range(len(wanted) + 1))
    for count, one in enumerate(heard, 1):
        diagonal, row[0] = row[0], count
        for place, other in enumerate(wanted, 1):
            cost = min(row[place] + 1, row[place - 1] + 1, diagonal + (one != other))
            diagonal, row[place] = row[place], cost
    return row[-1]


def compute(
    reference: Sequence[Sequence[str]], heard: Sequence[Sequence[str]], *, seed: int = 0
) -> Result:
    """Phone error rate over all takes.

    What a recogniser mishears counts, too: compare with the rate of real recordings through the same
    recogniser, or give as reference what it hears in real recordings of the same sentences.

    Args:
        reference: N sequences of phones that were to be said.
        heard: what was recognised in each take.
        seed: unused, nothing is drawn; here because every metric takes one.

    Returns:
        Errors per phone, 0 and up, with an interval over takes (a ratio of sums). ``n_reference`` is
        the number of phones.

    Raises:
        UserError: different counts, or a reference without phones.
    """
    del seed
    if len(reference) != len(heard) or not reference:
        raise UserError(
            f"phone_error: {len(reference)} sentences and {len(heard)} takes",
            "give one for each take",
        )
    if not all(reference):
        raise UserError("phone_error: a sentence without phones", "leave this take out")
    wrong = np.array([edits(a, b) for a, b in zip(reference, heard, strict=True)], np.float64)
    lengths = np.array([len(one) for one in reference], np.float64)
    return Result(
        value=float(wrong.sum() / lengths.sum()),
        interval=of_ratio(wrong, lengths, (0.0, float("inf"))) if len(wrong) > 1 else None,
        p_value=None,
        n_reference=int(lengths.sum()),
        n_candidate=len(wrong),
        dimension=1,
        warnings=() if len(wrong) > 1 else ("one take: how much takes vary is not known",),
    )
