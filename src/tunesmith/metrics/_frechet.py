"""The distance of two Gaussians in closed form, exact at any rank.

Dowson and Landau 1982. All of LAPACK's work on whole covariances goes through scipy: the threads of
two libraries would wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from tunesmith.metrics._distances import CHUNK


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """The bare distance between ``[M, D]`` and ``[N, D]``; rows are not checked here."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    far = float(np.sum((mean_x - mean_y) ** 2))
    # With A and B centred and scaled, C₁ = AᵀA and C₂ = BᵀB; tr((C₁C₂)^½) = ‖A·Bᵀ‖_*, because the
    # eigenvalues of C₁C₂ are the squared singular values of A·Bᵀ. Exact at any rank, and no
    # square root of a near-zero eigenvalue is ever taken.
    if min(len(x), len(y)) < x.shape[1]:
        a, b = (x - mean_x) / np.sqrt(len(x) - 1), (y - mean_y) / np.sqrt(len(y) - 1)
        return far + float(np.vdot(a, a) + np.vdot(b, b)) - 2.0 * cross_narrow(a, b)
    c1, c2 = covariance_of(x, mean_x), covariance_of(y, mean_y)
    return far + float(np.trace(c1) + np.trace(c2)) - 2.0 * trace_root(root_of(c1), c2)


def covariance_of(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Lower triangle ``[D, D]`` of the unbiased covariance of rows ``[N, D]``, a block at a time."""
    total = np.zeros((x.shape[1], x.shape[1]), order="F")
    (add_square,) = linalg.get_blas_funcs(("syrk",), (total,))
    for start in range(0, len(x), CHUNK):
        block = x[start : start + CHUNK] - mean
        total = add_square(1.0, block.T, beta=1.0, c=total, lower=1, overwrite_c=1)
    return total / (len(x) - 1)


def cross_narrow(a: np.ndarray, b: np.ndarray) -> float:
    """tr((AᵀA·BᵀB)^½) as the nuclear norm of A·Bᵀ, ``[M, N]``: for fewer rows than columns."""
    # A·Bᵀ has at most D singular values, so the longer side is folded down first: with B = QR,
    # ‖A·Bᵀ‖_* = ‖A·Rᵀ·Qᵀ‖_* = ‖A·Rᵀ‖_*.
    width = a.shape[1]
    if len(a) > width:
        a = np.asarray(np.linalg.qr(a, mode="r"))
    if len(b) > width:
        b = np.asarray(np.linalg.qr(b, mode="r"))
    return float(np.linalg.svd(a @ b.T, compute_uv=False).sum())


@dataclass(frozen=True, slots=True)
class Root:
    """A root R of a covariance, R·Rᵀ = C: lower ``[D, D]``, or ``[D, rank]`` where C is singular."""

    values: np.ndarray
    lower: bool


def root_of(covariance: np.ndarray) -> Root:
    """A root of a covariance ``[D, D]``, of which only the lower triangle is read."""
    # Cholesky is much faster than eigenvectors, and as exact unless the covariance is singular.
    try:
        lower = linalg.cholesky(covariance, lower=True, check_finite=False)
        if _above_rounding(np.diagonal(lower) ** 2).all():
            return Root(lower, lower=True)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(covariance, UPLO="L")
    real = _above_rounding(values)
    return Root(vectors[:, real] * np.sqrt(values[real]), lower=False)


def trace_root(root: Root, covariance: np.ndarray) -> float:
    """tr((C₁C₂)^½) from the eigenvalues of RᵀC₂R, C₁ = RRᵀ: symmetric, so they are real.

    Of the covariance only the lower triangle is read.

    Faster than the nuclear norm at D = 1024. Eigenvalues that are only rounding are left out before
    their roots are taken: √1e-16 is 1e-8, and an embedding may have hundreds of dead or collinear
    dimensions.
    """
    if root.lower:  # LAPACK's sygst has half the work, and fills the lower triangle alone
        (reduce,) = linalg.get_lapack_funcs(("sygst",), (covariance, root.values))
        inner, _ = reduce(covariance, root.values, itype=2, lower=1)
    else:
        whole = np.tril(covariance) + np.tril(covariance, -1).T
        inner = root.values.T @ whole @ root.values
    eigenvalues = linalg.eigvalsh(
        inner, lower=True, driver="evd", overwrite_a=True, check_finite=False
    )
    return float(np.sqrt(eigenvalues[_above_rounding(eigenvalues)]).sum())


def _above_rounding(eigenvalues: np.ndarray) -> np.ndarray:
    if not eigenvalues.size:
        return np.zeros(0, dtype=bool)
    return eigenvalues > eigenvalues.max() * len(eigenvalues) * np.finfo(np.float64).eps
