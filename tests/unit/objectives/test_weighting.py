"""min-SNR against values worked out by hand and against the paper's own form."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.errors import UserError
from tunesmith.objectives import flow_matching, v_prediction
from tunesmith.objectives.weighting import min_snr


def test_by_hand() -> None:
    # v-prediction. t = 1/2: SNR 1, 1/(1 + 1). t = 1/3: α² = 3/4, SNR 3, 3/4.
    # t = 0.2: SNR = cot²(18°) = 9.47 > 5, 5·sin²(18°).
    t = torch.tensor([0.5, 1 / 3, 0.2], dtype=torch.float64)
    expected = [0.5, 0.75, 5 * math.sin(math.radians(18)) ** 2]
    assert min_snr(*v_prediction.alpha_sigma(t)).tolist() == pytest.approx(expected)
    # Flow matching. t = 1/2: SNR 1, 1·(1/2)². t = 1/4: SNR 9 > 5, 5/16. t = 0.4: SNR 9/4, 0.36.
    t = torch.tensor([0.5, 0.25, 0.4], dtype=torch.float64)
    assert min_snr(*flow_matching.alpha_sigma(t)).tolist() == pytest.approx([0.25, 0.3125, 0.36])
    assert min_snr(*flow_matching.alpha_sigma(t), gamma=1.0).tolist() == pytest.approx(
        [0.25, 0.0625, 0.16]
    )


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_the_papers_form(gamma: float) -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    alpha, sigma = v_prediction.alpha_sigma(t)
    snr = alpha**2 / sigma**2
    assert torch.allclose(min_snr(alpha, sigma, gamma), snr.clamp(max=gamma) / (snr + 1))
    alpha, sigma = flow_matching.alpha_sigma(t)
    snr = alpha**2 / sigma**2
    assert torch.allclose(
        min_snr(alpha, sigma, gamma), snr.clamp(max=gamma) / (1 + snr.sqrt()) ** 2
    )


@pytest.mark.parametrize("objective", [v_prediction, flow_matching])
def test_it_weighs_the_error_of_the_data(objective) -> None:
    """min(SNR, γ) times the squared error of x₀ is the weight times that of the velocity."""
    torch.manual_seed(0)
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    noisy, said, true = torch.randn(3, 19, 2, 5, dtype=torch.float64)
    alpha, sigma = objective.alpha_sigma(t)
    gaps = objective.predict_data(noisy, said, t) - objective.predict_data(noisy, true, t)
    of_data = (alpha**2 / sigma**2).clamp(max=5) * gaps.square().mean(dim=(1, 2))
    of_velocity = min_snr(alpha, sigma) * (said - true).square().mean(dim=(1, 2))
    assert torch.allclose(of_data, of_velocity)


@pytest.mark.parametrize("objective", [v_prediction, flow_matching])
def test_ends_are_finite(objective) -> None:
    assert min_snr(*objective.alpha_sigma(torch.tensor([0.0, 1.0]))).tolist() == [0.0, 0.0]


def test_gamma_has_to_be_positive() -> None:
    with pytest.raises(UserError, match="gamma is 0"):
        min_snr(torch.ones(1), torch.ones(1), 0)
