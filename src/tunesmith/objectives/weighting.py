"""How much an example's timestep counts in the loss.

Signal-to-noise ratio: SNR(t) = α_t² / σ_t². It never has to be divided out here, so nothing is
infinite at t = 0 or undefined at t = 1.
"""

from __future__ import annotations

from torch import Tensor

from tunesmith.errors import UserError


def min_snr(alpha: Tensor, sigma: Tensor, gamma: float = 5.0) -> Tensor:
    """min-SNR-γ weights ``[B]`` of a loss on a velocity: min(α_t², γ σ_t²).

    Hang et al. 2023 (arXiv:2303.09556, section 3) weigh the error of the predicted data by
    min(SNR, γ). Both velocities of this house give the data as x₀ = (...) − σ_t · velocity, so the
    error of the data is σ_t times that of the velocity, and

        w = min(SNR, γ) · σ_t² = min(α_t², γ σ_t²)

    For v-prediction (α² + σ² = 1) that is the paper's min(SNR, γ) / (SNR + 1); for flow matching
    it is min((1 − t)², γ t²) = min(SNR, γ) / (1 + √SNR)². Pure noise has weight 0.

    Args:
        alpha: ``[B]``, how much data x_t holds (``alpha_sigma`` of the objective).
        sigma: ``[B]``, how much noise.
        gamma: 5 is the paper's.

    Raises:
        UserError: gamma is not above 0.
    """
    if not gamma > 0:
        raise UserError(f"min-SNR: gamma is {gamma}", "give a number above 0; 5 is the usual one")
    return (alpha**2).minimum(gamma * sigma**2)
