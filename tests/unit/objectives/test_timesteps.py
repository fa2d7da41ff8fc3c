"""Distributions of the timestep, against scipy and against their definitions by drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import ks_2samp, kstest, norm, uniform

from tunesmith.errors import UserError
from tunesmith.objectives.timesteps import KINDS, quantile, shifted, timesteps

N = 20_000
ACE_STEP = {"kind": "logit_normal", "mean": -0.4, "std": 1.0, "greatest_of": 2}


def unshifted(t: np.ndarray, shift: float) -> np.ndarray:
    return t / (shift - (shift - 1) * t)


@pytest.mark.parametrize(
    ("settings", "cdf"),
    [
        ({}, uniform.cdf),
        ({"shift": 3.0}, lambda t: unshifted(t, 3.0)),
        ({"kind": "logit_normal"}, lambda t: norm.cdf(logit(t))),
        (
            {"kind": "logit_normal", "mean": -0.4, "std": 1.7, "shift": 3.0},
            lambda t: norm.cdf((logit(unshifted(t, 3.0)) + 0.4) / 1.7),
        ),
        (ACE_STEP, lambda t: norm.cdf(logit(t) + 0.4) ** 2),
    ],
)
def test_distribution_is_the_one_stated(settings: dict[str, Any], cdf: Any) -> None:
    drawn = timesteps(range(N), **settings)
    assert drawn.shape == (N,) and drawn.dtype == torch.float32
    assert kstest(drawn.double().numpy(), cdf).pvalue > 1e-3
    u = torch.tensor([0.01, 0.3, 0.5, 0.9, 0.999], dtype=torch.float64)
    assert cdf(quantile(u, **settings).numpy()) == pytest.approx(u.numpy(), rel=1e-9)


def test_ace_steps_pair_is_not_one_draw() -> None:
    """Its ``sample_t_r``: the greater of two draws is t, also where mean flow is off."""
    rng = np.random.default_rng(0)
    pairs = expit(rng.normal(-0.4, 1.0, size=(N, 2))).max(axis=1)
    assert ks_2samp(timesteps(range(N), **ACE_STEP), pairs).pvalue > 1e-3
    assert ks_2samp(timesteps(range(N), "logit_normal", mean=-0.4), pairs).pvalue < 1e-100


def test_truncated_kind_is_stable_audio_3s() -> None:
    """Drawn as its trainer says: cut at Φ(logit c), put back on the logit-normal, rescaled, flipped."""
    rng = np.random.default_rng(1)
    cut = norm.cdf(logit(0.075))
    x = expit(norm.ppf(cut + (1 - cut) * rng.uniform(size=N)))
    assert (
        ks_2samp(timesteps(range(N), "truncated_logit_normal"), 1 - (x - 0.075) / 0.925).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_quantiles_rise_within_the_unit_interval(kind: str, shift: float) -> None:
    u = torch.linspace(1e-6, 1 - 1e-6, 1001, dtype=torch.float64)
    t = quantile(u, kind, shift=shift)
    assert (t.diff() > 0).all() and t.min() >= 0 and t.max() <= 1
    ends = quantile(torch.tensor([1e-300, 1 - 2**-53], dtype=torch.float64), kind, shift=shift)
    assert ends.isfinite().all()


def test_shift_keeps_the_ends_and_composes() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert shifted(t, 3.0)[[0, -1]].tolist() == [0.0, 1.0]
    assert torch.equal(shifted(t, 1.0), t)
    assert torch.allclose(shifted(shifted(t, 3.0), 1 / 3), t)
    assert (shifted(t, 3.0)[1:-1] > t[1:-1]).all()
    # The eight steps that ACE-Step's turbo checkpoint is served with.
    turbo = shifted(torch.linspace(1, 0, 9, dtype=torch.float64), 3.0)[:-1]
    stated = [1.0, 0.9545454545454546, 0.9, 0.8333333333333334, 0.75, 0.6428571428571429, 0.5, 0.3]
    assert turbo.tolist() == pytest.approx(stated)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "cosine"}, "no kind 'cosine'"),
        ({"kind": "logit_normal", "std": 0.0}, "std is 0"),
        ({"shift": -1.0}, "shift is -1"),
        ({"greatest_of": 0}, "greatest_of is 0"),
        ({"kind": "truncated_logit_normal", "truncate": 1.0}, "truncate is 1"),
    ],
)
def test_mistakes_are_said(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        timesteps([1], **settings)
