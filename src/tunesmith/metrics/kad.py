"""Kernel audio distance: maximum mean discrepancy of two sets of embeddings, with a test.

Chung et al. 2025, "KAD: No More FAD!"; the unbiased estimate is eq. 3 of Gretton et al. 2012, "A
Kernel Two-Sample Test". Unlike FAD it assumes no shape and has no bias at small numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.stats import t as student

from tunesmith.errors import UserError
from tunesmith.metrics._distances import CHUNK, gaussian, median_distance
from tunesmith.metrics._result import Result, file_codes, pair

SPEC = {
    "name": "kad",
    "summary": "Kernel audio distance: unbiased with few clips, and tested against chance",
    "better": "lower",
    "needs": ["reference", "candidate"],
}

_LARGEST = 12_000
"""Files above which the permutation test is refused: its one kernel matrix would pass 1.2 GB."""


def compute(
    reference: np.ndarray,
    candidate: np.ndarray,
    *,
    seed: int = 0,
    permutations: int = 1000,
    bandwidth: float | None = None,
    groups: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
) -> Result:
    """100·MMD² with a Gaussian kernel, unbiased, float64, with a 95 % interval.

    k(x, y) = exp(−‖x−y‖²/2σ²), σ = the median pairwise distance of the *reference*: fixed by the
    reference, every candidate is measured with the same ruler. The value is never clamped; under
    no difference it is negative about half the time.

    **Files, not windows, are counted** where ``groups`` are given: the kernel of two files is the
    mean over their windows (Gärtner et al. 2002, "Multi-Instance Kernels"), and a file is never
    compared with itself. Without groups every row is a file of its own.

    **The interval** is that of a score test, as Wilson's is for a share: all θ ≥ 0 and below with
    (value − θ)² ≤ t²·(V₂ + κ·max(θ, 0)). V₂ is the variance that stays where the sets do not
    differ (the second term of Hoeffding's decomposition, estimated without bias by U-centring,
    Székely and Rizzo 2014); κ·θ is the one that grows with the distance, κ = jackknife
    variance (Arvesen 1969, both samples) over the biased MMD², which is never 0. A plain
    value ± t·jackknife fails where the sets hardly differ: the leading term of the variance is 0
    there, and the jackknife counts the other one twice. t has Welch's degrees of freedom.

    It takes σ as given: with a median as the bandwidth it is an interval for the distance at *that*
    bandwidth. It fails where a few files hold all the difference (heavy tails that the sample did
    not meet), and where rows are taken for independent that are not; give ``groups`` then. None
    below 4 files on a side.

    Args:
        reference: ``[M, D]``, M ≥ 2.
        candidate: ``[N, D]``, N ≥ 2.
        seed: of the permutations.
        permutations: relabellings behind the p-value; 0 skips the test.
        bandwidth: σ, in units of the embedding; None takes the median.
        groups: file ids of the reference's rows and of the candidate's. Windows of one file are
            not independent; with groups they change sides together.

    Returns:
        The distance; ``p_value`` = (1 + draws at least as large) / (1 + permutations);
        ``details``: the bandwidth, and how many files were counted on each side.

    Raises:
        UserError: wrong shapes, NaN, group lists of another length, a single file, a reference of
            identical rows without a bandwidth, or a permutation test over too many files.
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
    rows, starts, m = _by_file(x, y, groups)
    n = len(starts) - m
    if min(m, n) < 2:
        raise UserError(f"kad: {m} reference and {n} candidate files", "two of each are the least")
    if permutations and m + n > _LARGEST:
        raise UserError(
            f"kad: a permutation test over {m + n} files needs {(m + n) ** 2 * 8 / 1e9:.0f} GB",
            f"measure at most {_LARGEST} in all, or set permutations to 0",
        )
    matrix = np.empty((m + n, m + n)) if permutations else None
    sums = _Sums.of(rows, starts, m, sigma, matrix)
    return Result(
        value=100.0 * sums.value(),
        interval=_interval(sums) if min(m, n) >= 4 else None,
        p_value=None if matrix is None else _p_value(matrix, m, permutations, seed),
        n_reference=len(x),
        n_candidate=len(y),
        dimension=x.shape[1],
        warnings=_warnings(m, n, permutations),
        details={"bandwidth": sigma, "files_reference": m, "files_candidate": n},
    )


def _by_file(
    x: np.ndarray,
    y: np.ndarray,
    groups: tuple[Sequence[Hashable], Sequence[Hashable]] | None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """All rows, those of a file side by side; where each file begins; files of the reference.

    One id on both sides means two files: a reference and what was made from it are two things.
    """
    if groups is None:
        return np.concatenate([x, y]), np.arange(len(x) + len(y)), len(x)
    parts, starts, before = [], [], 0
    for rows, ids, name in ((x, groups[0], "reference"), (y, groups[1], "candidate")):
        codes = file_codes(ids, len(rows), f"kad, {name}")
        parts.append(rows[np.argsort(codes, kind="stable")])
        sizes = np.bincount(codes)
        starts.append(before + np.cumsum(sizes) - sizes)
        before += len(rows)
    return np.concatenate(parts), np.concatenate(starts), len(starts[0])


@dataclass(frozen=True, slots=True)
class _Sums:
    """All that value and interval need of the kernel between files, its diagonal left out.

    Attributes:
        m, n: files of the reference and of the candidate.
        to_x, to_y: each file's kernel to all of the reference and of the candidate, ``[M + N]``.
        squares: sums of squares within the reference, within the candidate and across.
        itself: each file's kernel with itself, ``[M + N]``; 1 where a file is one row.
    """

    m: int
    n: int
    to_x: np.ndarray
    to_y: np.ndarray
    squares: tuple[float, float, float]
    itself: np.ndarray

    @classmethod
    def of(
        cls, rows: np.ndarray, starts: np.ndarray, m: int, sigma: float, matrix: np.ndarray | None
    ) -> _Sums:
        """Block by block; the whole kernel ``[M + N, M + N]`` is kept only in a given ``matrix``."""
        ends = np.append(starts[1:], len(rows))
        sizes = (ends - starts).astype(np.float64)
        count = len(starts)
        to_x, to_y, itself = np.empty(count), np.empty(count), np.empty(count)
        squares, first = np.zeros(3), 0
        while first < count:
            last = int(np.searchsorted(ends, starts[first] + CHUNK, side="right"))
            last = max(first + 1, last)  # a file longer than a block is a block of its own
            block = gaussian(rows[starts[first] : ends[last - 1]], rows, sigma)
            if count < len(rows):
                block = np.add.reduceat(block, starts, axis=1)
                block = np.add.reduceat(block, starts[first:last] - starts[first], axis=0)
                block /= np.outer(sizes[first:last], sizes)
            here = np.arange(last - first)
            itself[first:last] = block[here, first + here]
            block[here, first + here] = 0.0
            to_x[first:last], to_y[first:last] = block[:, :m].sum(1), block[:, m:].sum(1)
            top, low = block[: max(0, m - first)], block[max(0, m - first) :]
            for slot, part in ((0, top[:, :m]), (1, low[:, m:]), (2, top[:, m:])):
                squares[slot] += float(np.einsum("ij,ij->", part, part))
            if matrix is not None:
                matrix[first:last] = block
            first = last
        found = (float(squares[0]), float(squares[1]), float(squares[2]))
        return cls(m, count - m, to_x, to_y, found, itself)

    @property
    def totals(self) -> tuple[float, float, float]:
        """Σk within the reference, within the candidate, and across."""
        m = self.m
        return float(self.to_x[:m].sum()), float(self.to_y[m:].sum()), float(self.to_y[:m].sum())

    def value(self) -> float:
        """MMD², unbiased."""
        m, n = self.m, self.n
        xx, yy, xy = self.totals
        return xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2.0 * xy / (m * n)


def _interval(sums: _Sums) -> tuple[float, float]:
    """The score interval that :func:`compute` describes; 4 files a side at least."""
    m, n, value = sums.m, sums.n, sums.value()
    xx, yy, xy = sums.totals
    own_x, own_y = sums.to_x[:m], sums.to_y[m:]
    far_x, far_y = sums.to_y[:m], sums.to_x[m:]
    # MMD² without each file in turn, up to what does not change with it.
    less_x = (xx - 2 * own_x) / ((m - 1) * (m - 2)) - 2 * (xy - far_x) / ((m - 1) * n)
    less_y = (yy - 2 * own_y) / ((n - 1) * (n - 2)) - 2 * (xy - far_y) / ((n - 1) * m)
    jack_x = (m - 1) ** 2 / m * float(less_x.var(ddof=1))
    jack_y = (n - 1) ** 2 / n * float(less_y.var(ddof=1))

    def centred(squares: float, own: np.ndarray, total: float, k: int) -> float:
        """E of the squared doubly centred kernel, without bias: Székely and Rizzo 2014."""
        out = squares - 2 * float(own @ own) / (k - 2) + total**2 / ((k - 1) * (k - 2))
        return out / (k * (k - 3))

    across = sums.squares[2] - float(far_x @ far_x) / n - float(far_y @ far_y) / m
    across = (across + xy**2 / (m * n)) / ((m - 1) * (n - 1))
    null = 2 * centred(sums.squares[0], own_x, xx, m) / (m * (m - 1))
    null += 2 * centred(sums.squares[1], own_y, yy, n) / (n * (n - 1))
    null = max(0.0, null + 4 * across / (m * n))

    biased = value + float(sums.itself[:m].mean() - xx / (m * (m - 1))) / m
    biased += float(sums.itself[m:].mean() - yy / (n * (n - 1))) / n
    jack = jack_x + jack_y
    if not (jack > 0 and biased > 0):  # nothing varies
        return 100.0 * value, 100.0 * value
    t = float(student.ppf(0.975, jack**2 / (jack_x**2 / (m - 1) + jack_y**2 / (n - 1))))
    growth = t * t * jack / biased
    flat = t * np.sqrt(null)
    middle = value + growth / 2
    half = np.sqrt(max(0.0, middle**2 - value**2 + flat**2))
    low = value - flat if value < flat else middle - half
    high = value + flat if value < -flat else middle + half
    return float(100.0 * low), float(100.0 * high)


def _p_value(matrix: np.ndarray, m: int, permutations: int, seed: int) -> float:
    """p-value from the kernel between files ``[M + N, M + N]``, its diagonal 0.

    z ∈ {0,1} marks the reference's side and S = ΣK; all three sums follow from q = zᵀKz and
    r = zᵀK1: within x is q, across is r − q, within y is S − 2r + q. A draw costs one product, and
    many draws are one matrix product. σ stays that of the actual reference, so the ruler does not
    change from draw to draw.
    """
    count = len(matrix)
    row_sums = matrix.sum(axis=1)
    rng = np.random.default_rng(seed)
    actual = np.zeros((1, count))
    actual[0, :m] = 1.0
    observed = float(_from_sums(actual, matrix, row_sums)[0])
    exceeded = done = 0
    while done < permutations:
        batch = min(256, permutations - done)
        sides = rng.permuted(np.repeat(actual, batch, axis=0), axis=1)
        drawn = _from_sums(sides, matrix, row_sums)
        # A draw that repeats the actual split must count in spite of rounding.
        exceeded += int(np.count_nonzero(drawn >= observed - 1e-11))
        done += batch
    return (1 + exceeded) / (1 + permutations)


def _from_sums(sides: np.ndarray, matrix: np.ndarray, row_sums: np.ndarray) -> np.ndarray:
    """MMD² ``[B]`` of each labelling in ``sides`` ``[B, G]``."""
    within_x = np.einsum("bg,bg->b", sides @ matrix, sides)
    touching = sides @ row_sums
    m = sides.sum(axis=1)
    n = len(matrix) - m
    within_y = row_sums.sum() - 2.0 * touching + within_x
    across = (touching - within_x) / (m * n)
    return within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2.0 * across


def _warnings(m: int, n: int, permutations: int) -> tuple[str, ...]:
    out = []
    if min(m, n) < 50:
        out.append(
            f"KAD is unbiased but coarse with few clips: {min(m, n)} of them; "
            "below about 50 only large differences show"
        )
    if permutations and comb(m + n, m) < 100:
        out.append(
            f"{m} reference and {n} candidate files can change sides in too few ways "
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
    reference_groups: Sequence[Hashable] | None = None,
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
        groups: with pairs, an id of each pair (row of ``base``): pairs of one id are the windows of
            one clip, are averaged as in :func:`compute`, and change places together.
        reference_groups: file ids of the reference's rows, so that files count alike however long.

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
    share = np.full(len(x), 1.0 / len(x))
    if reference_groups is not None:
        codes = file_codes(reference_groups, len(x), "kad, reference")
        sizes = np.bincount(codes)
        share = 1.0 / (len(sizes) * sizes[codes])
    kernel = gaussian(y, y, sigma)
    near = np.concatenate(
        [gaussian(y[s : s + CHUNK], x, sigma) @ share for s in range(0, rows, CHUNK)]
    )
    if groups is not None:
        codes = file_codes(groups, n, "kad, pairs")
        n, sizes = int(codes.max()) + 1, np.bincount(codes)
        rows = 2 * n
        if n < 2:
            raise UserError("kad: all pairs are of one clip", "two clips are the least")
        mean = np.zeros((rows, len(y)))
        places = np.concatenate([codes, codes + n])
        mean[places, np.arange(len(y))] = 1.0 / np.tile(sizes, 2)[places]
        kernel, near = mean @ kernel @ mean.T, mean @ near
    np.fill_diagonal(kernel, 0.0)
    row_sums = kernel.sum(axis=1)
    sides = np.repeat((np.arange(rows) < n).astype(np.float64)[None], permutations + 1, axis=0)
    rng = np.random.default_rng(seed)
    if paired:
        flip = rng.random((permutations, n)) < 0.5
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
