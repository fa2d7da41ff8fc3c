"""The two parametrisations: ends, ways back, precision, and diffusers' own tensors."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch

from tunesmith.objectives import flow_matching, v_prediction

BOTH = pytest.mark.parametrize("objective", [v_prediction, flow_matching])


def pair(rows: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, rows, 3, 7, generator=generator, dtype=torch.float64)
    return data, noise, torch.linspace(0, 1, rows, dtype=torch.float64)


@BOTH
def test_ways_back(objective: ModuleType) -> None:
    data, noise, t = pair()
    noisy, velocity = objective.add_noise(data, noise, t), objective.target(data, noise, t)
    assert torch.allclose(objective.predict_data(noisy, velocity, t), data, atol=1e-14)
    assert torch.allclose(objective.predict_noise(noisy, velocity, t), noise, atol=1e-14)


@BOTH
def test_ends(objective: ModuleType) -> None:
    data, noise, _ = (part.float() for part in pair(2))
    ends = torch.tensor([0.0, 1.0])
    noisy = objective.add_noise(data, noise, ends)
    assert torch.equal(noisy[0], data[0]) and torch.equal(noisy[1], noise[1])
    velocity = objective.target(data, noise, ends)
    if objective is v_prediction:
        assert torch.equal(velocity[0], noise[0]) and torch.equal(velocity[1], -data[1])
    else:
        assert torch.equal(velocity, noise - data)
    # Pure data needs no velocity to be known, whatever the network says.
    assert torch.equal(objective.predict_data(noisy, velocity + 9, ends)[0], data[0])


@BOTH
def test_velocity_is_the_derivative(objective: ModuleType) -> None:
    """Along t for flow matching, along the angle π t / 2 for v-prediction."""
    data, noise, t = pair()
    t = t.clamp(0.01, 0.99)
    step = 1e-6
    ahead, behind = (objective.add_noise(data, noise, t + s) for s in (step, -step))
    angle = math.pi / 2 if objective is v_prediction else 1.0
    slope = (ahead - behind) / (2 * step * angle)
    assert torch.allclose(slope, objective.target(data, noise, t), atol=1e-8)


@BOTH
def test_half_precision_is_widened(objective: ModuleType) -> None:
    data, noise, t = (part.to(torch.bfloat16) for part in pair())
    exact = [part.double() for part in (data, noise, t)]
    for function in (objective.add_noise, objective.target, objective.predict_data):
        made = function(data, noise, t)
        assert made.dtype == torch.float32
        assert torch.allclose(made.double(), function(*exact), atol=1e-5)


def test_v_prediction_is_the_cosine_schedulers() -> None:
    """EDM preconditioning with v_prediction and σ_data = 1 is the circle, in other words."""
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.3, sigma_max=500, sigma_data=1.0, prediction_type="v_prediction"
    )
    data, noise, t = pair()
    t = t.clamp(0.01, 0.99)
    levels = v_prediction.edm_sigma(t)
    assert torch.allclose(levels, torch.tan(math.pi * t / 2))
    assert torch.allclose(v_prediction.time_of(levels), t)
    noisy, velocity = v_prediction.add_noise(data, noise, t), v_prediction.target(data, noise, t)
    for row, level in enumerate(levels):
        sample = data[row] + level * noise[row]  # what add_noise of the scheduler makes
        assert torch.allclose(scheduler.precondition_inputs(sample, level), noisy[row])
        denoised = scheduler.precondition_outputs(sample, velocity[row], level)
        assert torch.allclose(denoised, data[row], atol=1e-12)
    shifted_sign = scheduler.precondition_outputs(sample, -velocity[-1], levels[-1])
    assert not torch.allclose(shifted_sign, data[-1], atol=1e-2)


def test_v_prediction_tells_the_transformer_the_cosine_schedulers_time() -> None:
    pytest.importorskip("torchsde", reason="the scheduler draws its noise from it")
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.CosineDPMSolverMultistepScheduler()
    scheduler.set_timesteps(50)
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.sigma_data == 1
    assert torch.allclose(v_prediction.time_of(scheduler.sigmas[:-1]), scheduler.timesteps)
    data, noise, _ = pair(50)
    given = scheduler.add_noise(data, noise, scheduler.timesteps)
    for row, t in enumerate(scheduler.timesteps):
        shown = scheduler.precondition_inputs(given[row], scheduler.sigmas[row].double())
        ours = v_prediction.add_noise(data[row : row + 1], noise[row : row + 1], t[None])[0]
        assert torch.allclose(shown, ours, atol=1e-5)


@pytest.mark.parametrize("stochastic", [False, True])
def test_flow_matching_is_the_flow_schedulers(stochastic: bool) -> None:
    """Noise level, timestep, direction and sign; the last step is predict_data."""
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1, shift=1.0, stochastic_sampling=stochastic
    )
    scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.25])
    assert scheduler.timesteps.tolist() == pytest.approx([1.0, 0.7, 0.25])
    data, noise, _ = (part.float() for part in pair(3))
    t = scheduler.timesteps
    noisy = flow_matching.add_noise(data, noise, t)
    assert torch.allclose(scheduler.scale_noise(data, t, noise), noisy)
    velocity = flow_matching.target(data, noise, t)
    if not stochastic:
        stepped = scheduler.step(velocity[:1], t[0], noisy[:1]).prev_sample
        assert torch.allclose(stepped, flow_matching.add_noise(data, noise, t[[1, 1, 1]])[:1])
    scheduler.set_begin_index(2)
    scheduler._step_index = None
    last = scheduler.step(velocity[2:], t[2], noisy[2:]).prev_sample
    assert torch.allclose(last, flow_matching.predict_data(noisy, velocity, t)[2:])
    assert torch.allclose(last, data[2:], atol=1e-6)
