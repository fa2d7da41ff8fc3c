"""ACE-Step's sampler: the pipeline's noise levels and guidance, a row its own noise.

Guidance is adaptive projected (Sadat et al. 2024, arXiv:2410.02416), diffusers' own function with the
pipeline's numbers, which are those of the model's first code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from torch import Tensor

from tunesmith.errors import Stopped
from tunesmith.objectives import flow_matching
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import shifted

if TYPE_CHECKING:
    from tunesmith.families.ace_step.loss import AceStepLoss

PURPOSE = "sample"
_MOMENTUM, _THRESHOLD = -0.75, 2.5


@dataclass(frozen=True, slots=True)
class Held:
    """Latents that the result is held to, or begins from.

    Attributes:
        latents: ``[B, C, T]`` of a recording.
        keep: ``[B, T]``, true where a frame stays as it is; None keeps none.
        strength: noise level, above 0, from which the recording is made anew: 1 keeps nothing of it.
    """

    latents: Tensor
    keep: Tensor | None = None
    strength: float = 1.0


def levels(steps: int, shift: float, most: float = 1.0) -> list[float]:
    """Noise levels of the steps, falling from ``most``; those of the pipeline where that is 1."""
    whole = shifted(torch.linspace(1.0, 0.0, steps + 1), shift)[:-1].tolist()
    return whole if most >= 1 else [most, *(level for level in whole if level < most)]


def prepared(scheduler: Any, sigmas: Sequence[float], device: Any) -> Any:
    """A fresh scheduler that will step through these levels, and on to 0."""
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(sigmas=list(sigmas), device=device)
    return own


@torch.inference_mode()
def sample(
    module: AceStepLoss,
    scheduler: Any,
    text: Mapping[str, Tensor],
    frames: int,
    seeds: Sequence[int],
    *,
    steps: int,
    shift: float,
    guidance: float,
    held: Held | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> Tensor:
    """Sample latents ``[B, C, frames]``.

    Args:
        module: the loss module; it is in evaluation mode.
        scheduler: of the checkpoint.
        text: conditioning of the rows, encoded just now.
        frames: latents of each sound.
        seeds: one per row.
        steps: of the sampler.
        shift: of its noise levels.
        guidance: 1 or less is off.
        held: what the rows begin from or are held to. What is kept is given to the transformer as the
            pipeline's repainting gives it, and stands in the result as it was.
        should_stop: polled each step.
    """
    device = next(module.parameters()).device
    rows, guided = len(seeds), guidance > 1
    text = {name: value.to(device) for name, value in text.items()}
    if guided:
        text = {name: torch.cat([value, value]) for name, value in text.items()}
        text["kept"] = text["kept"].clone()
        text["kept"][rows:] = 0
    keep = latents = None
    strength = 1.0
    if held is not None:
        latents, strength = held.latents.to(device).float(), held.strength
        keep = None if held.keep is None else held.keep.to(device)
    repainted = None if keep is None else keep.any(dim=1)
    if guided and repainted is not None:
        repainted = torch.cat([repainted, repainted])
    told = module.conditions(text, fresh=True, repainted=repainted)
    beside = module.surroundings(rows, frames, latents, keep)
    if guided:
        beside = torch.cat([beside, beside])
    channels = int(module.transformer.config.audio_acoustic_hidden_dim)
    noise = noise_like(torch.zeros(rows, channels, frames), seeds, purpose=PURPOSE).to(device)
    x = noise
    if latents is not None:
        x = (1 - strength) * latents + strength * noise
    own = prepared(scheduler, levels(steps, shift, strength), device)
    momentum = MomentumBuffer(_MOMENTUM)
    for t in own.timesteps:
        if number := should_stop():
            raise Stopped(number, "stopped while generating")
        shown = torch.cat([x, x]) if guided else x
        said = module.velocity(shown, t[None], told, beside).float()
        if guided:
            with_text, without = said.chunk(2)
            said = normalized_guidance(
                with_text,
                without,
                guidance - 1,
                momentum,
                eta=0.0,
                norm_threshold=_THRESHOLD,
                use_original_formulation=True,
                norm_dim=(2,),  # time; the pipeline has it before the channels
            )
        x = own.step(said, t, x).prev_sample
    if latents is not None and keep is not None:
        x = torch.where(keep[:, None], latents, x)
    return x.float()


@torch.inference_mode()
def stepwise_difference(
    module: AceStepLoss,
    scheduler: Any,
    text: Mapping[str, Tensor],
    data: Tensor,
    shift: float,
    seeds: Sequence[int],
) -> float:
    """Largest difference between what the loss and the sampler make of the same noisy latents.

    Both velocities, and the data that follow from them, at five of the pipeline's levels.

    Args:
        module: the loss module.
        scheduler: of the checkpoint.
        text: conditioning of the clip.
        data: ``[1, C, T]``.
        shift: of the noise levels.
        seeds: of the noise.
    """
    device = next(module.parameters()).device
    data = data.to(device).float()
    noise = noise_like(data, seeds)
    text = {name: value.to(device) for name, value in text.items()}
    trained, fresh = (module.conditions(text, fresh=one) for one in (False, True))
    beside = module.surroundings(1, data.shape[-1])
    worst = 0.0
    for level in levels(10, shift)[::2]:
        own = prepared(scheduler, [level], device)  # one step, down to the data
        (told,) = own.timesteps
        t = torch.tensor([level], device=device)
        noisy = flow_matching.add_noise(data, noise, t)
        wanted = module.velocity(noisy, t, trained, beside).float()
        said = module.velocity(noisy, told[None], fresh, beside).float()
        worst = max(worst, float((said - wanted).abs().max()))
        found = own.step(said, told, noisy).prev_sample
        worst = max(
            worst, float((found - flow_matching.predict_data(noisy, wanted, t)).abs().max())
        )
    return worst
