"""Metrics against truths that are known: closed forms, other packages, simulated intervals.

    python -m bench.metrics [--packages FOLDER] [--quick]

The functions of `fadtk` and `frechet_audio_distance` are read from their wheels, which are fetched
with `pip download --no-deps` (or taken from FOLDER) and not installed: their dependencies would
replace ours. Without wheels the published formulas stand in, written anew below.
"""

from __future__ import annotations

import os

# Read by numpy when it is loaded: one core, but for the one row that is timed in a process of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import ast
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import scimath
from scipy import linalg
from scipy.stats import binom, norm

from bench._results import Row, parser, record
from tunesmith.metrics import _intervals, coverage, fad, kad
from tunesmith.metrics._distances import median_distance

RNG = np.random.default_rng
SOURCES = {
    "fadtk": ("fadtk/fad.py", "calc_frechet_distance"),
    "frechet_audio_distance": ("frechet_audio_distance/fad.py", "calculate_frechet_distance"),
}
Frechet = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]
EPS = 1e-6  # what both packages add to the diagonals where the root is not finite


@dataclass(frozen=True, slots=True)
class Theirs:
    """Another package's distance of two Gaussians; ``label`` says whether it is its own code."""

    label: str
    distance: Frechet

    def __call__(self, x: np.ndarray, y: np.ndarray) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sides = [(z.mean(axis=0), np.cov(z, rowvar=False)) for z in (x, y)]
            return float(self.distance(*sides[0], *sides[1]))


def by_sqrtm(m1: np.ndarray, c1: np.ndarray, m2: np.ndarray, c2: np.ndarray) -> float:
    """The formula of frechet_audio_distance: complex Schur root of the product, real part."""
    root = linalg.sqrtm((c1 @ c2).astype(complex))
    if not np.isfinite(root).all():
        more = EPS * np.eye(len(c1))
        root = linalg.sqrtm(((c1 + more) @ (c2 + more)).astype(complex))
    return float(np.sum((m1 - m2) ** 2) + np.trace(c1) + np.trace(c2) - 2 * np.trace(root).real)


def by_eig(m1: np.ndarray, c1: np.ndarray, m2: np.ndarray, c2: np.ndarray) -> float:
    """The formula of fadtk: V·√D·V⁻¹ of the product, with a Schur root beside it as a check."""
    product = c1 @ c2
    linalg.sqrtm(product)
    values, vectors = np.linalg.eig(product)
    root = (vectors * np.sqrt(values.astype(complex))) @ linalg.inv(vectors)
    return float(np.sum((m1 - m2) ** 2) + np.trace(c1) + np.trace(c2) - 2 * np.trace(root).real)


def packages(folder: Path | None) -> list[Theirs]:
    """Their own functions where a wheel is at hand, their formulas where none is."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        for name, (member, function) in SOURCES.items():
            if folder is None:
                command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", name]
                subprocess.run([*command, "-d", str(place)], check=False, capture_output=True)
            wheel = next(iter(sorted(place.glob(f"{name}-*.whl"))), None)
            if wheel is None:
                formula = by_eig if name == "fadtk" else by_sqrtm
                found.append(Theirs(f"the formula of {name}", formula))
                continue
            with zipfile.ZipFile(wheel) as archive:
                source = archive.read(member).decode()
            version = wheel.name.split("-")[1]
            found.append(Theirs(f"{name} {version}'s own function", own(source, function)))
    return found


def own(source: str, name: str) -> Frechet:
    """One function out of a module whose imports are not installed."""
    nodes = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    scope: dict[str, Any] = {
        "np": np, "linalg": linalg, "scisqrt": scimath.sqrt, "log": logging.getLogger(name)
    }  # fmt: skip
    exec(compile(ast.Module([nodes[0]], []), name, "exec"), scope)
    made = scope[name]
    return (lambda *four: made(None, *four)) if nodes[0].args.args[0].arg == "self" else made


def exactly(covariance: np.ndarray, mean: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """``[rows, D]`` whose unbiased covariance and mean are the given ones to rounding."""
    raw = RNG(seed).normal(size=(rows, len(covariance)))
    raw -= raw.mean(axis=0)
    white = np.linalg.qr(raw)[0] * np.sqrt(rows - 1)
    return white @ np.linalg.cholesky(covariance).T + mean


def off(value: float, truth: float) -> float:
    return abs(value - truth) / abs(truth)


def closed_forms() -> list[Row]:
    d, rows, eye = 64, 4000, np.eye(64)
    rng = RNG(0)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    a, b, shift = rng.uniform(0.1, 5, d), rng.uniform(0.1, 5, d), rng.normal(size=d)
    x = exactly((basis * a) @ basis.T, np.zeros(d), rows, 1)
    y = exactly((basis * b) @ basis.T, shift, rows, 2)
    commuting = off(fad.compute(x, y).value, float(shift @ shift + np.sum((a**0.5 - b**0.5) ** 2)))
    half = rng.normal(size=(d, d))
    t = half @ half.T / d + 0.3 * eye
    c1 = (basis * a) @ basis.T
    y = exactly(t @ c1 @ t, np.zeros(d), rows, 3)
    turned = off(fad.compute(x, y).value, float(np.trace(c1 @ (eye - t) @ (eye - t))))
    moved = off(fad.compute(x, x + shift).value, float(shift @ shift))
    narrow = rng.normal(size=(50, 256))
    same = [abs(fad.compute(z, z).value) for z in (x, narrow, narrow @ rng.normal(size=(256, 400)))]
    moved_narrow = off(fad.compute(narrow, narrow + 0.5).value, 0.25 * 256)
    x, y = rng.normal(size=(120, 12)), rng.normal(size=(90, 12)) * 1.3 + 0.2
    loop = off(kad.compute(x, y, bandwidth=4.0).value, by_loop(x, y, 4.0))
    far = off(kad.compute(x + 100, y + 100, bandwidth=4.0).value, by_loop(x, y, 4.0))
    m, n, k = 60, 80, 5
    drawn = [coverage.compute(rng.normal(size=(m, 4)), rng.normal(size=(n, 4))).value
             for _ in range(400)]  # fmt: skip
    gap = float(np.mean(drawn)) - coverage.expected(m, n, k)
    error = float(np.std(drawn)) / len(drawn) ** 0.5
    what = "FAD against its closed form, n = 4,000, d = 64: "
    return [
        *(
            Row(what + name, "relative error <= 1e-9", f"{value:.1e}", value <= 1e-9)
            for name, value in (
                ("commuting covariances", commuting),
                ("C2 = T C1 T", turned),
                ("a shift", moved),
            )
        ),
        Row("FAD of a shift, n = 50 < d = 256", "relative error <= 1e-9",
            f"{moved_narrow:.1e}", moved_narrow <= 1e-9),
        Row("FAD of a set and itself: n = 4,000 > d = 64, and n = 50 < d = 256 and 400", "<= 1e-9",
            ", ".join(f"{value:.1e}" for value in same), max(same) <= 1e-9),
        Row("KAD against a double loop in 80 bits, also 100 units off the origin",
            "relative error <= 1e-9", f"{loop:.1e}, {far:.1e}", max(loop, far) <= 1e-9),
        Row("coverage of equal sets (M = 60, N = 80, k = 5) against its expectation, 400 draws",
            "within 3 standard errors", f"{gap:+.4f} ({abs(gap) / error:.1f} standard errors)",
            abs(gap) <= 3 * error),
    ]  # fmt: skip


def by_loop(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    """100·MMD², unbiased, pair by pair in extended precision."""
    wide_x, wide_y = x.astype(np.longdouble), y.astype(np.longdouble)

    def total(a: np.ndarray, b: np.ndarray, *, same: bool) -> np.longdouble:
        out = np.longdouble(0)
        for i, row in enumerate(a):
            for j, other in enumerate(b):
                if not (same and i == j):
                    out += np.exp(-np.sum((row - other) ** 2) / (2 * np.longdouble(sigma) ** 2))
        return out

    m, n = len(x), len(y)
    within = total(wide_x, wide_x, same=True) / (m * (m - 1))
    within += total(wide_y, wide_y, same=True) / (n * (n - 1))
    return float(100 * (within - 2 * total(wide_x, wide_y, same=False) / (m * n)))


def equal_rows(theirs: list[Theirs]) -> list[Row]:
    rows = []
    for name, other, formula in zip(SOURCES, theirs, (by_eig, by_sqrtm), strict=True):
        worst = 0.0
        for seed, (d, n) in enumerate(((16, 200), (64, 500), (128, 1000))):
            rng = RNG(seed)
            x = rng.normal(size=(n, d)) * np.linspace(0.3, 2, d)
            y = rng.normal(size=(n + 50, d)) @ rng.normal(size=(d, d)) / d**0.5 + 0.3
            ours = fad.compute(x, y).value
            for distance in (other, Theirs("", formula)):
                worst = max(worst, off(ours, distance(x, y)))
        rows.append(Row(
            f"same embeddings, n > d (d = 16, 64, 128): FAD against {name}",
            "equal to 1e-6", f"{worst:.1e} ({other.label}, and the formula written anew)",
            worst <= 1e-6,
        ))  # fmt: skip
    x = RNG(9).normal(size=(50, 128))
    told = ", ".join(f"{one.label} {one(x, x):.1e}" for one in theirs)
    rows.append(Row("beside it: a set and itself, n = 50 < d = 128", "",
                    f"ours {fad.compute(x, x).value:.1e}; {told}"))  # fmt: skip
    return rows


def difference_rows(cases: int) -> list[Row]:
    d, n = 32, 1000
    x = exactly(np.eye(d), np.zeros(d), 4000, 1)
    ours, with_it, plain = [], [], []
    for seed in range(cases):
        rng = RNG(100 + seed)
        y = rng.normal(size=(n, d))
        plain.append(fad.distance(x, y))
        ours.append(fad.fad_inf(x, y, seed=seed).value)
        sizes = np.linspace(500, n, 25).astype(int)  # fadtk's steps
        points = [fad.distance(x, y[rng.integers(0, n, size)]) for size in sizes]
        with_it.append(float(np.polyfit(1 / sizes, points, 1)[1]))
    mean = [float(np.mean(values)) for values in (ours, with_it, plain)]
    sd = [float(np.std(values)) for values in (ours, with_it)]
    d, shift, wide = 16, 0.85, 6.0
    rng = RNG(3)
    real = rng.normal(size=(400, d))
    near, far = rng.normal(size=(400, d)) + shift, wide * rng.normal(size=(400, d))
    by_ref = [kad.compute(real, z, permutations=0).value for z in (near, far)]
    by_eval = [
        kad.compute(real, z, permutations=0, bandwidth=median_distance(z)).value
        for z in (near, far)
    ]
    truth = [d * shift**2, d * (wide - 1) ** 2]
    right = by_ref[0] < by_ref[1]
    flips = by_eval[0] > by_eval[1]
    return [
        Row(f"on purpose: FAD∞ draws without replacement. Truth 0, d = 32, N = 1,000, "
            f"{cases} sets", "mean nearer to 0 than with replacement (fadtk)",
            f"ours {mean[0]:+.3f} (sd {sd[0]:.3f}); with replacement {mean[1]:+.3f} "
            f"(sd {sd[1]:.3f}); plain FAD {mean[2]:+.3f}", abs(mean[0]) < abs(mean[1]) / 3),
        Row("on purpose: KAD's bandwidth is the reference's. A moved set (true FAD "
            f"{truth[0]:.0f}) against one six times too wide (true FAD {truth[1]:.0f})",
            "the moved set is nearer",
            f"ours {by_ref[0]:.1f} < {by_ref[1]:.1f}; with each evaluation set's own bandwidth "
            f"(kadtk) {by_eval[0]:.1f} and {by_eval[1]:.1f}"
            f"{': the ranking flips' if flips else ''}", right),
    ]  # fmt: skip


def times(theirs: list[Theirs], clock: Callable[[], float], *, quick: bool) -> dict[str, list]:
    """Seconds of each call, ours before and after each of theirs; the first of all is warm-up.

    Three calls of ours in a row, two of theirs: caches are as warm for one as for the other.
    """
    d, n = (128, 600) if quick else (1024, 5000)
    rng = RNG(0)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, d)) + 0.1
    taken: dict[str, list[float]] = {"ours": []} | {one.label: [] for one in theirs}

    def timed(label: str, run: Callable[[np.ndarray, np.ndarray], float]) -> None:
        start = clock()
        run(x, y)
        taken[label].append(clock() - start)

    fad.distance(x, y)
    for one in theirs:
        for label, run, repeats in (
            ("ours", fad.distance, 3),
            (one.label, one, 2),
            ("ours", fad.distance, 3),
        ):
            for _ in range(repeats):
                timed(label, run)
    return taken


def speed_rows(theirs: list[Theirs], args: argparse.Namespace) -> list[Row]:
    command = [sys.executable, "-m", "bench.metrics", "--times"]
    command += ["--quick"] if args.quick else []
    command += ["--packages", str(args.packages)] if args.packages else []
    cores = str(len(os.sched_getaffinity(0)))
    child = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": cores}, capture_output=True, check=True
    )
    clocks = {
        "all cores": json.loads(child.stdout.splitlines()[-1]),
        "one core": times(theirs, time.process_time, quick=args.quick),
    }
    what = "FAD at d = 1,024, n = 5,000 from the same embeddings"
    rows = []
    for name, taken in clocks.items():
        ours = statistics.median(taken.pop("ours"))
        ratios = {label: statistics.median(some) / ours for label, some in taken.items()}
        told = "; ".join(
            f"{label} {statistics.median(taken[label]):.2f} s, {ratio:.1f}x"
            for label, ratio in ratios.items()
        )
        bar = name == "all cores"
        rows.append(Row(
            f"{what}, {name}" if bar else f"beside it: the same, {name}, processor time",
            ">= 10x faster than both" if bar else "", f"{ours:.2f} s; {told}",
            min(ratios.values()) >= 10 if bar else None,
        ))  # fmt: skip
    return rows


def mmd(d: int, shift: float, scale: float, sigma: float) -> float:
    """100·MMD² of N(0, I) and N(shift·1, scale²·I) under a Gaussian kernel."""

    def mean(v: float, gap: float = 0.0) -> float:
        return (sigma**2 / (sigma**2 + v)) ** (d / 2) * float(np.exp(-gap / (2 * (sigma**2 + v))))

    return 100 * (mean(2) + mean(2 * scale**2) - 2 * mean(1 + scale**2, d * shift**2))


def kad_case(
    rng: np.random.Generator, d: int, n: int, shift: float, *, windows: int = 1, own: bool = False
) -> bool:
    """Whether one interval holds the truth. Windows of a file share 60 % of their variance."""
    sides, share = [], 0.6 if windows > 1 else 0.0
    for moved in (0.0, shift):
        rows = share**0.5 * rng.normal(size=(n, 1, d))
        rows = rows + (1 - share) ** 0.5 * rng.normal(size=(n, windows, d)) + moved
        sides.append(rows.reshape(-1, d))
    ids = np.repeat(np.arange(n), windows).tolist()
    width = None if own else float((2 * d) ** 0.5)
    found = kad.compute(*sides, permutations=0, bandwidth=width, groups=(ids, ids))
    low, high = found.interval or (1, 0)
    return low <= mmd(d, shift, 1.0, found.details["bandwidth"]) <= high


def mos_case(
    rng: np.random.Generator, people: int, items: int, each: int, spreads: tuple[float, ...]
) -> bool:
    """Whole ratings 1 to 5 of a latent mean of 3.6; every listener hears ``each`` items."""
    listeners = np.repeat(np.arange(people), each)
    heard = np.concatenate([rng.permutation(items)[:each] for _ in range(people)])
    latent = 3.6 + spreads[0] * rng.normal(size=people)[listeners]
    latent += spreads[1] * rng.normal(size=items)[heard] + spreads[2] * rng.normal(size=len(heard))
    ratings = np.clip(np.round(latent), 1, 5)
    cuts = norm.cdf([-np.inf, 1.5, 2.5, 3.5, 4.5, np.inf], 3.6, float(np.linalg.norm(spreads)))
    truth = float(np.diff(cuts) @ np.arange(1, 6))
    low, high = _intervals.mos(ratings, listeners.tolist(), heard.tolist()).interval or (1, 0)
    return low <= truth <= high


def similarity_case(rng: np.random.Generator, files: int) -> bool:
    """Cosines of eight windows a file, skewed between files: their level is 1 − a beta draw."""
    level = 1 - rng.beta(3, 9, size=(files, 1))
    rows = level + 0.03 * rng.normal(size=(files, 8))
    ids = np.repeat(np.arange(files), 8).tolist()
    low, high = _intervals.mean_similarity(rows.ravel(), ids).interval or (1, 0)
    return low <= 0.75 <= high


def preference_case(rng: np.random.Generator, share: float, n: int) -> bool:
    low, high = _intervals.binomial(int(rng.binomial(n, share)), n)
    return low <= share <= high


def fad_case(rng: np.random.Generator, d: int, shift: float) -> bool:
    """n = 5·d, spread falling as 1/√j; the covariances are alike, so the truth is the shift."""
    spread = 1 / np.arange(1, d + 1) ** 0.5
    x, y = (rng.normal(size=(5 * d, d)) * spread for _ in range(2))
    found = fad.compute(x, y + shift, interval=True, seed=int(rng.integers(2**31)))
    low, high = found.interval or (1, 0)
    return low <= d * shift**2 <= high


def exact_coverage(share: float, n: int) -> float:
    """Chance that a Clopper–Pearson interval of n answers holds the share, summed and not drawn."""
    ends = np.array([_intervals.binomial(k, n) for k in range(n + 1)])
    holds = (ends[:, 0] <= share) & (share <= ends[:, 1])
    return float(binom.pmf(np.arange(n + 1), n, share)[holds].sum())


Case = Callable[[np.random.Generator], bool]


def coverage_rows(cases: int) -> list[Row]:
    designs: list[tuple[str, Case, bool]] = [
        ("KAD, d = 64, 100 clips a side, apart", lambda r: kad_case(r, 64, 100, 0.25), True),
        ("KAD, d = 64, 100 clips a side, no difference", lambda r: kad_case(r, 64, 100, 0.0), True),
        ("KAD, d = 8, 40 clips a side, hardly apart", lambda r: kad_case(r, 8, 40, 0.15), True),
        ("KAD, d = 2, 40 clips a side, no difference", lambda r: kad_case(r, 2, 40, 0.0), True),
        ("KAD, d = 32, 40 files of 6 windows, apart",
         lambda r: kad_case(r, 32, 40, 0.3, windows=6), True),
        ("KAD, bandwidth from the reference, d = 32, 80 clips, apart",
         lambda r: kad_case(r, 32, 80, 0.3, own=True), True),
        ("MOS, 20 listeners hear all of 24 items",
         lambda r: mos_case(r, 20, 24, 24, (0.5, 0.5, 0.7)), True),
        ("MOS, 16 listeners hear 12 of 40 items",
         lambda r: mos_case(r, 16, 40, 12, (0.6, 0.3, 0.8)), True),
        ("MOS, 8 listeners hear all of 10 items",
         lambda r: mos_case(r, 8, 10, 10, (0.5, 0.5, 0.7)), True),
        ("preference, 200 answers, truth 60 %", lambda r: preference_case(r, 0.6, 200), True),
        ("preference, 100 answers, truth 50 %", lambda r: preference_case(r, 0.5, 100), True),
        ("similarity, 20 files of 8 windows, skewed", lambda r: similarity_case(r, 20), True),
        ("FAD, n = 5·d, d = 16, apart", lambda r: fad_case(r, 16, 0.3), True),
        ("FAD, n = 5·d, d = 16, no difference (too wide there, as documented)",
         lambda r: fad_case(r, 16, 0.0), False),
    ]  # fmt: skip
    rows = []
    for number, (name, case, barred) in enumerate(designs):
        rng = RNG(1000 + number)
        held = sum(case(rng) for _ in range(cases)) / cases
        rows.append(Row(
            f"95 % interval holds the truth: {name}",
            f"92..98 % of {cases}" if barred else "", f"{held:.1%}",
            0.92 <= held <= 0.98 if barred else None,
        ))  # fmt: skip
    told = ", ".join(
        f"{exact_coverage(share, n):.1%} at {n} answers and {share:.0%}"
        for n, share in (
            (200, 0.5),
            (200, 0.6),
            (200, 0.8),
            (100, 0.5),
            (60, 0.5),
            (20, 0.5),
            (20, 0.9),
        )
    )
    rows.append(Row("beside it: preference, coverage summed over all outcomes", "", told))
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--packages", type=Path, help="folder with wheels of the other packages")
    options.add_argument("--times", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args()
    theirs = packages(args.packages)
    if args.times:
        print(json.dumps(times(theirs, time.perf_counter, quick=args.quick)))
        return
    rows = [
        *closed_forms(),
        *equal_rows(theirs),
        *difference_rows(3 if args.quick else 20),
        *speed_rows(theirs, args),
        *coverage_rows(20 if args.quick else 500),
    ]
    if args.quick:
        print(*rows, sep="\n")
        return
    record("metrics", "Metrics against known truths", rows, notes=(
        "Embeddings are drawn, so the truth is a formula. Times of all cores are by the clock, taken in "
        "turns in one process; where other work runs beside them both grow. The other packages' functions run under "
        "the versions of numpy and scipy named here."
    ), packages=("numpy", "scipy"))  # fmt: skip


if __name__ == "__main__":
    main()
