"""Density and coverage: is what was made like the reference, and does it reach all of it?

Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models" (arXiv
2002.09797), sect. 3. Around each reference clip lies a ball that reaches to its k-th nearest
other reference clip.
"""

from __future__ import annotations

import numpy as np

from tunesmith.errors import UserError
from tunesmith.metrics._distances import CHUNK, squared
from tunesmith.metrics._result import Result, pair

SPEC = {
    "name": "coverage",
    "summary": "Coverage: share of the reference that has something generated near it; with density",
    "better": "higher",
    "needs": ["reference", "candidate"],
}


def compute(
    reference: np.ndarray, candidate: np.ndarray, *, seed: int = 0, neighbours: int = 5
) -> Result:
    """Coverage as the value, density in the details.

    coverage = share of reference balls that hold a candidate; density = candidates counted once for
    every ball that holds them, over k·N. Density is about 1 for equal sets and more where the
    candidates crowd in the middle of the reference; it finds what is unlike the reference, and
    coverage finds what is missing. A candidate on the rim of a ball is outside.

    ``interval`` is None: all balls and candidates hang together through one reference, and
    resampled rows repeat, which shrinks the balls.

    Args:
        reference: ``[M, D]``, M > k.
        candidate: ``[N, D]``, N ≥ 1.
        seed: unused, nothing is drawn; here because every metric takes one.
        neighbours: k.

    Returns:
        Coverage, 0 to 1. ``details``: ``density``; ``expected``, the coverage that equal sets of
        these sizes have on average (:func:`expected`); ``neighbours``.

    Raises:
        UserError: wrong shapes, NaN, k below 1 or not below M.
    """
    del seed
    x, y = pair(reference, candidate, at_least=1)
    m, n = len(x), len(y)
    if not 1 <= neighbours < m:
        raise UserError(
            f"coverage: {neighbours} neighbours among {m} reference clips",
            f"give 1 to {m - 1}" if m > 1 else "give more reference clips",
        )
    # Distances from products cancel badly far from the origin.
    centre = x.mean(axis=0)
    x, y = x - centre, y - centre
    held = np.zeros(n)  # balls that hold each candidate
    covered = points = 0
    for start in range(0, m, CHUNK):
        block = x[start : start + CHUNK]
        own = squared(block, x)
        own[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        radius = np.partition(own, neighbours - 1, axis=1)[:, neighbours - 1]
        points += int(np.count_nonzero(radius == 0))
        inside = squared(block, y) < radius[:, None]
        covered += int(np.count_nonzero(inside.any(axis=1)))
        held += inside.sum(axis=0)
    usual = expected(m, n, neighbours)
    warnings = ()
    if usual < 0.9:
        warnings += (
            f"even equal sets of {m} and {n} clips have a coverage of about {usual:.2f}; "
            f"generate more clips, about {2 * m} or more",
        )
    if points:
        warnings += (
            f"{points} reference clips have {neighbours} exact copies; nothing can cover them",
        )
    return Result(
        value=covered / m,
        interval=None,
        p_value=None,
        n_reference=m,
        n_candidate=n,
        dimension=x.shape[1],
        warnings=warnings,
        details={
            "density": float(held.sum()) / (neighbours * n),
            "expected": usual,
            "neighbours": neighbours,
        },
    )


def expected(m: int, n: int, neighbours: int = 5) -> float:
    """Mean coverage of M reference clips by N candidates of the same distribution.

    1 − Π_{i<k} (M−1−i)/(M+N−1−i): the chance that at least one of the k nearest of all M + N − 1
    others is a candidate (Naeem et al. 2020). It holds for any distribution.
    """
    i = np.arange(neighbours)
    return float(1.0 - np.prod((m - 1.0 - i) / (m + n - 1.0 - i)))
