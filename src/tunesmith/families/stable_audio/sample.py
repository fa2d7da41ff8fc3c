"""Stable Audio's sampler: the scheduler that came with the checkpoint, a row its own noise.

A row comes out the same alone or in company: its first noise and the noise of every step of a
stochastic scheduler come from its own seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tunesmith.errors import Stopped
from tunesmith.families._inpainting import told_banded, told_of
from tunesmith.objectives import v_prediction
from tunesmith.objectives.noise import noise_like

if TYPE_CHECKING:
    from tunesmith.families.stable_audio.loss import StableAudioLoss

PURPOSE = "sample"


@dataclass(frozen=True, slots=True)
class Held:
    """Latents that the result is held to, or begins from.

    Attributes:
        latents: ``[B, C, T]`` of a recording.
        keep: ``[B, T]``, true where a frame stays as it is; None keeps none.
        strength: the time t from which the recording is made anew: 1 keeps nothing of it.
        banded: the latents are of a sound that lacks a band; it is made from noise, and told of them.
        instead: ``[B, C, T]``, told of where no frame is kept; see :func:`told_of`.
    """

    latents: Tensor
    keep: Tensor | None = None
    strength: float = 1.0
    banded: bool = False
    instead: Tensor | None = None


@torch.inference_mode()
def sample(
    module: StableAudioLoss,
    scheduler: Any,
    text: Mapping[str, Tensor],
    seconds: float,
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: float,
    held: Held | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> Tensor:
    """Sample latents ``[B, C, window]``.

    Args:
        module: the loss module; it is in evaluation mode.
        scheduler: of the checkpoint; a fresh copy of it is stepped.
        text: conditioning of the rows, encoded just now.
        seconds: where each sound ends.
        seeds: one per row.
        steps: of the sampler.
        guidance: 1 is off.
        held: what the rows begin from or are held to. Frames that are kept are noised to the level
            of each step and put in the sample's place before it (Lugmayr et al. 2022, arXiv:2201.09865,
            equation 8, without resampling).
        should_stop: polled each step.
    """
    device = next(module.parameters()).device
    text = {name: value.to(device) for name, value in text.items()}
    rows = len(seeds)
    ends = torch.full((rows,), float(seconds), device=device)
    guided = guidance != 1
    if guided:
        text = {name: torch.cat([value, value]) for name, value in text.items()}
        text["kept"] = text["kept"].clone()
        text["kept"][:rows] = 0
        ends = torch.cat([ends, ends])
    told = module.conditions(text, ends, fresh=True)
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps, device=device)
    times = scheduler.timesteps
    channels = int(module.transformer.config.in_channels)
    noise = noise_like(torch.zeros(rows, channels, module.window), seeds, purpose=PURPOSE)
    noise = noise.to(device)
    begin = 0
    sigmas = scheduler.sigmas.to(device)
    x = noise * scheduler.init_noise_sigma
    if held is not None:
        latents = held.latents.to(device).float()
        if held.strength < 1:
            begin = int((times > held.strength).sum())
            x = latents + sigmas[begin] * noise if begin < len(times) else latents
        scheduler.set_begin_index(begin)
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = _brownian(x, scheduler.config, seeds)
    given = None
    if held is not None and held.keep is not None:
        guess = None if held.instead is None else held.instead.to(latents)
        given = told_of(latents, held.keep.to(device), guess)
    elif held is not None and held.banded:
        given = told_banded(latents)
    if given is not None:
        told = replace(told, given=_beside_nothing(module, given) if guided else given)
    for index in range(begin, len(times)):
        if number := should_stop():
            raise Stopped(number, "stopped while generating")
        t = times[index]
        if held is not None and held.keep is not None:
            x = torch.where(held.keep.to(device)[:, None], latents + sigmas[index] * noise, x)
        shown = scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
        said = module.velocity(shown, t[None], told).float()
        if guided:
            without, with_text = said.chunk(2)
            said = without + guidance * (with_text - without)
        with warnings.catch_warnings():
            # The first level may lie a rounding above the tree's end, and the last, 0, below its start,
            # where its noise has no weight.
            warnings.filterwarnings("ignore", message="Should have t[ab]")
            x = scheduler.step(said, t, x).prev_sample
    if held is not None and held.keep is not None:
        x = torch.where(held.keep.to(device)[:, None], latents, x)
    return x.float()


def _beside_nothing(module: StableAudioLoss, given: Tensor) -> Tensor:
    """What is given, ``[B, T, C + 1]``, of the rows that guidance leads away from and of the others, ``[2B, ...]``.

    It leads away from a sound of which nothing is given, if the model has learnt such ones: toward what
    the surroundings say, and not toward the text alone.
    """
    learnt = module.holes is not None and module.holes.plain > 0
    return torch.cat([torch.zeros_like(given) if learnt else given, given])


def _brownian(x: Tensor, config: Any, seeds: Sequence[int]) -> Any:
    """Noise between two levels, each row from its own seed."""
    from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

    return BrownianTreeNoiseSampler(
        x, sigma_min=config.sigma_min, sigma_max=config.sigma_max, seed=[s % 2**63 for s in seeds]
    )


@torch.inference_mode()
def stepwise_difference(
    module: StableAudioLoss,
    scheduler: Any,
    batch_text: Mapping[str, Tensor],
    fresh_text: Mapping[str, Tensor],
    data: Tensor,
    seconds: float,
    seeds: Sequence[int],
) -> float:
    """Largest difference between what the loss and the sampler make of the same noisy latents.

    Both velocities, and the data that follow from them, at five levels of the scheduler.

    Args:
        module: the loss module.
        scheduler: of the checkpoint.
        batch_text: conditioning as in training, fresh_text: as in generation.
        data: ``[1, C, window]``.
        seconds: where the sound ends.
        seeds: of the noise.
    """
    device = next(module.parameters()).device
    data = data.to(device).float()
    noise = noise_like(data, seeds)
    ends = torch.full((1,), float(seconds), device=device)
    both = [
        module.conditions({k: v.to(device) for k, v in text.items()}, ends, fresh=fresh)
        for text, fresh in ((batch_text, False), (fresh_text, True))
    ]
    worst = 0.0
    for index in (0, 2, 4, 6, 9):
        own = type(scheduler).from_config(scheduler.config)
        own.set_timesteps(10, device=device)
        own.set_begin_index(index)
        level = own.timesteps[index]
        t = level[None].float()
        trained = module.velocity(v_prediction.add_noise(data, noise, t), t, both[0]).float()
        x = data + v_prediction.edm_sigma(t).view(-1, 1, 1) * noise
        said = module.velocity(own.scale_model_input(x, level), level[None], both[1]).float()
        worst = max(worst, float((said - trained).abs().max()))
        found = own.convert_model_output(said, sample=x)
        wanted = v_prediction.predict_data(v_prediction.add_noise(data, noise, t), trained, t)
        # What the scheduler computes passes through numbers as large as its noise.
        size = max(1.0, float(v_prediction.edm_sigma(t)))
        worst = max(worst, float((found - wanted).abs().max()) / size)
    return worst
