"""Fréchet audio distance: how far apart two sets of clips lie, each seen as a Gaussian.

Kilgour et al. 2019, "Fréchet Audio Distance", eq. 1; the closed form is that of Dowson and Landau
1982. The extrapolation to endless samples follows Chong and Forsyth 2020 and Gui et al. 2024; so does
the distance of single songs (Gui et al. 2024, "Adapting Fréchet Audio Distance for Generative Music
Evaluation").
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from tunesmith.errors import UserError
from tunesmith.metrics._frechet import covariance_of, cross_narrow, distance, root_of, trace_root
from tunesmith.metrics._result import Result, file_codes, pair

SPEC = {
    "name": "fad",
    "summary": "Fréchet audio distance: how far the sound as a whole lies from the reference",
    "better": "lower",
    "needs": ["reference", "candidate"],
}


Groups = tuple[Sequence[Hashable], Sequence[Hashable]]
"""File ids of the reference's rows and of the candidate's."""


def compute(
    reference: np.ndarray,
    candidate: np.ndarray,
    *,
    seed: int = 0,
    interval: bool = False,
    groups: Groups | None = None,
) -> Result:
    """Fréchet distance of two sets of embeddings, squared as is the custom.

    FAD = ‖μ₁−μ₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½), unbiased covariances, float64 throughout.

    Args:
        reference: ``[M, D]``, M ≥ 2.
        candidate: ``[N, D]``, N ≥ 2.
        seed: of the blocks behind the interval.
        interval: also give a 95 % interval, where both sets have at least 5·D rows and 30 files;
            it costs as much as about 20 distances.
        groups: file ids; rows of one file are left out together.

    Returns:
        The distance in squared units of the embedding. ``interval`` is one of the *true* distance:
        it stands around the value with its bias taken off (``details["debiased"]``) and mostly
        lies below the value itself. None where it was not asked for or would not be honest.

    Raises:
        UserError: wrong shapes, fewer than two rows, NaN or infinity.
    """
    x, y = pair(reference, candidate)
    between, details = None, {}
    if interval and min(len(x), len(y)) >= 5 * x.shape[1]:
        ids = groups or (range(len(x)), range(len(y)))
        codes = (
            file_codes(ids[0], len(x), "fad, reference"),
            file_codes(ids[1], len(y), "fad, candidate"),
        )
        if min(int(one.max()) + 1 for one in codes) >= 2 * _BLOCKS:
            middle, half = _jackknife(x, y, codes, seed)
            between, details = (middle - half, middle + half), {"debiased": middle}
    return Result(
        value=distance(x, y),
        interval=between,
        p_value=None,
        n_reference=len(x),
        n_candidate=len(y),
        dimension=x.shape[1],
        warnings=_warnings(len(x), len(y), x.shape[1]),
        details=details,
    )


_BLOCKS = 15
"""Blocks of files a side that the jackknife leaves out in turn."""


def _jackknife(
    x: np.ndarray, y: np.ndarray, codes: tuple[np.ndarray, np.ndarray], seed: int
) -> tuple[float, float]:
    """The distance without its bias, and half of its 95 % interval.

    Blocks of whole files are left out of either set in turn (grouped jackknife: Quenouille 1956 for
    the bias, Arvesen 1969 for two samples). The bias of FAD is b₁/M + b₂/N and smaller terms, which
    is what this removes; an ordinary bootstrap would add it a second time. Where the sets do not
    differ at all the half is about 1.4 times too wide: there the jackknife counts a variance twice.
    """
    rng = np.random.default_rng(seed)
    whole, bias, variances = distance(x, y), 0.0, []
    for one, other, code in ((x, y, codes[0]), (y, x, codes[1])):
        blocks = rng.permutation(int(code.max()) + 1) % _BLOCKS
        block_of = blocks[code]
        # The covariance of the other set does not change: its root is taken once.
        one, other = one - one.mean(axis=0), other - one.mean(axis=0)
        mean = other.mean(axis=0)
        covariance = covariance_of(other, mean)
        root = root_of(covariance)
        second, total = one.T @ one, one.sum(axis=0)
        values = []
        for block in range(_BLOCKS):
            out = one[block_of == block]
            n = len(one) - len(out)
            centre = (total - out.sum(axis=0)) / n
            left = (second - out.T @ out - n * np.outer(centre, centre)) / (n - 1)
            spread = float(np.trace(covariance) + np.trace(left))
            values.append(
                float(np.sum((mean - centre) ** 2)) + spread - 2.0 * trace_root(root, left)
            )
        drawn = np.array(values)
        bias += (_BLOCKS - 1) * float(drawn.mean() - whole)
        variances.append((_BLOCKS - 1) ** 2 / _BLOCKS * float(drawn.var(ddof=1)))
    total_variance = sum(variances)
    if not total_variance > 0:
        return whole - bias, 0.0
    freedom = total_variance**2 / sum(v * v / (_BLOCKS - 1) for v in variances)
    return whole - bias, float(student.ppf(0.975, freedom) * np.sqrt(total_variance))


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
        FAD∞; it may come out slightly negative. ``interval`` is None: the subsamples overlap, so the
        error of the fit (``details["fit_error"]``, one standard error) says how straight the line
        is, and not how far other clips would have moved it.

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
        interval=None,
        p_value=None,
        n_reference=len(x),
        n_candidate=n,
        dimension=dimension,
        warnings=warnings,
        details={"fit_error": error},
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


@dataclass(frozen=True, slots=True)
class Song:
    """The distance of one file.

    Attributes:
        file: its id.
        value: FAD of its windows to the whole reference.
        windows: how many it has.
        outlier: whether the value is above the cut.
    """

    file: Hashable
    value: float
    windows: int
    outlier: bool


@dataclass(frozen=True, slots=True)
class Outliers:
    """Files by their distance to the reference.

    Attributes:
        songs: all that could be measured, the farthest first.
        median: of their values.
        cut: the value above which a song is called unlike the reference.
        unmeasured: ids of files with a single window.
        warnings: what a reader must know before trusting the list.
    """

    songs: tuple[Song, ...]
    median: float
    cut: float
    unmeasured: tuple[Hashable, ...] = ()
    warnings: tuple[str, ...] = ()


def outliers(
    reference: np.ndarray,
    candidate: np.ndarray,
    groups: Sequence[Hashable],
    *,
    strictness: float = 3.5,
) -> Outliers:
    """Which songs are unlike the reference: FAD of each file's windows to the whole of it.

    A file has fewer windows than the embedding has numbers, so its covariance is singular and the
    textbook's root fails; the nuclear norm does not care (:func:`distance`). The reference is
    decomposed once. Cut: median + strictness · 1.4826 · MAD of the files' values (Iglewicz and
    Hoaglin 1993, whose 3.5 is the default). It compares songs with each other: if all are unlike the
    reference, none stands out. Look at the median for that.

    Args:
        reference: ``[M, D]``.
        candidate: ``[N, D]``, windows of all songs.
        groups: file id of every candidate row.
        strictness: how many robust standard deviations above the median are too many.

    Raises:
        UserError: wrong shapes, NaN, another number of ids than rows, or no file with two windows.
    """
    x, y = pair(reference, candidate)
    codes = file_codes(groups, len(y), "fad, candidate")
    names = list(dict.fromkeys(groups))
    counts = np.bincount(codes)
    if counts.max() < 2:
        raise UserError("fad: no song has two windows", "embed shorter windows of longer songs")
    mean = x.mean(axis=0)
    a = (x - mean) / np.sqrt(len(x) - 1)
    spread = float(np.sum(a * a))
    if len(a) > a.shape[1]:
        a = np.asarray(np.linalg.qr(a, mode="r"))
    values = {}
    for code in np.flatnonzero(counts >= 2):
        rows = y[codes == code]
        centre = rows.mean(axis=0)
        b = (rows - centre) / np.sqrt(len(rows) - 1)
        cross = cross_narrow(a, b)
        far = float(np.sum((mean - centre) ** 2))
        values[int(code)] = far + spread + float(np.sum(b * b)) - 2.0 * cross
    all_values = np.array(list(values.values()))
    median = float(np.median(all_values))
    cut = median + strictness * 1.4826 * float(np.median(np.abs(all_values - median)))
    # Values that are alike but for rounding have a MAD of nothing, and then no song stands out.
    cut += 1e-9 * (abs(median) + spread)
    songs = [Song(names[k], v, int(counts[k]), v > cut) for k, v in values.items()]
    warnings = ()
    used = counts[counts >= 2]
    if used.max() > 1.5 * used.min():
        warnings = (
            f"songs have {used.min()} to {used.max()} windows, and a song of few reads farther off "
            "than it is; cut them to one length before comparing",
        )
    return Outliers(
        songs=tuple(sorted(songs, key=lambda song: -song.value)),
        median=median,
        cut=cut,
        unmeasured=tuple(names[k] for k in np.flatnonzero(counts < 2)),
        warnings=warnings,
    )
