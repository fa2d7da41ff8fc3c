"""Kernel audio distance: maximum mean discrepancy of two sets of embeddings, with a test.

Chung et al. 2025, "KAD: No More FAD!"; the unbiased estimate is eq. 3 of Gretton et al. 2012, "A
Kernel Two-Sample Test". Unlike FAD it assumes no shape and has no bias at small numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import comb

import numpy as np

from tunesmith.errors import UserError
from tunesmith.metrics._result import Result, pair

SPEC = {
    "name": "kad",
    "summary": "Kernel audio distance: unbiased with few clips, and tested against chance",
    "better": "lower",
    "needs": ["reference", "candidate"],
}

_CHUNK = 1024
"""Rows of one block of distances: 1024 × 20,000 float64 is 160 MB."""

_LARGEST = 12_000
"""Rows above which the permutation test is refused: its one kernel matrix would pass 1.2 GB."""


def compute(
    reference: np.ndarray,
    candidate: np.ndarray,
    *,
    seed: int = 0,
    permutations: int = 1000,
    bandwidth: float | None = None,
    groups: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
) -> Result:
    """100·MMD² with a Gaussian kernel, unbiased, float64.

    k(x, y) = exp(−‖x−y‖²/2σ²), σ = the median pairwise distance of the *reference*: fixed by the
    reference, every candidate is measured with the same ruler. The value is never clamped; under
    no difference it is negative about half the time.

    Args:
        reference: ``[M, D]``, M ≥ 2.
        candidate: ``[N, D]``, N ≥ 2.
        seed: of the permutations.
        permutations: relabellings behind the p-value; 0 skips the test.
        bandwidth: σ, in units of the embedding; None takes the median.
        groups: file ids of the reference's rows and of the candidate's. Windows of one file are
            not independent; with groups they change sides together.

    Returns:
        The distance; ``p_value`` = (1 + draws at least as large) / (1 + permutations).

    Raises:
        UserError: wrong shapes, NaN, group lists of another length, a reference of identical rows
            without a bandwidth, or a permutation test over too many rows.
    """
    x, y = pair(reference, candidate)
    if permutations < 0:
        raise UserError(f"kad: permutations is {permutations}", "give 0 or more")
    # Distances come from ‖x‖²+‖y‖²−2xy, which cancels badly far from the origin: centre first.
    centre = x.mean(axis=0)
    x, y = x - centre, y - centre
    sigma = median_distance(x) if bandwidth is None else float(bandwidth)
    if not (np.isfinite(sigma) and sigma > 0):
        raise UserError(
            f"kad: the kernel's bandwidth is {sigma:g}",
            "the reference clips must differ from each other; give more of them, or a bandwidth",
        )
    labels = _labels(groups, len(x), len(y))
    warnings = _warnings(labels, len(x), len(y), permutations)
    if permutations:
        value, p_value = _tested(x, y, sigma, labels, permutations, seed)
    else:
        value, p_value = _value(x, y, sigma), None
    return Result(
        value=value,
        interval=None,
        p_value=p_value,
        n_reference=len(x),
        n_candidate=len(y),
        dimension=x.shape[1],
        warnings=warnings,
    )


def median_distance(x: np.ndarray, *, most: int = 4000) -> float:
    """Median of the pairwise distances of ``[M, D]``, without the zeros of a row to itself.

    Above ``most`` rows an evenly spaced subset stands for all; 4000 rows are eight million pairs.
    """
    if len(x) > most:
        x = x[np.linspace(0, len(x) - 1, most).astype(int)]
    parts = []
    for start in range(0, len(x), _CHUNK):
        block = _squared(x[start : start + _CHUNK], x[start:])
        parts.append(block[np.triu_indices(len(block), k=1, m=block.shape[1])])
    return float(np.sqrt(np.median(np.concatenate(parts))))


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances ``[M, N]`` between the rows of ``[M, D]`` and ``[N, D]``."""
    out = -2.0 * (a @ b.T)
    out += np.einsum("ij,ij->i", a, a)[:, None]
    out += np.einsum("ij,ij->i", b, b)[None, :]
    return np.maximum(out, 0.0, out=out)


def _kernel(a: np.ndarray, b: np.ndarray, sigma: float) -> np.ndarray:
    out = _squared(a, b)
    out *= -0.5 / (sigma * sigma)
    return np.exp(out, out=out)


def _value(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    """100·MMD² block by block: no matrix larger than ``_CHUNK`` rows is ever held."""
    m, n = len(x), len(y)

    def total(a: np.ndarray, b: np.ndarray) -> float:
        starts = range(0, len(a), _CHUNK)
        return sum(float(_kernel(a[s : s + _CHUNK], b, sigma).sum()) for s in starts)

    # A row with itself is exp(0) = 1: M and N ones come off.
    within_x = (total(x, x) - m) / (m * (m - 1))
    within_y = (total(y, y) - n) / (n * (n - 1))
    return 100.0 * (within_x + within_y - 2.0 * total(x, y) / (m * n))


def _labels(
    groups: tuple[Sequence[Hashable], Sequence[Hashable]] | None, m: int, n: int
) -> tuple[np.ndarray, int]:
    """Group of every pooled row ``[M+N]``, and how many groups are the reference's.

    One id on both sides means two groups: a reference and what was made from it are two things.
    """
    if groups is None:
        return np.arange(m + n), m
    codes, counts = [], []
    for ids, rows, name in ((groups[0], m, "reference"), (groups[1], n, "candidate")):
        if len(ids) != rows:
            raise UserError(
                f"kad: {len(ids)} {name} groups for {rows} embeddings", "give one file id per row"
            )
        known: dict[Hashable, int] = {}
        codes.append(np.array([known.setdefault(item, len(known)) for item in ids]))
        counts.append(len(known))
    return np.concatenate([codes[0], codes[1] + counts[0]]), counts[0]


def _tested(
    x: np.ndarray,
    y: np.ndarray,
    sigma: float,
    labels: tuple[np.ndarray, int],
    permutations: int,
    seed: int,
) -> tuple[float, float]:
    """Value and p-value from one kernel matrix.

    With K's diagonal at 0, z ∈ {0,1} marking the reference's side and S = ΣK, all three sums follow
    from q = zᵀKz and r = zᵀK1: within x is q, across is r − q, within y is S − 2r + q. A draw costs
    one product, and many draws are one matrix product. σ stays that of the actual reference, so the
    ruler does not change from draw to draw.
    """
    codes, groups_x = labels
    pooled = np.concatenate([x, y])
    rows = len(pooled)
    if rows > _LARGEST:
        raise UserError(
            f"kad: a permutation test over {rows} embeddings needs {rows * rows * 8 / 1e9:.0f} GB",
            f"measure at most {_LARGEST} in all, or set permutations to 0",
        )
    count = int(codes.max()) + 1
    sums = np.zeros((count, rows))
    for start in range(0, rows, _CHUNK):
        block = _kernel(pooled[start : start + _CHUNK], pooled, sigma)
        block[np.arange(len(block)), np.arange(start, start + len(block))] = 0.0
        np.add.at(sums, codes[start : start + _CHUNK], block)
    if count < rows:  # fold the columns too: rows of one group never part
        order = np.argsort(codes, kind="stable")
        sums = np.add.reduceat(sums[:, order], np.searchsorted(codes[order], range(count)), axis=1)
    sizes = np.bincount(codes).astype(np.float64)
    row_sums = sums.sum(axis=1)
    rng = np.random.default_rng(seed)
    actual = np.zeros((1, count))
    actual[0, :groups_x] = 1.0
    observed = float(_from_sums(actual, sums, row_sums, sizes)[0])
    exceeded = done = 0
    while done < permutations:
        batch = min(256, permutations - done)
        sides = rng.permuted(np.repeat(actual, batch, axis=0), axis=1)
        drawn = _from_sums(sides, sums, row_sums, sizes)
        # A draw that repeats the actual split must count in spite of rounding.
        exceeded += int(np.count_nonzero(drawn >= observed - 1e-9 * max(1.0, abs(observed))))
        done += batch
    return observed, (1 + exceeded) / (1 + permutations)


def _from_sums(
    sides: np.ndarray, sums: np.ndarray, row_sums: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """100·MMD² ``[B]`` of each labelling in ``sides`` ``[B, G]`` from group sums ``[G, G]``."""
    within_x = np.einsum("bg,bg->b", sides @ sums, sides)
    touching = sides @ row_sums
    m = sides @ sizes
    n = sizes.sum() - m
    within_y = row_sums.sum() - 2.0 * touching + within_x
    # Unequal groups can leave one row alone on a side; it has no pairs, and they add nothing.
    pairs_x, pairs_y = np.maximum(m * (m - 1), 1.0), np.maximum(n * (n - 1), 1.0)
    across = (touching - within_x) / (m * n)
    return 100.0 * (within_x / pairs_x + within_y / pairs_y - 2.0 * across)


def _warnings(labels: tuple[np.ndarray, int], m: int, n: int, permutations: int) -> tuple[str, ...]:
    out = []
    if min(m, n) < 50:
        out.append(
            f"KAD is unbiased but coarse with few clips: {min(m, n)} embeddings; "
            "below about 50 only large differences show"
        )
    groups_x = labels[1]
    groups_y = int(labels[0].max()) + 1 - groups_x
    if permutations and comb(groups_x + groups_y, groups_x) < 100:
        out.append(
            f"{groups_x} reference and {groups_y} candidate files can change sides in too few ways "
            "for a p-value below 0.01"
        )
    if permutations and permutations < 99:
        out.append(f"{permutations} permutations cannot give a p-value below 0.01; use 1000")
    return tuple(out)


def compare(
    reference: np.ndarray,
    base: np.ndarray,
    adapted: np.ndarray,
    *,
    seed: int = 0,
    permutations: int = 1000,
    paired: bool = True,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Is ``adapted`` nearer to the reference than ``base``, or is that chance?

    Args:
        reference: ``[M, D]``.
        base: ``[N, D]``, from the untouched model.
        adapted: ``[N', D]``, from the adapted one.
        seed: of the relabellings.
        permutations: relabellings, at least 1.
        paired: row i of both came from one prompt and seed: only the two change places, which
            finds smaller differences. False shuffles all rows.
        groups: with pairs, an id of each pair (row of ``base``); pairs of one id change places
            together. Windows of one clip are not independent, so its file is their id.

    Returns:
        KAD(base) − KAD(adapted), positive where adapting helped, and its two-sided p-value. The
        kernel hangs on the reference alone, so the test is exact at any size.

    Raises:
        UserError: as :func:`compute`, or pairs of unequal number.
    """
    x, y = pair(reference, np.concatenate([base, adapted]))
    n, rows = len(base), len(y)
    if paired and rows != 2 * n:
        raise UserError(f"kad: {n} base rows cannot pair with {rows - n}", "set paired to False")
    if groups is not None and not paired:
        raise UserError("kad: groups are of pairs", "leave them out, or set paired to True")
    if rows > _LARGEST or permutations < 1 or not 2 <= n <= rows - 2:
        raise UserError(
            f"kad: cannot compare {n} with {rows - n} embeddings in {permutations} relabellings",
            f"give two or more of each, at most {_LARGEST} in all, and one relabelling or more",
        )
    centre = x.mean(axis=0)
    x, y = x - centre, y - centre
    sigma = median_distance(x)
    if not sigma > 0:
        raise UserError("kad: all reference embeddings are alike", "give clips that differ")
    kernel = _kernel(y, y, sigma)
    np.fill_diagonal(kernel, 0.0)
    near = np.concatenate(
        [_kernel(y[s : s + _CHUNK], x, sigma).mean(axis=1) for s in range(0, rows, _CHUNK)]
    )
    row_sums = kernel.sum(axis=1)
    sides = np.repeat((np.arange(rows) < n).astype(np.float64)[None], permutations + 1, axis=0)
    rng = np.random.default_rng(seed)
    if paired:
        ids = list(range(n)) if groups is None else list(groups)
        if len(ids) != n:
            raise UserError(f"kad: {len(ids)} groups for {n} pairs", "give one id per pair")
        known = {item: number for number, item in enumerate(dict.fromkeys(ids))}
        flip = (rng.random((permutations, len(known))) < 0.5)[:, [known[item] for item in ids]]
        sides[1:] = np.concatenate([~flip, flip], axis=1)
    else:
        sides[1:] = rng.permuted(sides[1:], axis=1)
    within = np.einsum("bg,bg->b", sides @ kernel, sides)
    other = row_sums.sum() - 2.0 * (sides @ row_sums) + within
    m = rows - n
    gap = within / (n * (n - 1)) - other / (m * (m - 1))  # the reference's own term cancels
    gap -= 2.0 * ((sides @ near) / n - ((1.0 - sides) @ near) / m)
    # Ties count; the slack is absolute, because equal takes leave gaps of nothing but rounding.
    exceeded = np.count_nonzero(np.abs(gap[1:]) >= abs(gap[0]) - 1e-12)
    return float(100.0 * gap[0]), (1 + int(exceeded)) / (1 + permutations)
