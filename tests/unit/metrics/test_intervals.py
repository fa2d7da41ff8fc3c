"""Shared intervals against published values, definitions and simulated truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm
from scipy.stats import t as student

from tunesmith.errors import UserError
from tunesmith.metrics import _intervals


def test_binomial_of_published_numbers() -> None:
    """Clopper–Pearson of 10 in 20 and of 0 in 20 (rule of three, exact)."""
    assert _intervals.binomial(10, 20) == pytest.approx((0.27196, 0.72804), abs=1e-5)
    assert _intervals.binomial(0, 20) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert _intervals.binomial(20, 20) == pytest.approx((0.025 ** (1 / 20), 1.0))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_binomial_is_the_inverted_test(level: float) -> None:
    low, high = _intervals.binomial(7, 30, level)
    assert binom.sf(6, 30, low) == pytest.approx((1 - level) / 2)
    assert binom.cdf(7, 30, high) == pytest.approx((1 - level) / 2)


def test_binomial_never_covers_less_than_it_says() -> None:
    ends = np.array([_intervals.binomial(k, 50) for k in range(51)])
    for share in np.linspace(0.01, 0.99, 99):
        holds = (ends[:, 0] <= share) & (share <= ends[:, 1])
        assert binom.pmf(np.arange(51), 50, share)[holds].sum() >= 0.95


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (5, 4), (-1, 4)])
def test_binomial_mistakes(successes: int, n: int) -> None:
    with pytest.raises(UserError, match="answers"):
        _intervals.binomial(successes, n)
    with pytest.raises(UserError, match="level"):
        _intervals.binomial(1, 2, 1.0)


def heard(
    rng: np.random.Generator, people: int, pieces: int, each: int, spreads: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole ratings 1 to 5 around 3.4; every listener hears ``each`` items of ``pieces``."""
    listeners = np.repeat(np.arange(people), each)
    items = np.concatenate([rng.permutation(pieces)[:each] for _ in range(people)])
    latent = 3.4 + spreads[0] * rng.normal(size=people)[listeners]
    latent += spreads[1] * rng.normal(size=pieces)[items]
    latent += spreads[2] * rng.normal(size=len(listeners))
    return np.clip(np.round(latent), 1, 5), listeners, items


@pytest.mark.parametrize("each", [12, 20])
def test_mos_covers_the_truth_for_other_listeners_and_items(each: int) -> None:
    spreads = (0.5, 0.5, 0.7)
    cuts = norm.cdf([-np.inf, 1.5, 2.5, 3.5, 4.5, np.inf], 3.4, np.linalg.norm(spreads))
    truth = float(np.diff(cuts) @ np.arange(1, 6))
    held = narrow = 0
    for seed in range(200):
        ratings, listeners, items = heard(np.random.default_rng(seed), 16, 20, each, spreads)
        made = _intervals.mos(ratings, listeners.tolist(), items.tolist())
        assert made.interval is not None
        held += made.interval[0] <= truth <= made.interval[1]
        half = 1.96 * ratings.std(ddof=1) / np.sqrt(len(ratings))
        narrow += abs(ratings.mean() - truth) <= half
    assert 0.896 <= held / 200 <= 0.99
    assert narrow / 200 < 0.75  # what taking all answers for independent would give


def test_mos_of_a_full_table_is_the_analysis_of_variance() -> None:
    """V = (MS_listener + MS_item − MS_residual)/N where everyone heard everything."""
    rng = np.random.default_rng(1)
    table = 3 + rng.normal(size=(9, 1)) + rng.normal(size=7) + rng.normal(size=(9, 7))
    listeners, items = np.indices((9, 7))
    made = _intervals.mos(table.ravel(), listeners.ravel().tolist(), items.ravel().tolist())
    rows, columns, all_of_it = table.mean(1), table.mean(0), table.mean()
    rest = table - rows[:, None] - columns + all_of_it
    squares = [7 * rows.var(ddof=1), 9 * columns.var(ddof=1), (rest**2).sum() / 48]
    variance = (squares[0] + squares[1] - squares[2]) / 63
    spent = (squares[0] ** 2 / 8 + squares[1] ** 2 / 6 + squares[2] ** 2 / 48) / 63**2
    half = student.ppf(0.975, variance**2 / spent) * np.sqrt(variance)
    assert made.interval == pytest.approx((all_of_it - half, all_of_it + half))
    assert made.value == pytest.approx(all_of_it)
    assert made.units == (("listeners", 9), ("items", 7))


def test_mos_does_not_depend_on_order_or_names() -> None:
    ratings, listeners, items = heard(np.random.default_rng(2), 8, 10, 6, (0.5, 0.5, 0.7))
    first = _intervals.mos(ratings, listeners.tolist(), items.tolist(), seed=1)
    order = np.random.default_rng(3).permutation(len(ratings))
    names = [f"item {k}" for k in items[order]]
    second = _intervals.mos(ratings[order], [f"p{k}" for k in listeners[order]], names, seed=2)
    assert second.interval == pytest.approx(first.interval)


def test_mos_gives_no_interval_that_it_cannot_know() -> None:
    for listeners, items in (("aaaa", "wxyz"), ("abcd", "wwww"), ("abcd", "wxyz")):
        made = _intervals.mos([1, 2, 3, 4], listeners, items)
        assert made.interval is None and made.value == 2.5 and made.warnings
    alike = _intervals.mos([4.0] * 9, [*"aaabbbccc"], [*"xyzxyzxyz"])
    assert alike.interval == (4.0, 4.0) and any("alike" in text for text in alike.warnings)
    with pytest.raises(UserError, match="NaN"):
        _intervals.mos([1.0, np.nan], "ab", "xy")
    with pytest.raises(UserError, match="3 ids for 2"):
        _intervals.mos([1.0, 2.0], "abc", "xy")


def test_similarity_counts_files() -> None:
    values = [0.9, 0.8, 0.7, 0.2]
    made = _intervals.mean_similarity(values, [*"aaab"])
    assert made.value == pytest.approx((0.8 + 0.2) / 2)
    half = student.ppf(0.975, 1) * np.std([0.8, 0.2], ddof=1) / np.sqrt(2)
    assert made.interval == pytest.approx((made.value - half, made.value + half))
    assert (made.n, made.units) == (4, (("files", 2),)) and made.warnings
    assert _intervals.mean_similarity([0.5], ["a"]).interval is None
    assert not _intervals.mean_similarity(np.linspace(0, 1, 10)).warnings


def test_similarity_covers_the_truth() -> None:
    held = blind = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rows = 0.6 + 0.1 * rng.normal(size=(15, 1)) + 0.03 * rng.normal(size=(15, 8))
        ids = np.repeat(np.arange(15), 8).tolist()
        for groups in (ids, None):
            low, high = _intervals.mean_similarity(rows.ravel(), groups).interval or (1, 0)
            held += groups is not None and low <= 0.6 <= high
            blind += groups is None and low <= 0.6 <= high
    assert 0.896 <= held / 200 <= 0.99
    assert blind / 200 < 0.75
