"""Vendi score: how many different things a set amounts to. And the nearest neighbours in it.

Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning"
(arXiv 2210.02410), definition 3.1: with a kernel matrix K of similarities, K[i, i] = 1, the
exponential of the Shannon entropy of the eigenvalues of K / n.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from tunesmith.errors import UserError
from tunesmith.metrics._distances import CHUNK, gaussian, median_distance, squared
from tunesmith.metrics._result import Result, embeddings

SPEC = {
    "name": "vendi",
    "summary": "Vendi score: how many different clips a set amounts to",
    "better": "higher",
    "needs": ["candidate"],
}

Kernel = Literal["cosine", "rbf"]

LARGEST = 5000
"""Rows above which a kernel matrix is refused: its 200 MB are no matter, its eigenvalues take
minutes."""


def compute(
    candidate: np.ndarray, *, kernel: Kernel = "cosine", bandwidth: float | None = None
) -> Result:
    """exp(−Σ λᵢ log λᵢ), λ the eigenvalues of K / n: 1 for identical rows, n for orthogonal ones.

    Args:
        candidate: ``[N, D]``, N ≥ 1.
        kernel: ``cosine``, k(x, y) = xᵀy / ‖x‖‖y‖; or ``rbf``, k(x, y) = exp(−‖x−y‖²/2σ²).
        bandwidth: σ, in units of the embedding. A score can be compared with another only if both
            had the same; None takes the median distance of this very set.

    Returns:
        The score, from 1 to N; it is no test, so it has no p-value. ``interval`` is None: a score
        grows with N, so rows drawn again lower it and rows left out lower it, and the
        spread of either is around another number than this one.

    Raises:
        UserError: wrong shapes, NaN, an unknown kernel, a row of zeros with ``cosine``, a bandwidth
            that is not above 0, or more than 5,000 rows where the kernel needs all pairs.
    """
    x = embeddings(candidate, "candidate", at_least=1)
    n, width = x.shape
    if kernel == "cosine":
        values = _cosine_eigenvalues(x)
    elif kernel == "rbf":
        values = _rbf_eigenvalues(x, bandwidth)
    else:
        raise UserError(f"vendi: no kernel '{kernel}'", "known: cosine, rbf")
    values = values[values > 1e-12]  # x log x → 0, and rounding leaves tiny negative ones
    values = values / values.sum()
    score = float(np.exp(-(values * np.log(values)).sum()))
    warnings = ()
    if kernel == "cosine" and n > width:
        warnings = (f"with {width} numbers a row the cosine kernel cannot count past {width}",)
    return Result(
        value=min(max(score, 1.0), float(n)),
        interval=None,
        p_value=None,
        n_reference=0,
        n_candidate=n,
        dimension=width,
        warnings=warnings,
    )


def _cosine_eigenvalues(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise UserError(
            f"vendi: {int((lengths == 0).sum())} rows are zero and point nowhere",
            "leave them out, or take the rbf kernel",
        )
    x = x / lengths
    # X Xᵀ and Xᵀ X share their eigenvalues above zero: the smaller one will do.
    if min(x.shape) > LARGEST:
        raise _too_many(len(x))
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    return np.linalg.eigvalsh(gram / len(x))


def _rbf_eigenvalues(x: np.ndarray, bandwidth: float | None) -> np.ndarray:
    if len(x) > LARGEST:
        raise _too_many(len(x))
    if (x == x[0]).all():
        return np.ones(1)  # all alike, whatever the ruler
    x = x - x.mean(axis=0)  # distances from products cancel badly far from the origin
    sigma = median_distance(x) if bandwidth is None else float(bandwidth)
    if not (np.isfinite(sigma) and sigma > 0):
        raise UserError(f"vendi: the kernel's bandwidth is {sigma:g}", "give one above 0")
    kernel = gaussian(x, x, sigma)
    np.fill_diagonal(kernel, 1.0)
    return np.linalg.eigvalsh(kernel / len(x))


def _too_many(rows: int) -> UserError:
    return UserError(f"vendi: {rows} embeddings are more than {LARGEST}", "measure a part of them")


def nearest(candidate: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest other rows of each row, Euclidean.

    Args:
        candidate: ``[N, D]``, N ≥ 2.
        k: at most N − 1; more are cut to that.

    Returns:
        (indices ``[N, k]``, distances ``[N, k]`` in units of the embedding), nearest first.

    Raises:
        UserError: wrong shapes, one row alone, or NaN.
    """
    x = embeddings(candidate, "candidate")
    x = x - x.mean(axis=0)
    k = min(k, len(x) - 1)
    indices = np.empty((len(x), k), np.int64)
    distances = np.empty((len(x), k))
    for start in range(0, len(x), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(x)))
        block = squared(x[rows], x)
        block[np.arange(len(rows)), rows] = np.inf
        order = np.argsort(block, axis=1, kind="stable")[:, :k]
        indices[rows] = order
        # From the rows themselves: a distance of 0 must come out as 0.
        distances[rows] = np.linalg.norm(x[rows][:, None] - x[order], axis=-1)
    return indices, distances
