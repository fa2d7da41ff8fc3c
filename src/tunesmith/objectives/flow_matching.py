"""Flow matching on straight lines (rectified flow): what ACE-Step 1.5 and Stable Audio 3 train with.

    x_t = (1 − t) x₀ + t ε          t = 0 is data, t = 1 is noise
    u   = ε − x₀ = dx_t/dt          from data to noise
    x₀  = x_t − t u,   ε = x_t + (1 − t) u

Liu et al. 2022, arXiv:2209.03003, equation 1 (there from noise to data, with t the other way
round); Lipman et al. 2022, arXiv:2210.02747, section 4. Direction and sign here are those of
``AceStepPipeline`` and ``StableAudio3Pipeline`` in diffusers: both step from 1 to 0 by
x ← x + (t' − t) u with ``FlowMatchEulerDiscreteScheduler``, whose noise level is t, and the
stochastic sampler of the distilled checkpoints reads x₀ = x_t − t u. Their transformers are told t
itself, which is the scheduler's timestep when ``num_train_timesteps`` is 1. ACE-Step's is also told
a second time r; ``timestep_r = timestep`` makes what it says the velocity, in training as in the
pipeline.

All functions take t ``[B]`` and latents ``[B, ...]``, and promote half precision to float32.
"""

from __future__ import annotations

from torch import Tensor

from tunesmith.objectives._rows import beside, widened


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """1 − t and t, ``[B]``: how much data and how much noise x_t holds."""
    t = widened(t)
    return 1 - t, t


def add_noise(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 − t) x₀ + t ε, ``[B, ...]``."""
    alpha, sigma = beside(data, *alpha_sigma(t))
    return alpha * data + sigma * noise


def target(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """u = ε − x₀, ``[B, ...]``: what the network is to say of x_t, whatever t ``[B]`` is."""
    del t  # there so that both objectives are called alike
    return widened(noise) - widened(data)


def predict_data(noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """x₀ = x_t − t u, ``[B, ...]``."""
    _, sigma = beside(noisy, *alpha_sigma(t))
    return noisy - sigma * velocity


def predict_noise(noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """ε = x_t + (1 − t) u, ``[B, ...]``."""
    alpha, _ = beside(noisy, *alpha_sigma(t))
    return noisy + alpha * velocity
