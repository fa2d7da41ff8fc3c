"""CLAP score against its definition, and its interval and test against what they must do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, ttest_1samp

from tunesmith.errors import UserError
from tunesmith.metrics import clap_score


def space(takes: int, prompts: int, pull: float, seed: int = 0) -> tuple[list, np.ndarray]:
    """Takes drawn toward their prompts, several takes a prompt where there are fewer prompts."""
    rng = np.random.default_rng(seed)
    texts = rng.standard_normal((prompts, 16))[np.arange(takes) % prompts]
    return list(pull * texts + rng.standard_normal((takes, 16))), texts


def test_the_definition_and_the_exact_mean_over_shuffles() -> None:
    takes, texts = space(7, 7, 0.5)
    made = clap_score.compute([np.stack([take, 3 * take]) for take in takes], texts)
    cosines = np.array(
        [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in texts] for a in takes]
    )
    assert made.value == pytest.approx(np.diag(cosines).mean(), rel=1e-12)
    assert made.details["shuffled"] == pytest.approx(cosines[~np.eye(7, dtype=bool)].mean())
    wanted = ttest_1samp(np.diag(cosines), 0).confidence_interval(0.95)
    assert made.interval == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    assert (made.n_candidate, made.dimension) == (7, 16)
    assert "weakly" in made.warnings[0]


def test_takes_that_are_their_prompts() -> None:
    _, texts = space(6, 6, 1.0)
    made = clap_score.compute(list(texts), texts)
    assert made.value == pytest.approx(1.0) and made.interval == pytest.approx((1.0, 1.0))
    assert made.p_value is not None and made.p_value < 0.01
    assert clap_score.compute(list(-texts), texts).value == pytest.approx(-1.0)


def test_a_prompt_of_several_takes_is_no_floor_for_them_and_counts_once() -> None:
    takes, texts = space(12, 3, 1.0)
    made = clap_score.compute(takes, texts)
    rows = np.stack(takes) / np.linalg.norm(takes, axis=1, keepdims=True)
    cosines = rows @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T
    other = np.arange(12)[:, None] % 3 != np.arange(12)[None] % 3
    assert made.details["shuffled"] == pytest.approx(cosines[other].mean())
    assert made.n_reference == 3
    means = np.diag(cosines).reshape(4, 3).mean(axis=0)
    wanted = ttest_1samp(means, 0).confidence_interval(0.95)
    assert made.interval is not None
    assert made.interval == pytest.approx((max(wanted.low, -1), min(wanted.high, 1)), rel=1e-9)
    # The same texts from another batch differ in their last bits.
    noisy = texts * (1 + 1e-7 * np.random.default_rng(1).standard_normal(texts.shape))
    assert clap_score.compute(takes, noisy).n_reference == 3


def test_one_prompt_or_one_take() -> None:
    takes, texts = space(5, 1, 1.0)
    made = clap_score.compute(takes, texts)
    assert made.p_value is None and not made.details and made.interval is not None
    assert any("one prompt" in warning for warning in made.warnings)
    assert clap_score.compute(takes[:1], texts[:1]).interval is None


def test_p_values_are_even_where_prompts_are_not_followed() -> None:
    found = []
    for seed in range(200):
        takes, texts = space(8, 8, 0.0, seed)
        found.append(clap_score.compute(takes, texts, seed=seed, permutations=199).p_value)
    assert kstest(found, "uniform").pvalue > 0.01
    takes, texts = space(20, 20, 1.0)
    assert clap_score.compute(takes, texts).p_value == pytest.approx(1 / 1001)


def test_the_interval_covers_the_truth() -> None:
    truth = np.mean(
        [clap_score.compute(*space(400, 400, 0.5, s), permutations=0).value for s in range(40)]
    )
    for takes, prompts in ((32, 32), (48, 16)):
        hits = 0
        for seed in range(500):
            made = clap_score.compute(*space(takes, prompts, 0.5, 1000 + seed), permutations=0)
            assert made.interval is not None
            hits += made.interval[0] <= truth <= made.interval[1]
        assert 0.92 <= hits / 500 <= 0.98


def test_mistakes() -> None:
    takes, texts = space(4, 4, 1.0)
    with pytest.raises(UserError, match="4 takes and 3 prompts"):
        clap_score.compute(takes, texts[:3])
    with pytest.raises(UserError, match="wide"):
        clap_score.compute(takes, texts[:, :8])
    with pytest.raises(UserError, match="point nowhere"):
        clap_score.compute([np.zeros(16), *takes[1:]], texts)
    with pytest.raises(UserError, match="NaN"):
        clap_score.compute([np.full(16, np.nan), *takes[1:]], texts)


def test_twins_are_tested_in_pairs():
    draw = np.random.default_rng(3)
    text = draw.normal(size=(24, 16))
    base = list(0.3 * text + draw.normal(size=text.shape))
    nearer = [one + 0.4 * words for one, words in zip(base, text, strict=True)]
    assert clap_score.compare(base, base, text) == 1.0
    assert clap_score.compare(base, nearer, text) < 0.005
    assert clap_score.compare(nearer, base, text) < 0.005
    # One prompt's takes change sides together: with three prompts nothing can be told.
    few = np.repeat(text[:3], 8, axis=0)
    nearer = [one + 0.4 * words for one, words in zip(base, few, strict=True)]
    assert clap_score.compare(base, nearer, few) > 0.2
    with pytest.raises(UserError, match="twins"):
        clap_score.compare(base[1:], base, text)
