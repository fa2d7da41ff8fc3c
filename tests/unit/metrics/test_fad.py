"""FAD against closed forms: the sets are built to have exactly the covariance that they claim."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import t as student

from tunesmith.errors import UserError
from tunesmith.metrics import _frechet, fad


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
    assert _frechet.cross_narrow(a, b) == pytest.approx(
        _frechet.trace_root(_frechet.root_of(a.T @ a), b.T @ b), rel=1e-6
    )


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
    assert endless.interval is None  # overlapping subsamples give no honest one
    assert endless.details["fit_error"] > 0


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


def test_interval_is_of_the_true_distance() -> None:
    """80 cases with a known truth; the value itself reads too high and often lies outside."""
    d, n, shift = 8, 60, 0.5
    truth, held, above = d * shift**2, 0, 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(n, d)), rng.normal(size=(n, d)) + shift
        result = fad.compute(x, y, seed=seed, interval=True)
        assert result.interval is not None
        low, high = result.interval
        held += low <= truth <= high
        above += result.value > truth
        assert low < result.details["debiased"] < high
    assert 0.86 <= held / 80 <= 1.0
    assert above > 70


def test_jackknife_by_brute_force() -> None:
    """Running sums against leaving the files out in fact; far from the origin, uneven files."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(90, 3)) + 50, 2 * rng.normal(size=(70, 3)) + 50.5
    codes = (np.arange(90) // 2, np.arange(70) % 33)
    middle, half = fad._jackknife(x, y, codes, 5)
    draw = np.random.default_rng(5)
    whole, bias, variance, spent = fad.distance(x, y), 0.0, 0.0, 0.0
    for which, rows in enumerate((x, y)):
        blocks = (draw.permutation(codes[which].max() + 1) % 15)[codes[which]]
        sets = [[rows[blocks != b], y] if which == 0 else [x, rows[blocks != b]] for b in range(15)]
        values = np.array([fad.distance(*pair) for pair in sets])
        bias += 14 * (values.mean() - whole)
        part = 14 / 15 * np.sum((values - values.mean()) ** 2)
        variance, spent = variance + part, spent + part**2 / 14
    assert middle == pytest.approx(whole - bias, rel=1e-8)
    quantile = student.ppf(0.975, variance**2 / spent)
    assert half == pytest.approx(quantile * np.sqrt(variance), rel=1e-6)


def test_no_interval_where_it_would_not_be_honest() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 8)), rng.normal(size=(100, 8))
    assert fad.compute(x, y).interval is None  # not asked for
    assert fad.compute(x, y, interval=True).interval is not None
    assert fad.compute(x, y[:39], interval=True).interval is None  # under 5·d rows
    few = [i // 4 for i in range(100)]  # 25 files
    assert fad.compute(x, y, interval=True, groups=(range(100), few)).interval is None


def songs(rng: np.random.Generator, count: int, odd: int) -> tuple[np.ndarray, list[str]]:
    """``count`` songs of 6 windows; song ``odd`` lies elsewhere. Windows are interleaved."""
    rows = rng.normal(size=(6, count, 20))
    rows[:, odd] += 2.0
    return rows.reshape(-1, 20), [f"song{i}" for _ in range(6) for i in range(count)]


@pytest.mark.parametrize("rows", [15, 200])
def test_the_odd_song_is_found(rows: int) -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(rows, 20))
    y, ids = songs(rng, 12, odd=7)
    found = fad.outliers(reference, y, ids)
    assert [song.file for song in found.songs if song.outlier] == ["song7"]
    values = [song.value for song in found.songs]
    assert values == sorted(values, reverse=True) and len(values) == 12
    assert found.median == pytest.approx(np.median(values))
    for song in found.songs:
        own = y[[one == song.file for one in ids]]
        assert song.value == pytest.approx(fad.distance(reference, own), rel=1e-10)
        assert song.windows == 6
    assert not found.warnings


def test_songs_all_alike_have_no_outlier() -> None:
    rng = np.random.default_rng(1)
    reference, one = rng.normal(size=(40, 10)), rng.normal(size=(5, 10))
    y = np.concatenate([one] * 6)
    found = fad.outliers(reference, y, [i // 5 for i in range(30)])
    assert not any(song.outlier for song in found.songs)


def test_short_songs_are_said_and_not_measured() -> None:
    rng = np.random.default_rng(1)
    reference, y = rng.normal(size=(40, 10)), rng.normal(size=(9, 10))
    found = fad.outliers(reference, y, [*"aaaaaa", *"bb", "c"])
    assert found.unmeasured == ("c",)
    assert {song.file for song in found.songs} == {"a", "b"}
    assert any("2 to 6 windows" in text for text in found.warnings)
    with pytest.raises(UserError, match="two windows"):
        fad.outliers(reference, y, range(9))
    with pytest.raises(UserError, match="8 ids for 9"):
        fad.outliers(reference, y, range(8))


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
