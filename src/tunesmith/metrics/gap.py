"""Gap closed: how far adapting went from the base to what real recordings sound like.

KAD (:mod:`tunesmith.metrics.kad`) says how far two crowds of clips are apart, in units that mean
nothing by themselves. Here it becomes a share: 0 is the base, 1 is real recordings as the base's own
codec renders them, which is the best that any adapter of it could do.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tunesmith.errors import UserError
from tunesmith.metrics._distances import gaussian, median_distance
from tunesmith.metrics._result import embeddings

SPEC = {
    "name": "gap",
    "summary": "Gap closed: share of the way from the base to real clips through its codec, by KAD",
    "better": "higher",
    "needs": ["reference", "ceiling", "base", "adapted"],
}

CLEAR = 2.0
"""Standard errors that the gap must be wide before a share of it is given."""

_LARGEST = 4_000
"""Takes of all models together above which the test is refused: their matrix would pass 128 MB."""

_BLOCK = 16_000_000
"""Pairs of windows in one block of the kernel: 128 MB."""

_Number = TypeVar("_Number", float, np.ndarray)

Clips = Sequence[np.ndarray]
"""One array ``[W, D]`` a clip: the embeddings of its windows."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What :func:`compute` found. KADs are 100·MMD², as :mod:`tunesmith.metrics.kad` has them.

    Attributes:
        base: KAD of the base's takes to the reference.
        ceiling: KAD of real clips through the codec.
        adapted: KAD of each training's takes.
        width: base − ceiling: what there is to close.
        width_error: its standard error.
        closed: share closed by each training: 0 none, 1 all, negative is away from the recordings.
            Each is None where ``width`` is below :data:`CLEAR` standard errors: a share of chance
            would be no number.
        errors: standard errors of ``closed``; None likewise.
        p_value: of the mean drop in KAD over the trainings, two-sided.
        n_reference: held-out clips.
        n_takes: takes of each model.
        bandwidth: σ of the kernel.
        warnings: what a reader must know before trusting the numbers, one sentence each.
    """

    base: float
    ceiling: float
    adapted: tuple[float, ...]
    width: float
    width_error: float
    closed: tuple[float | None, ...]
    errors: tuple[float | None, ...]
    p_value: float
    n_reference: int
    n_takes: int
    bandwidth: float
    warnings: tuple[str, ...] = ()

    @property
    def median(self) -> float | None:
        """Median of ``closed``; None where there was no clear gap."""
        known = [share for share in self.closed if share is not None]
        return statistics.median(known) if known else None

    @property
    def drop(self) -> float:
        """Mean drop in KAD over the trainings, which ``p_value`` is of."""
        return self.base - statistics.fmean(self.adapted)


def share(base: _Number, adapted: _Number, ceiling: _Number) -> _Number:
    """(base − adapted) / (base − ceiling), of distances to one reference by one ruler."""
    return (base - adapted) / (base - ceiling)


def compute(
    reference: Clips,
    ceiling: Clips,
    base: Clips,
    adapted: Sequence[Clips],
    *,
    seed: int = 0,
    permutations: int = 1000,
    bandwidth: float | None = None,
) -> Gap:
    """Measure the base, each training's takes and the codec's own rendering by one ruler.

    **Clips, not windows, are counted.** Windows of one clip are alike, and taken for independent
    they pull every distance up. So the kernel of two clips is the mean over their windows (a kernel
    between clips again: Gärtner et al. 2002, "Multi-Instance Kernels"), and KAD is taken over it.

    **The ceiling is not the reference.** A clip against its own rendering would be far too near. Only
    pairs of *different* clips count: the estimate of Gretton et al. 2012, eq. 4, whose pairs
    (xᵢ, yᵢ) must be independent of each other but not xᵢ of yᵢ. Unbiased, and it uses every clip
    where halves (one raw, one through the codec) would use a part of the pairs.

    **One test for all trainings.** They share the base's takes, so their own p-values depend on each
    other and must not be combined as if they did not. Take i of the base and take i of each training
    come from one prompt and seed; if adapting did nothing, which of them is the base's is anyone's
    guess. Hence: shuffle within each i, and compare the *mean* drop over the trainings with what
    that gives. Exact at any size (Pesarin & Salmaso 2010, ch. 1.9; Phipson & Smyth 2010 for the +1).

    Standard errors are jackknifed over clips and over takes (Arvesen 1969, "Jackknifing
    U-statistics", both samples). They say how far other clips and takes would have moved a figure; how
    far another training moves it is the spread of ``closed``.

    Args:
        reference: M ≥ 3 held-out recordings as they are.
        ceiling: the same, in the same order, encoded and decoded by the base's codec.
        base: N ≥ 3 takes of the base.
        adapted: for each training, N takes of the same prompts and seeds.
        seed: of the relabellings.
        permutations: relabellings, at least 1.
        bandwidth: σ of the kernel, in units of the embedding; None takes the median distance
            between the reference's windows, which no candidate has a part in.

    Raises:
        UserError: too few clips, unequal numbers, NaN, different widths, a reference whose windows
            are all alike, or more takes than fit in memory.
    """
    count = 1 + len(adapted)
    models = [base, *adapted]
    m, n = len(reference), len(base)
    if not adapted or len(ceiling) != m or any(len(takes) != n for takes in models):
        raise UserError(
            f"gap: {m} reference and {len(ceiling)} ceiling clips, "
            f"{', '.join(str(len(takes)) for takes in models)} takes",
            "give every recording through the codec, and every model the same prompts and seeds",
        )
    if min(m, n) < 3 or permutations < 1 or count * n > _LARGEST:
        raise UserError(
            f"gap: cannot compare {count} x {n} takes with {m} clips in {permutations} relabellings",
            f"give 3 or more of each, at most {_LARGEST} takes in all, and a relabelling or more",
        )
    sets = [_rows(reference, "reference"), _rows(ceiling, "ceiling")]
    sets += [_rows(takes, "takes") for takes in models]
    if len(widths := {rows.shape[1] for rows, _ in sets}) > 1:
        raise UserError(
            f"gap: embeddings are {', '.join(map(str, sorted(widths)))} wide", "embed all alike"
        )
    # Distances come from ‖x‖²+‖y‖²−2xy, which cancels badly far from the origin: centre first.
    centre = sets[0][0].mean(axis=0)
    sets = [(rows - centre, starts) for rows, starts in sets]
    sigma = median_distance(sets[0][0]) if bandwidth is None else float(bandwidth)
    if not (np.isfinite(sigma) and sigma > 0):
        raise UserError(
            f"gap: the kernel's bandwidth is {sigma:g}", "the held-out clips must differ"
        )
    real, rendered, takes = sets[0], sets[1], sets[2:]
    across = np.stack([_between(real, one, sigma) for one in takes])  # [G, M, N]
    among = np.block([[_between(a, b, sigma) for b in takes] for a in takes])  # [G·N, G·N]
    within = [among[g * n : (g + 1) * n, g * n : (g + 1) * n] for g in range(count)]

    same = _left_out(_between(real, real, sigma))
    codec = [_left_out(_between(a, rendered, sigma)) for a in (rendered, real)]
    own = [_left_out(matrix) for matrix in within]
    whole = np.array(
        [same[0] + codec[0][0] - 2 * codec[1][0]]
        + [same[0] + own[g][0] - 2 * across[g].mean() for g in range(count)]
    )
    # The same figures without one recording [M, 1 + G], and without one take of each model [N, 1 + G].
    no_clip = np.stack(
        [same[1] + codec[0][1] - 2 * codec[1][1]]
        + [same[1] + own[g][0] - 2 * _mean_without(across[g], 0) for g in range(count)],
        axis=1,
    )
    no_take = np.stack(
        [np.full(n, whole[0])]
        + [same[0] + own[g][1] - 2 * _mean_without(across[g], 1) for g in range(count)],
        axis=1,
    )
    whole, no_clip, no_take = 100 * whole, 100 * no_clip, 100 * no_take
    width = float(whole[1] - whole[0])
    width_error = _jackknife(no_clip[:, 1] - no_clip[:, 0], no_take[:, 1] - no_take[:, 0])
    clear = width > CLEAR * width_error
    near = across.mean(axis=1).ravel()
    return Gap(
        base=float(whole[1]),
        ceiling=float(whole[0]),
        adapted=tuple(whole[2:].tolist()),
        width=width,
        width_error=width_error,
        closed=tuple(
            float(share(whole[1], whole[g], whole[0])) if clear else None
            for g in range(2, count + 1)
        ),
        errors=tuple(
            _jackknife(*(share(k[:, 1], k[:, g], k[:, 0]) for k in (no_clip, no_take)))
            if clear
            else None
            for g in range(2, count + 1)
        ),
        p_value=_p_value(among, near, count, permutations, seed),
        n_reference=m,
        n_takes=n,
        bandwidth=sigma,
        warnings=_warnings(m, n, clear, width, width_error),
    )


def paired_p_value(
    reference: Clips, one: Clips, other: Clips, *, seed: int = 0, permutations: int = 1000
) -> float:
    """Whether two models' KADs to the same recordings differ by more than chance; two-sided.

    Take i of both is of one prompt and seed. If they were equally near, which take is whose would be
    anyone's guess: the test of :func:`compute` with one model in the base's place.

    Args:
        reference: M ≥ 2 held-out recordings.
        one, other: N ≥ 3 takes of each model.
        seed: of the relabellings.
        permutations: relabellings, at least 1.

    Raises:
        UserError: too few clips, unequal numbers, NaN, different widths, or a reference whose windows
            are all alike.
    """
    n = len(one)
    if len(other) != n or n < 3 or len(reference) < 2 or permutations < 1 or 2 * n > _LARGEST:
        raise UserError(
            f"gap: cannot compare {n} and {len(other)} takes with {len(reference)} clips",
            "give both models the same prompts and seeds, 3 or more",
        )
    real, *takes = (_rows(clips, "clips") for clips in (reference, one, other))
    centre = real[0].mean(axis=0)
    real, *takes = ((rows - centre, starts) for rows, starts in (real, *takes))
    sigma = median_distance(real[0])
    if not (np.isfinite(sigma) and sigma > 0):
        raise UserError(
            f"gap: the kernel's bandwidth is {sigma:g}", "the held-out clips must differ"
        )
    near = np.concatenate([_between(real, rows, sigma).mean(axis=0) for rows in takes])
    among = np.block([[_between(a, b, sigma) for b in takes] for a in takes])
    return _p_value(among, near, 2, permutations, seed)


def _rows(clips: Clips, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All windows ``[R, D]``, and where each clip begins ``[N]``."""
    parts = [embeddings(clip, name, at_least=1) for clip in clips]
    if len({part.shape[1] for part in parts}) > 1:
        raise UserError(f"gap: {name} embeddings of several widths", "embed all alike")
    lengths = [len(part) for part in parts]
    return np.concatenate(parts), np.cumsum([0, *lengths[:-1]])


def _between(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], sigma: float
) -> np.ndarray:
    """Kernel between clips ``[N, M]``: the mean over their windows."""
    lengths = [np.diff([*starts, len(rows)]) for rows, starts in (a, b)]
    sums = np.empty((len(a[1]), len(b[1])))
    ends, first = np.append(a[1][1:], len(a[0])), 0
    while first < len(sums):  # some clips at a time: all windows by all windows may be gigabytes
        last = int(np.searchsorted(ends, a[1][first] + max(1, _BLOCK // len(b[0])), side="right"))
        last = max(first + 1, last)
        block = gaussian(a[0][a[1][first] : ends[last - 1]], b[0], sigma)
        block = np.add.reduceat(block, b[1], axis=1)
        sums[first:last] = np.add.reduceat(block, a[1][first:last] - a[1][first], axis=0)
        first = last
    return sums / np.outer(*lengths)


def _left_out(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean off the diagonal of ``[N, N]``, and the same without each clip in turn ``[N]``."""
    off = matrix - np.diag(np.diag(matrix))
    n, total = len(off), off.sum()
    without = (total - off.sum(axis=0) - off.sum(axis=1)) / ((n - 1) * (n - 2))
    return float(total / (n * (n - 1))), without


def _mean_without(matrix: np.ndarray, axis: int) -> np.ndarray:
    """Mean of a matrix without each of its rows (axis 0) or columns (axis 1) in turn."""
    other = matrix.sum(axis=1 - axis)
    return (other.sum() - other) / (matrix.size - matrix.shape[1 - axis])


def _jackknife(*samples: np.ndarray) -> float:
    """Standard error from the values without each unit in turn; independent samples add up."""
    parts = [(len(x) - 1) / len(x) * float(((x - x.mean()) ** 2).sum()) for x in samples]
    return float(np.sqrt(sum(parts)))


def _p_value(
    among: np.ndarray, near: np.ndarray, count: int, permutations: int, seed: int
) -> float:
    """Two-sided p-value of the mean drop. The reference's own term cancels, the ceiling has no part.

    Args:
        among: kernel between all takes ``[G·N, G·N]``, the base's first.
        near: mean kernel of each take to the reference ``[G·N]``.
        count: models G.
        permutations: relabellings.
        seed: of them.
    """
    off = among - np.diag(np.diag(among))
    n = len(among) // count
    rng = np.random.default_rng(seed)

    def drops(roles: np.ndarray) -> np.ndarray:
        """Mean drops ``[B]`` where take i of model g plays the part ``roles[:, g, i]``."""
        distances = []
        for part in range(count):
            sides = (roles == part).reshape(len(roles), -1).astype(np.float64)
            inner = np.einsum("bi,bi->b", sides @ off, sides) / (n * (n - 1))
            distances.append(inner - 2.0 * (sides @ near) / n)
        return distances[0] - np.mean(distances[1:], axis=0)

    actual = np.repeat(np.arange(count)[None, :, None], n, axis=2)
    observed = abs(float(drops(actual)[0]))
    exceeded = done = 0
    while done < permutations:
        batch = min(128, permutations - done)
        drawn = np.abs(drops(rng.permuted(np.repeat(actual, batch, axis=0), axis=1)))
        # A draw that repeats the actual labels must count in spite of rounding.
        exceeded += int(np.count_nonzero(drawn >= observed - 1e-12))
        done += batch
    return (1 + exceeded) / (1 + permutations)


def _warnings(m: int, n: int, clear: bool, width: float, error: float) -> tuple[str, ...]:
    out = []
    if not clear:
        out.append(
            f"the base is already about as near as real clips through the codec (a gap of {width:.2f}, "
            f"give or take {error:.2f}): no share of it can be given"
        )
    if min(m, n) < 50:
        out.append(f"{m} held-out clips and {n} takes are few: only large differences show")
    return tuple(out)
