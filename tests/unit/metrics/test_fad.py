"""FAD against closed forms: the sets are built to have exactly the covariance that they claim."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

from tunesmith.errors import UserError
from tunesmith.metrics import fad


def exactly(
    covariance: np.ndarray, mean: np.ndarray | float = 0.0, *, rows: int = 40, seed: int = 0
) -> np.ndarray:
    """``[rows, D]`` whose unbiased covariance and mean are the given ones to rounding."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(rows, len(covariance)))
    raw -= raw.mean(axis=0)
    white = np.linalg.qr(raw)[0] * np.sqrt(rows - 1)
    return white @ np.linalg.cholesky(covariance).T + mean


def rotation(width: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def by_sqrtm(x: np.ndarray, y: np.ndarray) -> float:
    """The textbook formula as it stands."""
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(sqrtm(c1 @ c2))
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c1 + c2 - 2 * root))


def test_commuting_covariances() -> None:
    basis = rotation(6)
    a, b = np.array([1.0, 2, 3, 4, 5, 6]), np.array([6.0, 1, 4, 0.5, 2, 9])
    shift = np.arange(6) / 3
    x = exactly((basis * a) @ basis.T, seed=1)
    y = exactly((basis * b) @ basis.T, shift, seed=2)
    truth = np.sum(shift**2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert fad.compute(x, y).value == pytest.approx(truth, rel=1e-12)


def test_covariance_transformed_on_both_sides() -> None:
    rng = np.random.default_rng(3)
    half = rng.normal(size=(5, 5))
    c1 = half @ half.T + np.eye(5)
    half = rng.normal(size=(5, 5))
    t = half @ half.T / 5 + 0.5 * np.eye(5)
    x, y = exactly(c1, seed=4), exactly(t @ c1 @ t, seed=5)
    truth = np.trace(c1 @ (np.eye(5) - t) @ (np.eye(5) - t))
    assert fad.compute(x, y).value == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("rows", [20, 300])
def test_a_shift_costs_its_square(rows: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 64))
    shift = np.linspace(-1, 1, 64)
    assert fad.compute(x, x + shift).value == pytest.approx(np.sum(shift**2), rel=1e-11)


@pytest.mark.parametrize("rows", [20, 300])
def test_self_distance_is_nothing(rows: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 64))
    assert abs(fad.compute(x, x).value) < 1e-11


def test_self_distance_is_nothing_with_collinear_dimensions() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 10)) @ rng.normal(size=(10, 64))
    assert abs(fad.compute(x, x).value) < 1e-9


def test_far_from_the_origin_in_single_precision() -> None:
    x = (np.random.default_rng(0).normal(size=(300, 32)) + 1e3).astype(np.float32)
    assert abs(fad.compute(x, x).value) < 1e-9


@pytest.mark.parametrize(("m", "n"), [(10, 12), (10, 400), (400, 10), (400, 300)])
def test_both_forms_agree_with_the_textbook(m: int, n: int) -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(m, 24)) * np.linspace(0.5, 2, 24)
    y = rng.normal(size=(n, 24)) + 0.3
    # sqrtm of a singular product is itself only good to about √eps.
    assert fad.compute(x, y).value == pytest.approx(by_sqrtm(x, y), rel=1e-5)
    a = (x - x.mean(0)) / np.sqrt(m - 1)
    b = (y - y.mean(0)) / np.sqrt(n - 1)
    assert fad._cross_narrow(a, b) == pytest.approx(fad._cross_wide(a, b), rel=1e-6)


def test_symmetric() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 8)), rng.normal(size=(70, 8)) * 2
    assert fad.compute(x, y).value == pytest.approx(fad.compute(y, x).value, rel=1e-12)


def test_warning_says_how_many_are_needed() -> None:
    rng = np.random.default_rng(0)
    few = fad.compute(rng.normal(size=(100, 40)), rng.normal(size=(100, 40)))
    assert len(few.warnings) == 1 and "400" in few.warnings[0] and "100" in few.warnings[0]
    assert not fad.compute(rng.normal(size=(400, 40)), rng.normal(size=(400, 40))).warnings


def test_extrapolation_takes_the_bias_away() -> None:
    rng = np.random.default_rng(0)
    x, y = exactly(np.eye(16), rows=4000, seed=1), rng.normal(size=(600, 16))
    plain, endless = fad.compute(x, y), fad.fad_inf(x, y, seed=0)
    assert plain.value > 0.08  # expected (16 + 68)/600 = 0.14
    assert abs(endless.value) < plain.value / 3
    assert endless.interval is not None
    assert endless.interval[0] < endless.value < endless.interval[1]


def test_extrapolation_is_repeatable_and_seeded() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 8)), rng.normal(size=(200, 8))
    assert fad.fad_inf(x, y, seed=3) == fad.fad_inf(x, y, seed=3)
    assert fad.fad_inf(x, y, seed=3).value != fad.fad_inf(x, y, seed=4).value


def test_extrapolation_draws_without_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def note(x: np.ndarray, y: np.ndarray) -> float:
        seen.append(y)
        return 1.0 / len(y)

    monkeypatch.setattr(fad, "distance", note)
    y = np.arange(200.0).reshape(100, 2)
    result = fad.fad_inf(y, y)
    assert all(len(np.unique(rows, axis=0)) == len(rows) for rows in seen)
    assert len(seen[-1]) == 100
    assert result.value == pytest.approx(0.0, abs=1e-12)  # a straight line through 0 over 1/n


def test_extrapolation_warns_below_full_rank() -> None:
    rng = np.random.default_rng(0)
    result = fad.fad_inf(rng.normal(size=(900, 60)), rng.normal(size=(60, 60)))
    assert any("falls short" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("reference", "candidate", "says"),
    [
        (np.zeros(4), np.zeros((4, 2)), r"reference.*\[4\]"),
        (np.zeros((1, 2)), np.zeros((4, 2)), "reference: 1 embedding"),
        (np.zeros((4, 2)), np.full((4, 2), np.nan), "candidate: 4 of 4"),
        (np.zeros((4, 2)), np.zeros((4, 3)), "2 wide.* 3"),
    ],
)
def test_mistakes_are_named(reference: np.ndarray, candidate: np.ndarray, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fad.compute(reference, candidate)


def test_extrapolation_refuses_impossible_sizes() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(UserError, match="cannot be drawn"):
        fad.fad_inf(x, x, sizes=[5, 21])
    with pytest.raises(UserError, match="too few"):
        fad.fad_inf(x, x[:10])


@pytest.mark.parametrize("name", ["fad", "kad"])
def test_spec_is_read_without_importing(name: str) -> None:
    tree = ast.parse((Path(fad.__file__).parent / f"{name}.py").read_text())
    (spec,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SPEC"
    ]
    assert spec["name"] == name
    assert spec["better"] == "lower"
    assert spec["needs"] == ["reference", "candidate"]
