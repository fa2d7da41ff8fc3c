"""95 % intervals that several metrics and the listening tests share. Nothing in here is drawn."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta
from scipy.stats import t as student

from tunesmith.errors import UserError
from tunesmith.metrics._result import file_codes


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and what is known of it.

    Attributes:
        value: the mean.
        interval: (low, high); None where the design cannot give one.
        n: values behind it.
        units: independent things behind it, by kind: ``files``, or ``listeners`` and ``items``.
        warnings: what a reader must know before trusting it, one sentence each.
    """

    value: float
    interval: tuple[float, float] | None
    n: int
    units: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...] = ()


def binomial(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share (Clopper and Pearson 1934).

    It holds the true share in *at least* ``level`` of all cases, whatever the share; being exact it
    is wider than needed: 95.5 to 97 % at 200 answers, nearly 100 % where the share is near 0 or 1.
    The answers must be independent: with several answers a listener it is one for these listeners.

    Args:
        successes: answers for one side; leave "no preference" out of both numbers.
        n: answers in all.
        level: of the interval, between 0 and 1.

    Raises:
        UserError: no answers, more successes than answers, or another level.
    """
    if not (n >= 1 and 0 <= successes <= n):
        raise UserError(f"binomial: {successes} of {n} answers", "give at least one answer")
    if not 0 < level < 1:
        raise UserError(f"binomial: a level of {level}", "give one between 0 and 1")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def mos(
    ratings: Sequence[float] | np.ndarray,
    listeners: Sequence[Hashable],
    items: Sequence[Hashable],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean opinion score with an interval for *other listeners and other items*.

    Ratings of one listener resemble each other, and so do ratings of one item; taken for independent
    they give an interval far too narrow. So listeners are left out in turn, and items are (a
    jackknife each), V = V_listeners + V_items − V_residual. Each of the first two holds the
    variance of a single rating, V_residual, once; hence it comes off once. Without that the interval
    is too wide, and a bootstrap of both at a time counts it three times (Owen 2007, "The pigeonhole
    bootstrap"). The same sum is the two-way cluster-robust variance (Cameron, Gelbach and
    Miller 2011). V never falls below the larger of the two; t has the degrees of freedom
    of Satterthwaite 1946. Not every listener need have heard every item; what each heard must not
    depend on the ratings.

    Where neither listeners nor items differ, or with fewer than five of one, it is too wide.

    Args:
        ratings: ``[N]``, such as 1 to 5; or differences of two systems' ratings.
        listeners: of each rating.
        items: what was rated: the file, or the prompt.
        seed: unused, nothing is drawn; here because a caller gives every measure one.
        level: of the interval.

    Returns:
        The mean over ratings. ``interval`` is None with one listener or one item, or where too few
        answers are left to tell a rating's own variance (as with one rating each).

    Raises:
        UserError: no ratings, NaN, or lists of several lengths.
    """
    del seed
    values = _numbers(ratings, "mos")
    codes = [file_codes(ids, len(values), "mos") for ids in (listeners, items)]
    counts = [int(code.max()) + 1 for code in codes]
    n, value = len(values), float(values.mean())
    units = (("listeners", counts[0]), ("items", counts[1]))
    warnings = tuple(
        f"{count} {name} say little about others; ask 5 or more"
        for name, count in units
        if count < 5
    )
    if min(counts) < 2:
        return Estimate(value, None, n, units, warnings)
    residual, freedom = _residual(values, codes, counts)
    if freedom < 1:
        return Estimate(value, None, n, units, (*warnings, "too few ratings for an interval"))
    parts = []
    for code, count in zip(codes, counts, strict=True):
        rated = np.bincount(code)
        left = (values.sum() - np.bincount(code, values)) / (n - rated)
        parts.append((count - 1) ** 2 / count * float(left.var(ddof=1)))
    noise = residual / n
    variance = max(parts[0] + parts[1] - noise, *parts)
    if not variance > 0:
        return Estimate(value, (value, value), n, units, (*warnings, "all ratings are alike"))
    spent = sum(v * v / (k - 1) for v, k in zip(parts, counts, strict=True)) + noise**2 / freedom
    half = float(student.ppf((1 + level) / 2, max(1.0, variance**2 / spent)) * np.sqrt(variance))
    return Estimate(value, (value - half, value + half), n, units, warnings)


def _residual(values: np.ndarray, codes: list[np.ndarray], counts: list[int]) -> tuple[float, int]:
    """Variance of a rating beside its listener's and item's own level, and its freedom."""
    n = len(values)
    design = np.zeros((n, sum(counts)))
    design[np.arange(n), codes[0]] = 1.0
    design[np.arange(n), counts[0] + codes[1]] = 1.0
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    freedom = n - int(rank)
    left = values - design @ solution
    return (float(left @ left) / freedom if freedom > 0 else 0.0), freedom


def mean_similarity(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
) -> Estimate:
    """Mean of a measure of single clips, such as a cosine, with Student's interval over files.

    Windows of one file are averaged first: files count, each once. The interval asks for files that
    are independent, and for about ten of them where the values are skewed.

    Args:
        values: ``[N]``.
        groups: file id of each; None takes each for a file.
        level: of the interval.

    Returns:
        The mean over files; ``interval`` is None with a single file.

    Raises:
        UserError: no values, NaN, or another number of ids than values.
    """
    rows = _numbers(values, "similarity")
    n = len(rows)
    if groups is not None:
        codes = file_codes(groups, n, "similarity")
        rows = np.bincount(codes, rows) / np.bincount(codes)
    files, value = len(rows), float(rows.mean())
    units = (("files", files),)
    if files < 2:
        return Estimate(value, None, n, units, ("one file says nothing about others",))
    half = float(student.ppf((1 + level) / 2, files - 1) * rows.std(ddof=1) / np.sqrt(files))
    warnings = () if files >= 10 else (f"{files} files are few; 10 or more are better",)
    return Estimate(value, (value - half, value + half), n, units, warnings)


def _numbers(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    out = np.asarray(values, dtype=np.float64)
    if out.ndim != 1 or not out.size or not np.isfinite(out).all():
        raise UserError(f"{name}: no values, or NaN among them", "leave missing answers out")
    return out


def around(
    value: float,
    variance: float,
    freedom: float,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """95 % interval (low, high): value ± t·√variance, within what the number can be.

    Args:
        value: the estimate.
        variance: of the estimate, not of one observation.
        freedom: degrees of freedom behind ``variance``, above 0.
        bounds: the least and the greatest that the number can be.
    """
    half = float(student.ppf(0.975, freedom)) * math.sqrt(variance)
    return max(value - half, bounds[0]), min(value + half, bounds[1])


def of_ratio(
    above: Sequence[float] | np.ndarray,
    below: Sequence[float] | np.ndarray,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float] | None:
    """95 % interval of Σ above / Σ below over n units, such as errors and words of n files.

    Linearised (Cochran 1977, "Sampling Techniques", 3rd ed., eq. 6.13 without the finite-population
    term): the variance is n/(n−1) Σ(aᵢ − r·bᵢ)² / (Σbᵢ)², with n − 1 degrees of freedom. With all
    ``below`` alike it is the t interval of a mean.

    Args:
        above: one number a unit.
        below: likewise, with a sum above 0.
        bounds: the least and the greatest that the ratio can be.

    Returns:
        The interval; None for a single unit.
    """
    a, b = np.asarray(above, np.float64), np.asarray(below, np.float64)
    n = len(a)
    if n < 2:
        return None
    ratio = float(a.sum() / b.sum())
    variance = n / (n - 1) * float(((a - ratio * b) ** 2).sum()) / float(b.sum()) ** 2
    return around(ratio, variance, n - 1, bounds)
