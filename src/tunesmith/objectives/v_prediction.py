"""v-prediction on the circle: what Stable Audio Open 1.0 is trained with.

    α_t = cos(π t / 2),  σ_t = sin(π t / 2)
    x_t = α_t x₀ + σ_t ε
    v   = α_t ε − σ_t x₀                    the derivative of x_t along the circle's angle
    x₀  = α_t x_t − σ_t v,   ε = σ_t x_t + α_t v

Salimans & Ho 2022, arXiv:2202.00512, section 4 and appendix D; with this α and σ in
stable-audio-tools (``diffusion_objective: v``).

diffusers' ``CosineDPMSolverMultistepScheduler`` (and every scheduler with EDM preconditioning and
``prediction_type: v_prediction``) speaks of the same thing in the terms of Karras et al. 2022
(arXiv:2206.00364, table 1) with σ_data = 1: its sample is x̃ = x_t / α_t = x₀ + σ̃ ε, with

    σ̃ = σ_t / α_t = tan(π t / 2),  t = (2/π) atan σ̃          what the transformer is told
    c_in   = 1 / √(σ̃² + 1)   = α_t                             so it is shown x_t
    c_skip = 1 / (σ̃² + 1)    = α_t²
    c_out  = −σ̃ / √(σ̃² + 1)  = −σ_t                            so x₀ = α_t² x̃ − σ_t v

(The minus is diffusers'; Karras's own network says −v.)

All functions take t ``[B]`` and latents ``[B, ...]``, and promote half precision to float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tunesmith.objectives._rows import beside, widened


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """α_t and σ_t, ``[B]``; exactly 1 and 0 at t = 0, exactly 0 and 1 at t = 1."""
    t = widened(t)
    # cos(π/2) is not 0 in floating point, but sin(0) is.
    return torch.sin((1 - t) * (math.pi / 2)), torch.sin(t * (math.pi / 2))


def add_noise(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = α_t x₀ + σ_t ε, ``[B, ...]``."""
    alpha, sigma = beside(data, *alpha_sigma(t))
    return alpha * data + sigma * noise


def target(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """v = α_t ε − σ_t x₀, ``[B, ...]``: what the network is to say of x_t."""
    alpha, sigma = beside(data, *alpha_sigma(t))
    return alpha * noise - sigma * data


def predict_data(noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """x₀ = α_t x_t − σ_t v, ``[B, ...]``."""
    alpha, sigma = beside(noisy, *alpha_sigma(t))
    return alpha * noisy - sigma * velocity


def predict_noise(noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """ε = σ_t x_t + α_t v, ``[B, ...]``."""
    alpha, sigma = beside(noisy, *alpha_sigma(t))
    return sigma * noisy + alpha * velocity


def edm_sigma(t: Tensor) -> Tensor:
    """σ̃ = tan(π t / 2): the noise level of an EDM-style scheduler at t; infinite at t = 1."""
    alpha, sigma = alpha_sigma(t)
    return sigma / alpha


def time_of(edm_sigma: Tensor) -> Tensor:
    """t = (2/π) atan σ̃: what the transformer is told at the scheduler's noise level σ̃."""
    return edm_sigma.atan() * (2 / math.pi)
