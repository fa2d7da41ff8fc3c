"""Fréchet audio distance: how far apart two sets of clips lie, each seen as a Gaussian.

Kilgour et al. 2019, "Fréchet Audio Distance", eq. 1; the closed form is that of Dowson and Landau
1982. The extrapolation to endless samples follows Chong and Forsyth 2020 and Gui et al. 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.errors import UserError
from tunesmith.metrics._result import Result, pair

SPEC = {
    "name": "fad",
    "summary": "Fréchet audio distance: how far the sound as a whole lies from the reference",
    "better": "lower",
    "needs": ["reference", "candidate"],
}


def compute(reference: np.ndarray, candidate: np.ndarray, *, seed: int = 0) -> Result:
    """Fréchet distance of two sets of embeddings, squared as is the custom.

    FAD = ‖μ₁−μ₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½), unbiased covariances, float64 throughout.

    Args:
        reference: ``[M, D]``, M ≥ 2.
        candidate: ``[N, D]``, N ≥ 2.
        seed: unused, nothing is drawn; here because every metric takes one.

    Returns:
        The distance in squared units of the embedding. ``interval`` is None: an ordinary bootstrap
        raises the bias together with the spread and misses the estimate itself.

    Raises:
        UserError: wrong shapes, fewer than two rows, NaN or infinity.
    """
    del seed
    x, y = pair(reference, candidate)
    return Result(
        value=distance(x, y),
        interval=None,
        p_value=None,
        n_reference=len(x),
        n_candidate=len(y),
        dimension=x.shape[1],
        warnings=_warnings(len(x), len(y), x.shape[1]),
    )


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """The bare distance between ``[M, D]`` and ``[N, D]``; rows are not checked here."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    a = (x - mean_x) / np.sqrt(len(x) - 1)
    b = (y - mean_y) / np.sqrt(len(y) - 1)
    # With A and B centred and scaled, C₁ = AᵀA and C₂ = BᵀB; tr((C₁C₂)^½) = ‖A·Bᵀ‖_*, because the
    # eigenvalues of C₁C₂ are the squared singular values of A·Bᵀ. Exact at any rank, and no
    # square root of a near-zero eigenvalue is ever taken.
    cross = _cross_narrow(a, b) if min(len(x), len(y)) < x.shape[1] else _cross_wide(a, b)
    spread = float(np.sum(a * a) + np.sum(b * b))
    return float(np.sum((mean_x - mean_y) ** 2)) + spread - 2.0 * cross


def _cross_narrow(a: np.ndarray, b: np.ndarray) -> float:
    """tr((AᵀA·BᵀB)^½) as the nuclear norm of A·Bᵀ, ``[M, N]``: for fewer rows than columns."""
    # A·Bᵀ has at most D singular values, so the longer side is folded down first: with B = QR,
    # ‖A·Bᵀ‖_* = ‖A·Rᵀ·Qᵀ‖_* = ‖A·Rᵀ‖_*.
    width = a.shape[1]
    if len(a) > width:
        a = np.asarray(np.linalg.qr(a, mode="r"))
    if len(b) > width:
        b = np.asarray(np.linalg.qr(b, mode="r"))
    return float(np.linalg.svd(a @ b.T, compute_uv=False).sum())


def _cross_wide(a: np.ndarray, b: np.ndarray) -> float:
    """tr((C₁C₂)^½) through eigh of C₁^½·C₂·C₁^½, ``[D, D]``: symmetric, so no complex parts.

    Faster than the nuclear norm at D = 1024. Eigenvalues that are only rounding are left
    out before their roots are taken: √1e-16 is 1e-8, and an embedding may have hundreds of dead
    or collinear dimensions.
    """
    values, vectors = np.linalg.eigh(a.T @ a)
    real = _above_rounding(values)
    root = vectors[:, real] * np.sqrt(values[real])
    inner = root.T @ (b.T @ b) @ root
    eigenvalues = np.linalg.eigvalsh((inner + inner.T) / 2.0)
    return float(np.sqrt(eigenvalues[_above_rounding(eigenvalues)]).sum())


def _above_rounding(eigenvalues: np.ndarray) -> np.ndarray:
    if not eigenvalues.size:
        return np.zeros(0, dtype=bool)
    return eigenvalues > eigenvalues.max() * len(eigenvalues) * np.finfo(np.float64).eps


def needed(dimension: int) -> int:
    """Embeddings per set below which the bias outweighs most differences worth measuring.

    Against an exact Gaussian E[FAD] ≈ (d + d(d+1)/4)/n where the truth is 0; d²/4 rows bring that
    down to about one unit in whitened coordinates.
    """
    return max(2, -(-dimension * dimension // 4))


def _warnings(m: int, n: int, dimension: int) -> tuple[str, ...]:
    least = needed(dimension)
    if min(m, n) >= least:
        return ()
    return (
        f"FAD reads too high with few clips: {min(m, n)} embeddings where about {least} are needed "
        f"at {dimension} dimensions; compare only numbers with equal counts, or use fad_inf or kad",
    )


def fad_inf(
    reference: np.ndarray,
    candidate: np.ndarray,
    *,
    seed: int = 0,
    sizes: Sequence[int] | None = None,
    draws: int = 4,
) -> Result:
    """FAD∞: the distance extrapolated to endlessly many candidates, over 1/n.

    At each size n, subsamples of the candidates are drawn WITHOUT replacement (drawing with it
    repeats rows, shrinks the covariance and keeps the bias), FAD is measured, and a line
    FAD(n) = FAD∞ + s/n is fitted by least squares (Chong and Forsyth 2020, eq. 4). The bias of the
    reference's own finite size stays in.

    Args:
        reference: ``[M, D]``.
        candidate: ``[N, D]``, N ≥ 16.
        seed: of the subsamples.
        sizes: subset sizes; by default eight, evenly spaced in 1/n, from N/4 (and more than D
            where N allows) up to N.
        draws: subsamples per size.

    Returns:
        FAD∞; it may come out slightly negative, and ``interval`` spans ±2 standard errors of the
        fit's intercept (subsamples overlap, so it is a guide and not a confidence interval).

    Raises:
        UserError: too few candidates, or a size outside 2..N.
    """
    x, y = pair(reference, candidate)
    n, dimension = len(y), y.shape[1]
    if n < 16:
        raise UserError(f"fad_inf: {n} candidates are too few, 16 are the least", "generate more")
    chosen = np.array(sizes) if sizes is not None else _default_sizes(n, dimension)
    if len(np.unique(chosen)) < 2 or chosen.min() < 2 or chosen.max() > n:
        raise UserError(
            f"fad_inf: sizes {[int(s) for s in chosen]} cannot be drawn from {n} candidates",
            f"give at least two different sizes between 2 and {n}",
        )
    rng = np.random.default_rng(seed)
    inverse, values = [], []
    for size in chosen:
        for _ in range(draws if size < n else 1):
            rows = rng.choice(n, size=int(size), replace=False)
            inverse.append(1.0 / size)
            values.append(distance(x, y[rows]))
    intercept, error = _line(np.array(inverse), np.array(values))
    least = int(chosen.min())
    warnings = _warnings(len(x), len(x), dimension)
    if least <= dimension:
        warnings += (
            f"FAD over 1/n is straight only above {dimension} rows, but subsamples began at "
            f"{least}: the extrapolation falls short",
        )
    return Result(
        value=intercept,
        interval=(intercept - 2 * error, intercept + 2 * error),
        p_value=None,
        n_reference=len(x),
        n_candidate=n,
        dimension=dimension,
        warnings=warnings,
    )


def _default_sizes(n: int, dimension: int) -> np.ndarray:
    # Below full rank the curve over 1/n bends, so the smallest subset stays above D if it can.
    least = max(4, n // 4, min(dimension + 1, n // 2))
    return np.unique(np.round(1.0 / np.linspace(1.0 / least, 1.0 / n, 8)).astype(int))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Intercept of the least-squares line through ``[P]`` points, and its standard error."""
    design = np.stack([np.ones_like(x), x], axis=1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ solution
    variance = float(residual @ residual) / max(1, len(x) - 2)
    covariance = variance * np.linalg.inv(design.T @ design)
    return float(solution[0]), float(np.sqrt(max(0.0, covariance[0, 0])))
