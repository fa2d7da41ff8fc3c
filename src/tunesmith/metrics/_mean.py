"""Intervals of means and ratios over a few dozen takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student


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
