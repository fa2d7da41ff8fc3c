"""Gaussian data, for which the best velocity and the smallest loss are known in closed form.

Data x₀ ~ N(μ, S) and noise ε ~ N(0, 1), channel by channel; x_t = α x₀ + σ ε and v = a x₀ + b ε.
Both are Gaussian, so the best prediction is linear, and what it leaves is the conditional variance:

    E[v | x_t]  = a μ + (a α S + b σ) / (α² S + σ²) · (x_t − α μ)
    Var[v | x_t] = (a σ − b α)² S / (α² S + σ²)

Averaged over uniform t in [0, 1]: √S for v-prediction, (π/2) √S for flow matching.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from scipy.integrate import quad
from torch import Tensor

from tunesmith.objectives import flow_matching
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import quantile


def velocity_factors(objective: ModuleType, t: Tensor) -> tuple[Tensor, Tensor]:
    """a and b of v = a x₀ + b ε, ``[B]``; written anew, not taken from the objective."""
    if objective is flow_matching:
        return -torch.ones_like(t), torch.ones_like(t)
    return -torch.sin(math.pi * t / 2), torch.cos(math.pi * t / 2)


def path_factors(objective: ModuleType, t: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ of x_t = α x₀ + σ ε, ``[B]``; written anew."""
    if objective is flow_matching:
        return 1 - t, t
    return torch.cos(math.pi * t / 2), torch.sin(math.pi * t / 2)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, variance) in each channel, every frame for itself.

    Attributes:
        mean: ``[C]`` float64.
        variance: ``[C]`` float64.
    """

    mean: Tensor
    variance: Tensor

    def draw(self, seeds: Sequence[int], frames: int) -> Tensor:
        """Data ``[B, C, T]`` float64."""
        empty = torch.empty(len(seeds), len(self.mean), frames, dtype=torch.float64)
        unit = noise_like(empty, seeds, purpose="data")
        return self.mean[:, None] + self.variance.sqrt()[:, None] * unit

    def optimum(self, objective: ModuleType, noisy: Tensor, t: Tensor) -> Tensor:
        """E[v | x_t], ``[B, C, T]``."""
        t = t.double()
        a, b, alpha, sigma = (
            factor[:, None, None]
            for factor in (*velocity_factors(objective, t), *path_factors(objective, t))
        )
        mean, variance = self.mean[:, None], self.variance[:, None]
        slope = (a * alpha * variance + b * sigma) / (alpha**2 * variance + sigma**2)
        return a * mean + slope * (noisy - alpha * mean)

    def least(self, objective: ModuleType, t: Tensor) -> Tensor:
        """Smallest mean squared error at t, mean over channels, ``[B]``."""
        t = t.double()[:, None]
        (a, b), (alpha, sigma) = velocity_factors(objective, t), path_factors(objective, t)
        left = (a * sigma - b * alpha) ** 2 * self.variance
        return (left / (alpha**2 * self.variance + sigma**2)).mean(dim=1)

    def least_over_uniform(self, objective: ModuleType) -> float:
        """The same, averaged over uniform t in closed form."""
        factor = math.pi / 2 if objective is flow_matching else 1.0
        return factor * float(self.variance.sqrt().mean())

    def least_over(
        self,
        objective: ModuleType,
        weight: Callable[[Tensor], Tensor] = torch.ones_like,
        **distribution: object,
    ) -> float:
        """The same, averaged over a distribution of t by quadrature, each t weighted."""

        def at(u: float) -> float:
            t = quantile(torch.tensor([u], dtype=torch.float64), **distribution)  # type: ignore[arg-type]
            return float(weight(t) * self.least(objective, t))

        return quad(at, 0, 1, limit=200)[0]
