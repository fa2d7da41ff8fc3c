"""Losses and samplers of diffusion families on Gaussian data, whose answers are formulas.

    python -m bench.objectives [--rows 100000] [--quick]

The loss at the best prediction has a closed form (bench/_gaussian.py); so has the point that the
sampler ends in when it is given the best velocity. Needs diffusers, and torchsde for the sampler
that Stable Audio Open is served with.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench._gaussian import Gaussian
from bench._results import Row, parser, record
from tunesmith.objectives import flow_matching, v_prediction
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import timesteps
from tunesmith.objectives.velocity_loss import velocity_loss
from tunesmith.objectives.weighting import min_snr

FRAMES = 4
SLICE = 5000
DATA = Gaussian(
    torch.tensor([0.0, 2.0, -1.0, 0.5], dtype=torch.float64),
    torch.tensor([1.0, 0.25, 4.0, 0.01], dtype=torch.float64),
)
NAMES = {v_prediction: "v-prediction", flow_matching: "flow matching"}
DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "ACE-Step 1.5's": {"kind": "logit_normal", "mean": -0.4, "greatest_of": 2},
    "truncated logit-normal": {"kind": "truncated_logit_normal"},
}
_BAR = "the closed-form minimum within sampling error (4 standard errors)"


def losses(
    objective: ModuleType,
    rows: int,
    settings: dict[str, Any],
    predicts: Callable[[Tensor, Tensor], Tensor],
    weighted: bool = False,
) -> Tensor:
    """Loss per frame of each row, ``[rows]``, drawn as a family draws it."""
    parts = []
    for start in range(0, rows, SLICE):
        seeds = range(start, min(start + SLICE, rows))
        data = DATA.draw(seeds, FRAMES)
        noise, t = noise_like(data, seeds), timesteps(seeds, **settings)
        noisy = objective.add_noise(data, noise, t)
        weights = min_snr(*objective.alpha_sigma(t)) if weighted else None
        sums, counts = velocity_loss(
            predicts(noisy, t), objective.target(data, noise, t), weights=weights
        )
        parts.append(sums / counts)
    return torch.cat(parts)


def loss_rows(rows: int) -> list[Row]:
    made = []
    for objective, name in NAMES.items():

        def best(noisy: Tensor, t: Tensor, objective: ModuleType = objective) -> Tensor:
            return DATA.optimum(objective, noisy, t)

        for told, settings in DISTRIBUTIONS.items():
            for weighted in (False, True) if told == "uniform" else (False,):
                found = losses(objective, rows, settings, best, weighted)
                if weighted:
                    least = DATA.least_over(
                        objective,
                        lambda t, objective=objective: min_snr(*objective.alpha_sigma(t)),
                    )
                else:
                    least = (
                        DATA.least_over(objective, **settings)
                        if settings
                        else DATA.least_over_uniform(objective)
                    )
                mean, error = float(found.mean()), float(found.std()) / math.sqrt(rows)
                off = (mean - least) / error
                words = ", min-SNR-5 weights" if weighted else ""
                made.append(
                    Row(
                        f"loss at the analytic optimum: {name}, {told} timesteps{words}",
                        _BAR,
                        f"{mean:.5f} ± {error:.5f} against {least:.5f} ({off:+.1f})",
                        abs(off) < 4,
                    )
                )
        least = losses(objective, rows, {}, best)
        gaps = []
        for factor, shift in ((1.1, 0.0), (0.9, 0.0), (1.0, 0.1), (-1.0, 0.0)):

            def other(
                noisy: Tensor, t: Tensor, factor: float = factor, shift: float = shift
            ) -> Tensor:
                return factor * best(noisy, t) + shift

            worse = losses(objective, rows, {}, other) - least
            gaps.append(float(worse.mean()) / (float(worse.std()) / math.sqrt(rows)))
        made.append(
            Row(
                f"the same, predictions moved off the optimum (×1.1, ×0.9, +0.1, ×−1): {name}",
                "each worse by more than 4 standard errors",
                "worse by " + ", ".join(f"{gap:.0f}" for gap in gaps) + " standard errors",
                min(gaps) > 4,
            )
        )
    return made


def flow_error(schedulers: Any, steps: int) -> float:
    """Largest distance of a sample from where the ODE takes it, in standard deviations."""
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=3.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, steps + 1)[:-1].tolist())
    unit = noise_like(torch.empty(64, 4, 4, dtype=torch.float64), range(64), purpose="start")
    sample = unit
    for t in scheduler.timesteps:
        said = DATA.optimum(flow_matching, sample, t.expand(64))
        sample = scheduler.step(said, t, sample).prev_sample
    sd = DATA.variance.sqrt()[:, None]
    return float(((sample - DATA.mean[:, None]) / sd - unit).abs().max())


def circle_moments(schedulers: Any, steps: int, rows: int) -> tuple[float, float]:
    """Largest error of mean and of standard deviation over channels, in standard deviations."""
    scheduler = schedulers.CosineDPMSolverMultistepScheduler(sigma_min=0.005, sigma_max=500)
    scheduler.set_timesteps(steps)
    sample = noise_like(torch.empty(rows, 4, FRAMES), range(rows), purpose="start")
    sample = sample * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(1)
    for told in scheduler.timesteps:
        shown = scheduler.scale_model_input(sample, told).double()
        said = DATA.optimum(v_prediction, shown, told.expand(rows)).float()
        sample = scheduler.step(said, told, sample, generator=generator).prev_sample
    ends, sd = sample.double().movedim(1, 0).flatten(1), DATA.variance.sqrt()
    off = ((ends.mean(1) - DATA.mean) / sd).abs().max()
    return float(off), float((ends.std(1) / sd - 1).abs().max())


def sampler_rows(rows: int, quick: bool) -> list[Row]:
    flow_name = "sampler (FlowMatchEulerDiscreteScheduler, shift 3) with the analytic velocity"
    circle_name = "sampler (CosineDPMSolverMultistepScheduler) with the analytic velocity"
    flow_bar, circle_bar = (
        "each sample ends in μ + √S z: error ∝ 1/steps, < 0.05 sd",
        "N(0, 1) becomes N(μ, S)",
    )
    missing = "not measured: no diffusers"
    try:
        from diffusers import schedulers
    except ImportError:
        return [
            Row(flow_name, flow_bar, None, missing=missing),
            Row(circle_name, circle_bar, None, missing=missing),
        ]
    coarse, fine = flow_error(schedulers, 250), flow_error(schedulers, 1000)
    made = [
        Row(
            flow_name,
            flow_bar,
            f"largest error {coarse:.4f} sd at 250 steps, {fine:.4f} at 1,000",
            fine < 0.05 and 3.5 < coarse / fine < 4.5,
        )
    ]
    try:
        import torchsde  # noqa: F401
    except ImportError:
        made.append(Row(circle_name, circle_bar, None, missing="not measured: no torchsde"))
        return made
    steps = 50 if quick else 200
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchsde: rounding at both ends
        mean, spread = circle_moments(schedulers, steps, rows)
    error = 1 / math.sqrt(rows * FRAMES)
    made.append(
        Row(
            circle_name,
            f"{circle_bar}, within 4 standard errors and 1 %",
            f"{steps} steps, {rows * FRAMES:,} samples: mean off by {mean:.4f} sd, "
            f"sd off by {100 * spread:.2f} % (standard errors {error:.4f}, {70.7 * error:.2f} %)",
            mean < 4 * error + 0.01 and spread < 4 * error / math.sqrt(2) + 0.01,
        )
    )
    return made


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=100_000, help="examples drawn per figure")
    args = options.parse_args()
    rows = 4000 if args.quick else args.rows
    made = [*loss_rows(rows), *sampler_rows(min(rows, 20_000), args.quick)]
    if args.quick:
        for row in made:
            print(f"{row.what}: {row.figure}")
        return
    record(
        "objectives",
        "Losses and samplers of diffusion",
        made,
        notes=(
            f"{rows:,} examples of {FRAMES} frames and 4 channels, means 0, 2, −1, 0.5 and variances "
            "1, 0.25, 4, 0.01; noise and timesteps drawn as in training, from each example's seed. "
            "In brackets: the difference in standard errors."
        ),
        packages=("torch", "diffusers", "torchsde", "scipy"),
    )


if __name__ == "__main__":
    main()
