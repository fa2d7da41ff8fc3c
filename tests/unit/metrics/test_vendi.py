"""The Vendi score against closed forms, and neighbours against a double loop."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.errors import UserError
from tunesmith.metrics import vendi


@pytest.mark.parametrize("kernel", ["cosine", "rbf"])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_identical_rows_are_one_thing(kernel: str, n: int) -> None:
    x = np.tile([[3.0, -1.0, 0.1]], (n, 1))
    result = vendi.compute(x, kernel=kernel)
    assert result.value == pytest.approx(1.0, abs=1e-9)
    assert (result.n_candidate, result.dimension) == (n, 3)


def test_orthogonal_rows_are_n_things() -> None:
    assert vendi.compute(np.eye(30)).value == pytest.approx(30.0)
    assert vendi.compute(np.eye(30) * 7 + 0.0, kernel="rbf", bandwidth=0.1).value == pytest.approx(
        30.0
    )


def test_unequal_groups_give_the_entropy_of_their_shares() -> None:
    x = np.repeat(np.eye(3), [6, 3, 1], axis=0)
    shares = np.array([0.6, 0.3, 0.1])
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert vendi.compute(x).value == pytest.approx(expected)
    assert vendi.compute(x, kernel="rbf", bandwidth=0.05).value == pytest.approx(expected)


def test_two_rows_at_an_angle() -> None:
    """K = [[1, c], [c, 1]] has the eigenvalues 1 ± c."""
    c = 0.3
    x = np.array([[1.0, 0.0], [c, np.sqrt(1 - c * c)]])
    low, high = (1 - c) / 2, (1 + c) / 2
    expected = np.exp(-low * np.log(low) - high * np.log(high))
    assert vendi.compute(x).value == pytest.approx(expected)
    distance = np.linalg.norm(x[0] - x[1])
    sigma = distance / np.sqrt(-2 * np.log(c))  # so that the Gaussian kernel gives c as well
    assert vendi.compute(x, kernel="rbf", bandwidth=sigma).value == pytest.approx(expected)


def test_the_small_matrix_has_the_large_ones_eigenvalues() -> None:
    x = np.random.default_rng(0).normal(size=(300, 8))
    result = vendi.compute(x)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / 300)
    values = values[values > 1e-12]
    assert result.value == pytest.approx(np.exp(-(values * np.log(values)).sum()))
    assert "cannot count past 8" in result.warnings[0]


def test_five_thousand_rows_through_the_dual() -> None:
    x = np.random.default_rng(0).normal(size=(5000, 64))
    assert 60 < vendi.compute(x).value <= 64


def test_far_from_the_origin_nothing_changes() -> None:
    x = np.random.default_rng(1).normal(size=(40, 5))
    near = vendi.compute(x, kernel="rbf", bandwidth=1.0).value
    assert vendi.compute(x + 1e5, kernel="rbf", bandwidth=1.0).value == pytest.approx(
        near, rel=1e-6
    )


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.zeros((2, 3)), {}, "2 rows are zero"),
        (np.full((2, 3), np.nan), {}, "NaN"),
        (np.eye(3), {"kernel": "linear"}, "no kernel 'linear'"),
        (np.eye(3), {"kernel": "rbf", "bandwidth": 0.0}, "bandwidth is 0"),
        (np.zeros((0, 3)), {}, "too few"),
        (np.zeros((5001, 1)), {"kernel": "rbf"}, "more than 5000"),
    ],
)
def test_refusals(x: np.ndarray, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        vendi.compute(x, **options)


def test_neighbours_equal_a_double_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendi, "CHUNK", 7)
    x = np.random.default_rng(2).normal(size=(30, 4)) + 50
    x[29] = x[3]
    indices, distances = vendi.nearest(x, 3)
    for i, row in enumerate(x):
        gaps = [(np.linalg.norm(row - other), j) for j, other in enumerate(x) if j != i]
        gaps.sort()
        assert [j for _, j in gaps[:3]] == list(indices[i])
        assert distances[i] == pytest.approx([gap for gap, _ in gaps[:3]])
    assert distances[3, 0] == 0.0 and indices[3, 0] == 29
    assert vendi.nearest(x[:2], 5)[0].shape == (2, 1)
