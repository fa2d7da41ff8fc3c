"""KAD against a naive double loop, and its test against what a test must do."""

from __future__ import annotations

from math import dist, exp

import numpy as np
import pytest
from scipy.stats import kstest
from scipy.stats import t as student

from tunesmith.errors import UserError
from tunesmith.metrics import kad
from tunesmith.metrics._distances import gaussian, median_distance


def naive(x: np.ndarray, y: np.ndarray) -> float:
    """100·MMD², unbiased, one pair at a time."""
    gaps = [dist(x[i], x[j]) for i in range(len(x)) for j in range(i)]
    sigma = float(np.median(gaps))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return exp(-(dist(a, b) ** 2) / (2 * sigma**2))

    def within(z: np.ndarray) -> float:
        n = len(z)
        return sum(k(z[i], z[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    across = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    return 100 * (within(x) + within(y) - 2 * across)


@pytest.mark.parametrize("permutations", [0, 5])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_equals_a_double_loop(permutations: int, offset: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(23, 5)) + offset
    y = rng.normal(size=(17, 5)) + offset + 0.5
    result = kad.compute(x, y, permutations=permutations)
    assert result.value == pytest.approx(naive(x, y), rel=1e-7)
    assert (result.p_value is None) == (permutations == 0)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(35, 4))
    whole = kad.compute(x, y, permutations=20)
    monkeypatch.setattr(kad, "CHUNK", 7)
    parts = kad.compute(x, y, permutations=20)
    assert parts.value == pytest.approx(whole.value, rel=1e-10)
    assert parts.p_value == whole.p_value


def test_never_clamped() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 30, 4))
    y = rng.normal(size=(300, 30, 4))
    values = np.array([kad.compute(a, b, permutations=0).value for a, b in zip(x, y, strict=True)])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert 0.4 < np.mean(values < 0) < 0.75  # skewed: the median lies below the mean of 0


def test_bandwidth_comes_from_the_reference() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)), 30 * rng.normal(size=(50, 6))
    sigma = median_distance(x)
    gaps = [dist(a, b) for i, a in enumerate(x) for b in x[:i]]
    assert sigma == pytest.approx(np.median(gaps), rel=1e-12)
    own = kad.compute(x, y, permutations=0)
    given = kad.compute(x, y, permutations=0, bandwidth=sigma)
    assert own.value == pytest.approx(given.value, rel=1e-12)
    assert own.value != pytest.approx(kad.compute(y, x, permutations=0).value, rel=0.1)


def test_median_of_many_rows_is_close_to_that_of_all() -> None:
    x = np.random.default_rng(0).normal(size=(900, 8))
    assert median_distance(x, most=300) == pytest.approx(median_distance(x), rel=0.03)


def test_p_value_is_uniform_without_a_difference() -> None:
    rng = np.random.default_rng(5)
    p = [
        kad.compute(
            rng.normal(size=(25, 3)), rng.normal(size=(20, 3)), permutations=199, seed=seed
        ).p_value
        for seed in range(200)
    ]
    assert kstest(p, "uniform").pvalue > 0.01


def test_p_value_is_small_under_a_shift() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 5)), rng.normal(size=(80, 5)) + 0.8
    assert kad.compute(x, y, permutations=500).p_value == pytest.approx(1 / 501)


def test_windows_of_one_file_change_sides_together() -> None:
    """Ten near-equal windows per file: blind to files, chance looks like a discovery."""
    rng = np.random.default_rng(0)
    blind, aware = [], []
    for seed in range(60):
        x = np.repeat(rng.normal(size=(8, 3)), 10, axis=0) + 0.05 * rng.normal(size=(80, 3))
        y = np.repeat(rng.normal(size=(8, 3)), 10, axis=0) + 0.05 * rng.normal(size=(80, 3))
        files = [i // 10 for i in range(80)]
        blind.append(kad.compute(x, y, permutations=99, seed=seed).p_value)
        aware.append(kad.compute(x, y, permutations=99, seed=seed, groups=(files, files)).p_value)
    assert np.mean(np.array(blind) <= 0.05) > 0.9
    assert np.mean(np.array(aware) <= 0.05) < 0.15
    assert kstest(aware, "uniform").pvalue > 0.01


def test_groups_of_one_row_change_nothing() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(15, 3))
    assert kad.compute(x, y, seed=1) == kad.compute(x, y, seed=1, groups=(range(20), range(15)))


def in_files(rows: np.ndarray, ids: list[int]) -> list[np.ndarray]:
    """Windows of each file, interleaved as they are."""
    return [rows[np.array(ids) == one] for one in dict.fromkeys(ids)]


@pytest.mark.parametrize("permutations", [0, 7])
@pytest.mark.parametrize("chunk", [3, 1024])
def test_files_count_and_not_windows(
    permutations: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uneven, interleaved files: the kernel of two files is the mean over their windows."""
    monkeypatch.setattr(kad, "CHUNK", chunk)
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(8, 3)) + 0.4
    ids = ([0, 1, 0, 2, 1, 0, 3, 3, 3], [5, 4, 5, 5, 6, 6, 0, 5])
    sides = [in_files(rows, one) for rows, one in zip((x, y), ids, strict=True)]

    def between(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[exp(-(dist(p, q) ** 2) / (2 * 1.3**2)) for q in b] for p in a]))

    def within(files: list[np.ndarray]) -> float:
        pairs = [(i, j) for i in range(len(files)) for j in range(len(files)) if i != j]
        return float(np.mean([between(files[i], files[j]) for i, j in pairs]))

    across = np.mean([between(a, b) for a in sides[0] for b in sides[1]])
    truth = 100 * (within(sides[0]) + within(sides[1]) - 2 * across)
    result = kad.compute(x, y, bandwidth=1.3, groups=ids, permutations=permutations)
    assert result.value == pytest.approx(truth, rel=1e-10)
    assert (result.details["files_reference"], result.details["files_candidate"]) == (4, 4)


def test_relabelled_sums_equal_plain_recomputation() -> None:
    rng = np.random.default_rng(4)
    pooled = rng.normal(size=(12, 3))
    kernel = gaussian(pooled, pooled, 1.3)
    np.fill_diagonal(kernel, 0.0)
    side = np.array([[1.0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0]])
    got = kad._from_sums(side, kernel, kernel.sum(1))[0]
    left = side[0] > 0
    plain = kad.compute(pooled[left], pooled[~left], bandwidth=1.3, permutations=0).value
    assert 100 * got == pytest.approx(plain, rel=1e-10)


def mmd(d: int, shift: float, scale: float, sigma: float) -> float:
    """100·MMD² of N(0, I) and N(shift·1, scale²·I), from E k = (σ²/(σ²+v))^{d/2}·exp(−δ²/2(σ²+v))."""

    def mean(v: float, gap: float = 0.0) -> float:
        return (sigma**2 / (sigma**2 + v)) ** (d / 2) * exp(-gap / (2 * (sigma**2 + v)))

    return 100 * (mean(2) + mean(2 * scale**2) - 2 * mean(1 + scale**2, d * shift**2))


def test_interval_by_brute_force() -> None:
    """Its three parts from definitions: deletion one by one, and centring one pair at a time."""
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=(6, 2)) + 1.2
    m, n, sigma = 7, 6, 1.5

    def value(a: np.ndarray, b: np.ndarray) -> float:
        return kad.compute(a, b, bandwidth=sigma, permutations=0).value / 100

    less_x = np.array([value(np.delete(x, i, 0), y) for i in range(m)])
    less_y = np.array([value(x, np.delete(y, i, 0)) for i in range(n)])
    jack_x = (m - 1) / m * np.sum((less_x - less_x.mean()) ** 2)
    jack_y = (n - 1) / n * np.sum((less_y - less_y.mean()) ** 2)
    kernels = [gaussian(a, b, sigma) for a, b in ((x, x), (y, y), (x, y))]

    def off(kernel: np.ndarray) -> float:
        k, out = kernel - np.diag(np.diag(kernel)), 0.0
        size, rows, total = len(k), k.sum(0), k.sum()
        for i in range(size):
            for j in range(size):
                if i != j:
                    u = k[i, j] - (rows[i] + rows[j]) / (size - 2)
                    out += (u + total / ((size - 1) * (size - 2))) ** 2
        return out / (size * (size - 3))

    cross = kernels[2] - kernels[2].mean(0) - kernels[2].mean(1)[:, None] + kernels[2].mean()
    null = 2 * off(kernels[0]) / (m * (m - 1)) + 2 * off(kernels[1]) / (n * (n - 1))
    null += 4 * np.sum(cross**2) / ((m - 1) * (n - 1)) / (m * n)
    biased = kernels[0].mean() + kernels[1].mean() - 2 * kernels[2].mean()
    jack = jack_x + jack_y
    quantile = student.ppf(0.975, jack**2 / (jack_x**2 / (m - 1) + jack_y**2 / (n - 1)))
    result = kad.compute(x, y, bandwidth=sigma, permutations=0)
    assert result.interval is not None
    for end in result.interval:
        spread = null + jack / biased * max(end / 100, 0.0)
        assert (result.value - end) ** 2 == pytest.approx(1e4 * quantile**2 * spread, rel=1e-8)
    assert result.interval[0] < result.value < result.interval[1]


@pytest.mark.parametrize(
    ("d", "n", "shift", "scale"),
    [(32, 40, 0.3, 1.0), (32, 40, 0.0, 1.0), (2, 40, 0.0, 1.0), (8, 40, 0.15, 1.0)],
)
def test_interval_covers_the_truth(d: int, n: int, shift: float, scale: float) -> None:
    """200 cases, of which 95 % ± 3.5 standard errors must hold it; where nothing differs as well."""
    rng = np.random.default_rng(11)
    sigma = float(np.sqrt(2 * d))
    truth, held = mmd(d, shift, scale, sigma), 0
    for _ in range(200):
        x, y = rng.normal(size=(n, d)), scale * rng.normal(size=(n, d)) + shift
        low, high = kad.compute(x, y, bandwidth=sigma, permutations=0).interval or (1, 0)
        held += low <= truth <= high
    assert 0.896 <= held / 200 <= 0.995


def test_windows_do_not_narrow_the_interval() -> None:
    """Copies of a clip's row add nothing, and must change neither value nor interval."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(15, 3)) + 0.5
    alone = kad.compute(x, y, bandwidth=2.0, permutations=0)
    copies = [np.repeat(rows, 6, axis=0) for rows in (x, y)]
    ids = [np.repeat(np.arange(len(rows)), 6).tolist() for rows in (x, y)]
    aware = kad.compute(*copies, bandwidth=2.0, permutations=0, groups=(ids[0], ids[1]))
    assert aware.value == pytest.approx(alone.value, rel=1e-9)
    assert aware.interval == pytest.approx(alone.interval, rel=1e-9)
    blind = kad.compute(*copies, bandwidth=2.0, permutations=0).interval
    assert blind is not None and alone.interval is not None
    assert blind[1] - blind[0] < 0.6 * (alone.interval[1] - alone.interval[0])


def test_no_interval_of_three_files() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(3, 3))
    assert kad.compute(x, y, permutations=0).interval is None
    same = kad.compute(x, np.ones((4, 3)), permutations=0, bandwidth=1.0)
    assert same.interval is not None and same.interval[0] < same.value < same.interval[1]


def test_interval_of_equal_points_has_no_width() -> None:
    """Nothing varies within either set: the distance is known."""
    x, y = np.zeros((6, 2)), np.ones((5, 2))
    result = kad.compute(x, y, permutations=0, bandwidth=1.0)
    assert result.value == pytest.approx(200 * (1 - exp(-1)))
    assert result.interval == pytest.approx((result.value, result.value))


def test_seeded() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 3)) + 0.2
    assert kad.compute(x, y, seed=1) == kad.compute(x, y, seed=1)


def test_mistakes_are_named() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(UserError, match="must differ"):
        kad.compute(np.ones((6, 2)), x)
    with pytest.raises(UserError, match="5 ids for 6"):
        kad.compute(x, x, groups=(range(6), range(5)))
    with pytest.raises(UserError, match="0 or more"):
        kad.compute(x, x, permutations=-1)


def test_one_file_is_too_few() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(UserError, match="1 candidate files"):
        kad.compute(x, x, groups=(range(6), [0] * 6))
    with pytest.raises(UserError, match="of one clip"):
        kad.compare(x, x, x, groups=[0] * 6)


def test_a_test_too_large_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kad, "_LARGEST", 10)
    x = np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(UserError, match="at most 10"):
        kad.compute(x, x)
    assert kad.compute(x, x, permutations=0).p_value is None


def test_few_clips_and_few_files_are_warned_of() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    files = [i // 30 for i in range(60)]
    warnings = kad.compute(x, x, groups=(files, files)).warnings
    assert any("change sides" in text for text in warnings)
    assert any("coarse" in text for text in kad.compute(x[:5], x).warnings)
    assert not kad.compute(x, x).warnings


@pytest.mark.parametrize("paired", [True, False])
def test_comparison_equals_the_difference_of_two_distances(paired: bool) -> None:
    rng = np.random.default_rng(0)
    x, base, adapted = rng.normal(size=(3, 30, 4))
    base = base + 1.5
    gap, p = kad.compare(x, base, adapted, paired=paired, permutations=200)
    one = kad.compute(x, base, permutations=0).value
    two = kad.compute(x, adapted, permutations=0).value
    assert gap == pytest.approx(one - two, rel=1e-9)
    assert p == pytest.approx(1 / 201)
    back, same = kad.compare(x, adapted, base, paired=paired, permutations=200)
    assert (back, same) == (pytest.approx(-gap), p)


@pytest.mark.parametrize("paired", [True, False])
def test_comparison_is_uniform_without_a_difference(paired: bool) -> None:
    rng = np.random.default_rng(1)
    p = []
    for seed in range(150):
        x, base, adapted = rng.normal(size=(3, 20, 3))
        adapted = 0.9 * base + 0.44 * adapted if paired else adapted  # pairs are alike
        p.append(
            kad.compare(x, base + 0.5, adapted + 0.5, paired=paired, permutations=99, seed=seed)[1]
        )
    assert np.mean(np.array(p) <= 0.05) < 0.12
    assert 0.4 < np.mean(p) < 0.6


def test_comparison_mistakes_are_named() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(UserError, match="cannot pair"):
        kad.compare(x, x, x[:5])
    with pytest.raises(UserError, match="in 0 relabellings"):
        kad.compare(x, x, x, permutations=0)
    with pytest.raises(UserError, match="alike"):
        kad.compare(np.ones((6, 2)), x, x)


def test_equal_takes_differ_by_nothing_but_rounding() -> None:
    """Seed after seed: rounding once passed for a difference."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, takes = rng.normal(size=(40, 16)), rng.normal(size=(30, 16)) + 0.7
        gap, p = kad.compare(x, takes, takes.copy(), permutations=199, seed=seed)
        assert abs(gap) < 1e-9
        assert p == 1.0


def test_compare_moves_the_windows_of_a_clip_together() -> None:
    """Copies of a pair add no evidence: with groups p stays what the pairs alone give."""
    rng = np.random.default_rng(5)
    reference = rng.normal(size=(60, 4))
    base, adapted = rng.normal(0.4, 1, size=(12, 4)), rng.normal(0.2, 1, size=(12, 4))
    groups = np.repeat(np.arange(12), 8)
    wide = [np.repeat(rows, 8, axis=0) + rng.normal(0, 1e-3, (96, 4)) for rows in (base, adapted)]
    _, blind = kad.compare(reference, *wide, permutations=999)
    _, aware = kad.compare(reference, *wide, permutations=999, groups=groups.tolist())
    _, alone = kad.compare(reference, base, adapted, permutations=999)
    assert blind < aware
    assert abs(aware - alone) < 0.25


def test_compare_with_groups_is_the_difference_of_two_distances() -> None:
    rng = np.random.default_rng(0)
    x, base, adapted = rng.normal(size=(24, 4)), *rng.normal(size=(2, 18, 4))
    ids, of_reference = [i // 3 for i in range(18)], [i % 5 for i in range(24)]
    gap, _ = kad.compare(
        x, base + 1, adapted, groups=ids, reference_groups=of_reference, permutations=9
    )
    values = [
        kad.compute(x, takes, groups=(of_reference, ids), permutations=0).value
        for takes in (base + 1, adapted)
    ]
    assert gap == pytest.approx(values[0] - values[1], rel=1e-9)


def test_compare_refuses_groups_that_do_not_fit() -> None:
    rows = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(UserError, match="2 ids for 10"):
        kad.compare(rows, rows, rows + 1, groups=[1, 2])
    with pytest.raises(UserError, match="paired"):
        kad.compare(rows, rows, rows + 1, groups=range(10), paired=False)
