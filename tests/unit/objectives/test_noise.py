"""Noise and timesteps belong to an example, not to its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest, pearsonr

from tunesmith.objectives.noise import noise_like, uniforms
from tunesmith.objectives.timesteps import timesteps

SEEDS = [3, 2**62 + 1, 77, 12]


def test_company_order_and_padding_change_nothing() -> None:
    whole = noise_like(torch.empty(4, 3, 200), SEEDS)
    for row, seed in enumerate(SEEDS):
        assert torch.equal(noise_like(torch.empty(1, 3, 200), [seed])[0], whole[row])
    back = noise_like(torch.empty(4, 3, 200), SEEDS[::-1])
    assert torch.equal(back.flip(0), whole)
    for frames in (1, 5, 63, 64, 65, 199, 1000):
        common = min(frames, 200)
        drawn = noise_like(torch.empty(4, 3, frames), SEEDS)
        assert torch.equal(drawn[..., :common], whole[..., :common]), frames
    assert torch.equal(timesteps(SEEDS[::-1]).flip(0), timesteps(SEEDS))
    assert torch.equal(torch.cat([timesteps([seed]) for seed in SEEDS]), timesteps(SEEDS))


def test_both_layouts_share_their_numbers() -> None:
    first = noise_like(torch.empty(4, 3, 70), SEEDS)
    last = noise_like(torch.empty(4, 70, 3), SEEDS, time_dim=1)
    assert last.is_contiguous() and torch.equal(first.transpose(1, 2), last)


def test_the_callers_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    noise_like(torch.empty(2, 3, 4), [1, 2])
    timesteps([1, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_shape_dtype_and_seeds_are_the_rows() -> None:
    assert noise_like(torch.empty(2, 3, 4, dtype=torch.bfloat16), [1, 2]).dtype == torch.bfloat16
    assert noise_like(torch.empty(2, 3, 0), [1, 2]).shape == (2, 3, 0)
    assert noise_like(torch.empty(0, 3, 4), []).shape == (0, 3, 4)
    with pytest.raises(ValueError, match="1 seeds for 2 rows"):
        noise_like(torch.empty(2, 3, 4), [1])


def test_it_is_standard_normal_and_rows_are_independent() -> None:
    drawn = noise_like(torch.empty(400, 2, 70), range(400))
    assert kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    # 400 rows of 140 numbers: correlations of neighbouring seeds have a standard error of 1/√140.
    across = np.corrcoef(drawn.flatten(1).numpy())[np.triu_indices(400, 1)]
    assert abs(across.std() * np.sqrt(140) - 1) < 0.05
    assert abs(across).max() < 6 / np.sqrt(140)


def test_a_timestep_tells_nothing_of_the_noise_drawn_with_it() -> None:
    seeds = range(4000)
    t, noise = timesteps(seeds).numpy(), noise_like(torch.empty(4000, 1, 4), seeds).numpy()
    for frame in range(4):
        assert abs(pearsonr(t, noise[:, 0, frame])[0]) < 4 / np.sqrt(4000)
    other = uniforms(seeds, "another purpose").numpy()
    assert abs(pearsonr(uniforms(seeds, "timestep").numpy(), other)[0]) < 4 / np.sqrt(4000)


def test_numbers_stay_what_they_were() -> None:
    """A change here gives every resumed run and every validation other noise."""
    told = uniforms([0, 1], "timestep").tolist()
    assert told == pytest.approx([0.8167009961334272, 0.45982495869803797], abs=1e-15)
    noise = noise_like(torch.empty(1, 2, 2), [0]).flatten().tolist()
    assert noise == pytest.approx([-1.6763972, 1.4792683, 2.3630292, -0.1747060], abs=1e-5)
