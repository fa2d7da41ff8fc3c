"""Exact tests of counts, and intervals of means over listeners and items."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import scipy.stats

from tunesmith.metrics._intervals import binomial, mos


@dataclass(frozen=True, slots=True)
class Share:
    """A share of ``n`` that is ``count``.

    Attributes:
        count, n: what was counted.
        value: the share; None of nothing.
        interval: 95 %, Clopper and Pearson (1934, Biometrika 26): exact, so at least 95 %.
        p_value: exact binomial, of a share of one half; None of nothing.
    """

    count: int
    n: int
    value: float | None
    interval: tuple[float, float] | None
    p_value: float | None


def share(count: int, n: int, alternative: Literal["two-sided", "greater"] = "two-sided") -> Share:
    """An exact binomial interval and test against one half."""
    if not n:
        return Share(0, 0, None, None, None)
    found = scipy.stats.binomtest(count, n, 0.5, alternative=alternative)
    # Two-sided in either case: it says where the share lies, not what was asked of it.
    interval = binomial(count, n)
    return Share(count, n, count / n, interval, min(1.0, float(found.pvalue)))


def over_both(
    values: Sequence[float], listeners: Sequence[Hashable], items: Sequence[Hashable]
) -> tuple[float, float] | None:
    """95 % interval of a mean over other listeners *and* other items: :func:`.mos`.

    Args:
        values: ``[N]``; NaN are left out.
        listeners, items: of each value.

    Returns:
        None where there are too few listeners or items to tell.
    """
    rows = [row for row in zip(values, listeners, items, strict=True) if row[0] == row[0]]
    return mos(*map(list, zip(*rows, strict=True))).interval if rows else None


@cache
def _critical(n: int, alpha: float) -> int:
    """Fewest of ``n`` that a two-sided exact test against one half calls more than chance; n + 1 if none."""
    for count in range(n // 2 + 1, n + 1):
        if min(1.0, 2 * float(scipy.stats.binom.sf(count - 1, n, 0.5))) <= alpha:
            return count
    return n + 1


def power(n: int, true_share: float, alpha: float = 0.05) -> float:
    """How often ``n`` independent answers show that a true share above one half is no chance.

    Of the two-sided exact test; only a result on the right side counts.
    """
    return float(scipy.stats.binom.sf(_critical(n, alpha) - 1, n, true_share))


def needed(true_share: float, wanted: float = 0.8, alpha: float = 0.05) -> int:
    """Fewest answers from which on the power never falls below ``wanted`` again (it is a saw).

    Raises:
        ValueError: a share of one half or less has no such number.
    """
    if true_share <= 0.5:
        raise ValueError("there is no difference to find")
    distance = true_share - 0.5
    most = int(4 / distance**2) + 50
    enough = most
    for n in range(most, 0, -1):
        if power(n, true_share, alpha) < wanted:
            break
        enough = n
    return enough
