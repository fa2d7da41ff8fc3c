"""Gap closed against KAD itself, against known crowds, and where there is nothing to close."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from tunesmith.errors import UserError
from tunesmith.metrics import gap, kad

RNG = np.random.default_rng


def crowd(rng: np.random.Generator, mean: float, n: int = 60, d: int = 4) -> list[np.ndarray]:
    """``n`` clips of three windows that resemble each other."""
    centres = rng.normal(size=(n, 1, d)) + mean
    return list(centres + 0.3 * rng.normal(size=(n, 3, d)))


def rendered(clips: list[np.ndarray], rng: np.random.Generator, shift: float) -> list[np.ndarray]:
    """The same clips, a little off: as a codec would leave them."""
    return [clip + shift + 0.1 * rng.normal(size=clip.shape) for clip in clips]


def alone(rows: np.ndarray) -> list[np.ndarray]:
    """Clips of one window each."""
    return list(rows[:, None])


def test_share_of_known_numbers():
    assert gap.share(30.0, 12.5, 5.0) == pytest.approx(0.7)
    assert gap.share(30.0, 30.0, 5.0) == 0.0
    assert gap.share(30.0, 5.0, 5.0) == 1.0
    assert gap.share(30.0, 32.5, 5.0) == pytest.approx(-0.1)


def test_equals_kad_where_a_clip_is_one_window():
    rng = RNG(0)
    reference, base, adapted = (rng.normal(size=(40, 5)) + m for m in (0.0, 1.0, 0.4))
    ceiling = reference[rng.permutation(40)] + 0.2
    made = gap.compute(alone(reference), alone(ceiling), alone(base), [alone(adapted)])
    for value, candidate in ((made.base, base), (made.adapted[0], adapted)):
        assert value == pytest.approx(kad.compute(reference, candidate, permutations=0).value)
    drop, p_value = kad.compare(reference, base, adapted, permutations=1000)
    assert made.drop == pytest.approx(drop)
    assert made.p_value == pytest.approx(p_value, abs=0.05)


def test_the_ceiling_leaves_a_clip_out_against_its_own_rendering():
    """Equation 4 of Gretton et al. 2012, one pair at a time."""
    rng = RNG(1)
    x = rng.normal(size=(7, 3))
    y = x + 0.3 * rng.normal(size=(7, 3))
    takes = [rng.normal(size=(1, 3)) + 2 for _ in range(5)]
    made = gap.compute(alone(x), alone(y), takes, [takes])

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * made.bandwidth**2)))

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    terms = [k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs]
    assert made.ceiling == pytest.approx(100 * np.mean(terms))


def test_a_perfect_codec_is_at_no_distance_on_average():
    """Unbiased: other draws of the same crowd, rendered as they are, average to 0."""
    values, errors = [], []
    for seed in range(60):
        clips = crowd(RNG(seed), 0.0, n=12)
        takes = crowd(RNG(seed + 500), 3.0, n=12)
        values.append(gap.compute(clips, clips, takes, [takes], permutations=1).ceiling)
        other = crowd(RNG(seed + 900), 0.0, n=12)
        errors.append(gap.compute(clips, clips, other, [other], permutations=1).base)
    assert np.mean(values) == pytest.approx(0.0, abs=1e-9)
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(60)


def test_nothing_learned_closes_nothing():
    rng = RNG(2)
    real, base = crowd(rng, 0.0), crowd(rng, 1.5)
    made = gap.compute(real, rendered(real, rng, 0.1), base, [base, base])
    assert made.closed == (0.0, 0.0)
    assert made.p_value == 1.0
    assert made.median == 0.0


def test_what_sounds_like_the_ceiling_closes_all_of_it():
    rng = RNG(3)
    real = crowd(rng, 0.0, n=200)
    made = gap.compute(
        real,
        rendered(real, rng, 0.5),
        crowd(rng, 2.0, n=200),
        [rendered(crowd(rng, 0.0, n=200), rng, 0.5) for _ in range(3)],
    )
    assert made.median == pytest.approx(1.0, abs=0.05)
    assert made.p_value < 0.01
    for share, error in zip(made.closed, made.errors, strict=True):
        assert share is not None and error is not None and 0 < error < 0.1
        assert abs(share - 1.0) < 4 * error


def test_moving_away_is_negative_and_no_chance():
    rng = RNG(4)
    real = crowd(rng, 0.0)
    base = crowd(rng, 1.0)
    made = gap.compute(real, rendered(real, rng, 0.05), base, [[clip + 1.0 for clip in base]])
    assert made.median is not None and made.median < -0.3
    assert made.p_value < 0.01 and made.drop < 0


def test_no_share_where_the_base_is_as_near_as_the_ceiling():
    rng = RNG(5)
    real = crowd(rng, 0.0)
    takes = [rendered(crowd(rng, 0.0), rng, 0.3) for _ in range(2)]
    made = gap.compute(real, rendered(real, rng, 0.3), takes[0], takes[1:])
    assert made.closed == (None,) and made.errors == (None,) and made.median is None
    assert abs(made.width) < gap.CLEAR * made.width_error
    assert "no share" in " ".join(made.warnings)
    far = gap.compute(real, rendered(real, rng, 2.0), takes[0], takes[1:])
    assert far.width < 0 and far.median is None


def test_units_origin_and_order_do_not_matter():
    rng = RNG(6)
    real, base, other = (crowd(rng, mean, n=20) for mean in (0.0, 2.0, 1.0))
    codec = rendered(real, rng, 0.2)
    first = gap.compute(real, codec, base, [other])
    moved = [[7.0 * clip + 1e4 for clip in some] for some in (real, codec, base, other)]
    second = gap.compute(moved[0], moved[1], moved[2], [moved[3]])
    assert second.closed == pytest.approx(first.closed, rel=1e-6)
    assert second.errors == pytest.approx(first.errors, rel=1e-6)
    assert second.p_value == first.p_value
    turned = [[clip[::-1] for clip in some[::-1]] for some in (real, codec, base, other)]
    assert gap.compute(turned[0], turned[1], turned[2], [turned[3]]).closed == pytest.approx(
        first.closed
    )


def test_standard_errors_are_those_of_repeated_draws():
    closed, said = [], []
    for seed in range(80):
        rng = RNG(1000 + seed)
        real = crowd(rng, 0.0, n=40)
        adapted = crowd(rng, 0.8, n=40)
        made = gap.compute(
            real, rendered(real, rng, 0.3), crowd(rng, 1.6, n=40), [adapted], permutations=1
        )
        closed.append(made.closed[0])
        said.append(made.errors[0])
    assert np.median(said) == pytest.approx(np.std(closed), rel=0.35)


def test_p_values_are_uniform_where_adapting_does_nothing():
    """Three trainings that share the base's takes and its prompts: twins are alike, and exchangeable."""
    found = []
    for seed in range(150):
        rng = RNG(2000 + seed)
        real = crowd(rng, 0.0, n=12)
        prompts = 2 * rng.normal(size=(12, 1, 4))
        sung = [list(prompts + 0.5 * rng.normal(size=(12, 2, 4))) for _ in range(4)]
        made = gap.compute(real, real, sung[0], sung[1:], permutations=99, seed=seed)
        found.append(made.p_value)
    assert kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) < 0.12


def test_the_same_seed_gives_the_same_p_value():
    rng = RNG(7)
    real, base, other = (crowd(rng, mean, n=10) for mean in (0.0, 0.4, 0.3))
    values = {gap.compute(real, real, base, [other], seed=5).p_value for _ in range(2)}
    assert len(values) == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ceiling": 2}, "through the codec"),
        ({"adapted": 2}, "same prompts and seeds"),
        ({"reference": 2, "ceiling": 2}, "3 or more"),
        ({"permutations": 0}, "relabelling"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"nan": True}, "NaN"),
        ({"wide": True}, "wide"),
    ],
)
def test_what_cannot_be_measured_is_said(change, word):
    rng = RNG(8)
    sets = {name: crowd(rng, 0.0, n=4) for name in ("reference", "ceiling", "base", "adapted")}
    for name in sets.keys() & change.keys():
        sets[name] = sets[name][: change[name]]
    if "nan" in change:
        sets["base"][0][0, 0] = np.nan
    if "wide" in change:
        sets["base"] = [clip[:, :2] for clip in sets["base"]]
    more = {key: change[key] for key in change.keys() & {"permutations", "bandwidth"}}
    adapted = sets.pop("adapted")
    with pytest.raises(UserError, match=word):
        gap.compute(**sets, adapted=[adapted], **more)


def test_a_reference_without_variety_is_refused():
    same = [np.ones((2, 3))] * 4
    with pytest.raises(UserError, match="bandwidth is 0"):
        gap.compute(same, same, same, [same])


def test_the_kernel_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(4)
    sets = [[draw.normal(size=(1 + i % 3, 5)) for i in range(n)] for n in (9, 9, 7, 7)]
    whole = gap.compute(*sets[:3], [sets[3]], permutations=9)
    monkeypatch.setattr(gap, "_BLOCK", 20)  # a clip or two at a time
    assert gap.compute(*sets[:3], [sets[3]], permutations=9) == whole
