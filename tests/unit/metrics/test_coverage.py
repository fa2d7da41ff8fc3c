"""Density and coverage against a double loop, and against what chance gives."""

from __future__ import annotations

import ast
from math import dist
from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import UserError
from tunesmith.metrics import coverage


def naive(x: np.ndarray, y: np.ndarray, k: int) -> tuple[float, float]:
    """Naeem et al. 2020, one pair at a time."""
    covered = held = 0
    for i, a in enumerate(x):
        radius = sorted(dist(a, b) for j, b in enumerate(x) if j != i)[k - 1]
        inside = sum(dist(a, b) < radius for b in y)
        covered += inside > 0
        held += inside
    return covered / len(x), held / (k * len(y))


@pytest.mark.parametrize("chunk", [7, 1024])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_equals_a_double_loop(chunk: int, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)) + offset, 0.7 * rng.normal(size=(31, 4)) + offset + 0.4
    result = coverage.compute(x, y, neighbours=3)
    assert (result.value, result.details["density"]) == pytest.approx(naive(x, y, 3))
    assert 0 < result.value < 1
    assert result.interval is None


@pytest.mark.parametrize(("m", "n", "k"), [(30, 20, 5), (20, 60, 3)])
def test_equal_sets_have_the_closed_expectation(m: int, n: int, k: int) -> None:
    """Of any distribution: here one with heavy tails."""
    rng = np.random.default_rng(1)
    drawn = [
        coverage.compute(
            rng.standard_t(3, size=(m, 3)), rng.standard_t(3, size=(n, 3)), neighbours=k
        )
        for _ in range(300)
    ]
    values = np.array([one.value for one in drawn])
    error = values.std() / np.sqrt(len(values))
    truth = coverage.expected(m, n, k)
    assert abs(values.mean() - truth) < 3.5 * error < 0.05
    assert drawn[0].details["expected"] == truth
    assert truth == pytest.approx(1 - np.prod([(m - 1 - i) / (m + n - 1 - i) for i in range(k)]))


def test_a_set_covers_itself() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6))
    result = coverage.compute(x, x)
    assert result.value == 1.0
    assert result.details["density"] == pytest.approx(1.0, abs=0.05)


def test_far_away_covers_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6))
    result = coverage.compute(x, x + 100)
    assert (result.value, result.details["density"]) == (0.0, 0.0)


def test_one_mode_of_two_is_half_covered_and_dense() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(50, 3)), rng.normal(size=(50, 3)) + 50])
    result = coverage.compute(x, rng.normal(size=(400, 3)))
    assert result.value == pytest.approx(0.5, abs=0.02)
    assert result.details["density"] > 0.7


def test_units_origin_and_order_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(50, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    first = coverage.compute(x, y)
    moved = coverage.compute((x @ turn * 7 + 1e3)[::-1], (y @ turn * 7 + 1e3)[::-1])
    assert moved.value == first.value
    assert moved.details == pytest.approx(first.details)


def test_warnings_say_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    assert any("coverage of about" in text for text in coverage.compute(x, x[:10]).warnings)
    copies = np.concatenate([np.zeros((6, 2)), x])
    assert any("6 reference clips" in text for text in coverage.compute(copies, x).warnings)
    assert not coverage.compute(x, rng.normal(size=(120, 2))).warnings


def test_mistakes_are_named() -> None:
    x = np.random.default_rng(0).normal(size=(5, 2))
    with pytest.raises(UserError, match="5 neighbours among 5"):
        coverage.compute(x, x)
    with pytest.raises(UserError, match="0 neighbours"):
        coverage.compute(x, x, neighbours=0)
    with pytest.raises(UserError, match="wide"):
        coverage.compute(x, np.ones((5, 3)), neighbours=2)


def test_spec_is_a_literal() -> None:
    tree = ast.parse(Path(coverage.__file__).read_text())
    (spec,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SPEC"
    ]
    assert (spec["name"], spec["better"]) == ("coverage", "higher")
