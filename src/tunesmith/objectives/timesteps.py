"""Where along the noise a training example stands: t in [0, 1], 0 is data and 1 is noise.

Each row's t is a quantile function applied to one uniform number of the row's own seed:

    uniform                 t = u
    logit_normal            logit t = mean + std · Φ⁻¹(u)
    truncated_logit_normal  see :func:`quantile`                stable-audio-3's LoRA trainer

then t ← s·t / (1 + (s − 1)·t) with the shift s, as ACE-Step's pipeline and
``FlowMatchEulerDiscreteScheduler`` shift theirs. Logit-normal: Esser et al. 2024, arXiv:2403.03206,
equation 19; shift: equation 23.

Stratified or quasi-random timesteps (one t per stratum of the batch; Stable Audio Open's trainer
draws them from a Sobol sequence) have less variance, but then a clip's t depends on the size and the
order of its batch. Slicing a batch otherwise would train another model, so they are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.objectives.noise import uniforms

KINDS = ("uniform", "logit_normal", "truncated_logit_normal")


def shifted(t: Tensor, shift: float) -> Tensor:
    """s·t / (1 + (s − 1)·t): above 1 toward noise, below 1 toward data; the ends stay. ``[B]``."""
    return shift * t / (1 + (shift - 1) * t)


def quantile(
    u: Tensor,
    kind: str = "uniform",
    *,
    mean: float = 0.0,
    std: float = 1.0,
    greatest_of: int = 1,
    truncate: float = 0.075,
    shift: float = 1.0,
) -> Tensor:
    """The t below which a share ``u`` of the distribution lies, shape and dtype of ``u``.

    Args:
        u: shares strictly between 0 and 1.
        kind: one of :data:`KINDS`.
        mean: of logit t (logit_normal). For flow matching logit t is minus half the log-SNR, so a
            normal log ((1 − t)/t) of mean m is this with mean −m.
        std: of logit t (logit_normal).
        greatest_of: t is the greatest of so many independent draws, whose distribution function is
            F(t)^n. ACE-Step 1.5's ``sample_t_r`` draws a pair from mean −0.4 and std 1, takes the
            greater as t, and keeps it as t when mean flow is off: greatest_of=2, not 1.
        truncate: (truncated_logit_normal) 1 − t is a logit-normal of mean 0 and std 1 that is cut
            and rescaled to (x − c)/(1 − c), with the distribution cut at Φ(logit c).
        shift: applied last.

    Raises:
        UserError: a kind that does not exist, or a parameter out of range.
    """
    if kind not in KINDS:
        raise UserError(f"timesteps: there is no kind '{kind}'", f"use one of {', '.join(KINDS)}")
    for name, value in (("std", std), ("shift", shift), ("greatest_of", greatest_of)):
        if not 0 < value < math.inf:
            raise UserError(f"timesteps: {name} is {value}", "give a number above 0")
    if not 0 < truncate < 1:
        raise UserError(f"timesteps: truncate is {truncate}", "give a number between 0 and 1")
    if greatest_of != 1:
        u = u ** (1 / greatest_of)
    if kind == "uniform":
        t = u
    elif kind == "logit_normal":
        t = torch.sigmoid(mean + std * torch.special.ndtri(u))
    else:
        cut = 0.5 * math.erfc(-math.log(truncate / (1 - truncate)) / math.sqrt(2))  # Φ(logit c)
        x = torch.sigmoid(torch.special.ndtri(cut + (1 - cut) * (1 - u)))
        t = 1 - (x - truncate) / (1 - truncate)
    return shifted(t, shift).clamp(0, 1)


def timesteps(
    seeds: Sequence[int],
    kind: str = "uniform",
    *,
    mean: float = 0.0,
    std: float = 1.0,
    greatest_of: int = 1,
    truncate: float = 0.075,
    shift: float = 1.0,
) -> Tensor:
    """One t per example, ``[B]`` float32; row i from ``seeds[i]`` alone, see :func:`quantile`."""
    drawn = quantile(
        uniforms(seeds, "timestep"),
        kind,
        mean=mean,
        std=std,
        greatest_of=greatest_of,
        truncate=truncate,
        shift=shift,
    )
    return drawn.float()
