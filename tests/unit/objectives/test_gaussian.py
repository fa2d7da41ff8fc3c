"""Loss and sampler on Gaussian data, whose best velocity is known in closed form."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench._gaussian import Gaussian
from tunesmith.objectives import flow_matching, v_prediction
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import timesteps
from tunesmith.objectives.velocity_loss import valid_frames, velocity_loss
from tunesmith.objectives.weighting import min_snr

BOTH = pytest.mark.parametrize("objective", [v_prediction, flow_matching])
DATA = Gaussian(
    torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64),
    torch.tensor([1.0, 0.25, 4.0], dtype=torch.float64),
)
SEEDS = range(6000)
FRAMES = 8


def example(objective: ModuleType, **distribution: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, their target and t, as a family makes them."""
    data = DATA.draw(SEEDS, FRAMES)
    noise, t = noise_like(data, SEEDS), timesteps(SEEDS, **distribution)
    return objective.add_noise(data, noise, t), objective.target(data, noise, t), t


def away(values: Tensor, expected: float) -> float:
    """Distance of the rows' mean from what is expected, in standard errors."""
    error = float(values.std()) / math.sqrt(len(values))
    return abs(float(values.mean()) - expected) / error


@BOTH
@pytest.mark.parametrize(
    "distribution",
    [
        {},
        {"kind": "logit_normal", "mean": -0.4, "greatest_of": 2},
        {"kind": "logit_normal", "shift": 3.0},
        {"kind": "truncated_logit_normal"},
    ],
)
def test_loss_at_the_optimum_is_the_least(objective: ModuleType, distribution: dict) -> None:
    noisy, target, t = example(objective, **distribution)
    sums, counts = velocity_loss(DATA.optimum(objective, noisy, t), target)
    least = DATA.least_over(objective, **distribution)
    assert away(sums / counts, least) < 4
    if not distribution:
        assert least == pytest.approx(DATA.least_over_uniform(objective), rel=1e-6)
    # Given t, the spread is small: a loss that is off by three per cent would be seen.
    assert away((sums / counts) / DATA.least(objective, t), 1.0) < 4
    assert float((sums / counts).std()) / math.sqrt(len(t)) < 0.01 * least


@BOTH
def test_weighted_loss_at_the_optimum(objective: ModuleType) -> None:
    noisy, target, t = example(objective)
    weights = min_snr(*objective.alpha_sigma(t))
    sums, counts = velocity_loss(DATA.optimum(objective, noisy, t), target, weights=weights)
    least = DATA.least_over(objective, lambda at: min_snr(*objective.alpha_sigma(at)))
    assert away(sums / counts, least) < 4
    assert least < 0.6 * DATA.least_over_uniform(objective)  # the weights do something


@BOTH
def test_every_other_prediction_is_worse_by_its_squared_distance(objective: ModuleType) -> None:
    noisy, target, t = example(objective)
    best = DATA.optimum(objective, noisy, t)
    other_objective = flow_matching if objective is v_prediction else v_prediction
    least = velocity_loss(best, target)[0] / FRAMES
    for name, other in {
        "scaled": 1.1 * best,
        "moved": best + 0.1,
        "sign": -best,
        "data and noise confused": DATA.optimum(objective, noisy, 1 - t),
        "the other objective's": DATA.optimum(other_objective, noisy, t),
        "nothing": torch.zeros_like(best),
        "wavy": best + 0.2 * torch.sin(3 * noisy),
    }.items():
        worse = velocity_loss(other, target)[0] / FRAMES - least
        distance = velocity_loss(other, best)[0] / FRAMES
        # E[loss] = least + E‖v̂ − E[v|x_t]‖²: what the best prediction leaves is orthogonal.
        assert away(worse - distance, 0.0) < 4, name
        assert float(worse.mean()) > 4 * float(worse.std()) / math.sqrt(len(t)), name


@BOTH
def test_padding_does_not_enter(objective: ModuleType) -> None:
    noisy, target, t = example(objective)
    best = DATA.optimum(objective, noisy, t)
    frames = torch.tensor([1 + seed % FRAMES for seed in SEEDS])
    mask = valid_frames(frames, FRAMES)
    spoilt = torch.where(mask[:, None], best, 1e6)
    sums, counts = velocity_loss(spoilt, target, mask)
    assert torch.equal(counts, frames.float())
    ratio = sums / counts / DATA.least(objective, t)
    assert away(ratio, 1.0) < 4


@BOTH
def test_a_linear_model_that_minimises_the_loss_finds_the_optimum(objective: ModuleType) -> None:
    """Least squares at one t: what training would end in."""
    data = DATA.draw(SEEDS, FRAMES)
    noise, t = noise_like(data, SEEDS), torch.full((len(SEEDS),), 0.3, dtype=torch.float64)
    noisy, target = objective.add_noise(data, noise, t), objective.target(data, noise, t)
    for channel in range(3):
        x, v = (part[:, channel].flatten().numpy() for part in (noisy, target))
        ones = torch.zeros(2, 3, 1, dtype=torch.float64)
        ones[1] = 1
        offset, sloped = DATA.optimum(objective, ones, t[:2])[:, channel, 0].tolist()
        slope, intercept = np.polyfit(x, v, 1)
        left = float(np.std(v - slope * x - intercept))
        error = left / x.std() / math.sqrt(x.size)
        assert abs(slope - (sloped - offset)) < 4 * error
        assert abs(intercept - offset) < 4 * left * math.sqrt(
            (1 + (x.mean() / x.std()) ** 2) / x.size
        )


# Sampling with the analytic velocity. For Gaussian data the probability-flow ODE is a linear map,
# so every single sample has a known end: μ + √S · z.


def starts() -> tuple[Tensor, Tensor]:
    unit = noise_like(torch.empty(64, 3, 4, dtype=torch.float64), range(64), purpose="start")
    return unit, DATA.mean[:, None] + DATA.variance.sqrt()[:, None] * unit


def sampled_by_flow(steps: int, shift: float, velocity: Any) -> Tensor:
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, steps + 1)[:-1].tolist())
    sample = starts()[0]
    for t in scheduler.timesteps:
        said = velocity(sample, t.expand(len(sample)))
        sample = scheduler.step(said, t, sample).prev_sample
    return sample


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_sampler_carries_noise_to_the_data(shift: float) -> None:
    _, ends = starts()

    def error(steps: int) -> float:
        made = sampled_by_flow(steps, shift, lambda x, t: DATA.optimum(flow_matching, x, t))
        return float((made - ends).abs().max())

    coarse, fine = error(100), error(400)
    assert fine < 0.03 and coarse / fine == pytest.approx(4, rel=0.2)  # Euler: first order


def test_flow_sampler_with_a_wrong_convention_misses() -> None:
    _, ends = starts()
    for wrong in (
        lambda x, t: -DATA.optimum(flow_matching, x, t),
        lambda x, t: DATA.optimum(flow_matching, x, 1 - t),
        lambda x, t: DATA.optimum(v_prediction, x, t),
    ):
        assert float((sampled_by_flow(100, 1.0, wrong) - ends).abs().mean()) > 0.3


def sampled_by_circle(scheduler: Any, sample: Tensor, velocity: Any) -> Tensor:
    """As ``StableAudioPipeline`` does, with the time that the noise level stands for."""
    for index, told in enumerate(scheduler.timesteps):
        shown = scheduler.scale_model_input(sample, told)
        t = v_prediction.time_of(scheduler.sigmas[index]).expand(len(sample))
        sample = scheduler.step(velocity(shown, t), told, sample).prev_sample
    return sample


def ode_scheduler(steps: int) -> Any:
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.01,
        sigma_max=500,
        sigma_data=1.0,
        sigma_schedule="exponential",
        prediction_type="v_prediction",
    )
    scheduler.set_timesteps(steps)
    return scheduler


def test_dpm_sampler_carries_noise_to_the_data() -> None:
    unit, _ = starts()
    # The start is x₀ + σ̃ ε of some x₀; the map from σ̃ = 500 to 0 scales deviations from the mean.
    spread = (DATA.variance / (DATA.variance + 500**2)).sqrt()[:, None]
    ends = DATA.mean[:, None] + spread * (500 * unit - DATA.mean[:, None])

    def error(steps: int, velocity: Any = lambda x, t: DATA.optimum(v_prediction, x, t)) -> float:
        made = sampled_by_circle(ode_scheduler(steps), 500 * unit, velocity)
        return float((made - ends).abs().max())

    coarse, fine = error(40), error(160)
    assert fine < 0.01 and coarse / fine > 6  # better than first order
    assert error(160, lambda x, t: -DATA.optimum(v_prediction, x, t)) > 1
    assert error(160, lambda x, t: DATA.optimum(flow_matching, x, t)) > 0.3


@pytest.mark.filterwarnings("ignore:Should have t.<=t1:UserWarning")  # its float32 rounding
@pytest.mark.filterwarnings("ignore:Should have t.>=t0:UserWarning")  # its last step goes to 0
def test_stable_audios_own_sampler_carries_noise_to_the_data() -> None:
    """The stochastic DPM solver that Stable Audio Open is served with, told its own timesteps."""
    pytest.importorskip("torchsde", reason="the scheduler draws its noise from it")
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.CosineDPMSolverMultistepScheduler(sigma_min=0.02, sigma_max=500)
    scheduler.set_timesteps(120)
    rows = 1500
    sample = noise_like(torch.empty(rows, 3, 4), range(rows), purpose="start")
    sample = sample * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(1)
    for told in scheduler.timesteps:
        shown = scheduler.scale_model_input(sample, told)
        said = DATA.optimum(v_prediction, shown.double(), told.expand(rows)).float()
        sample = scheduler.step(said, told, sample, generator=generator).prev_sample
    made = sample.double().movedim(1, 0).flatten(1)
    count = made.shape[1]
    sd = DATA.variance.sqrt()
    # Sampling error, and two per cent for 120 steps.
    assert ((made.mean(1) - DATA.mean).abs() < 4 * sd / math.sqrt(count) + 0.02 * sd).all()
    assert ((made.std(1) / sd - 1).abs() < 4 / math.sqrt(2 * count) + 0.02).all()
