"""Stable Audio 3's sampler: the checkpoint's scheduler over the pipeline's noise levels.

A row comes out the same alone or in company: its first noise, and where the scheduler draws more (the
distilled checkpoints), the noise of every step come from its own seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.pipelines.stable_audio_3.pipeline_stable_audio_3 import logsnr_sigma_schedule
from torch import Tensor

from tunesmith.errors import Stopped
from tunesmith.families.stable_audio_3.loss import told_of
from tunesmith.objectives import flow_matching
from tunesmith.objectives.noise import noise_like

if TYPE_CHECKING:
    from tunesmith.families.stable_audio_3.loss import StableAudio3Loss

PURPOSE = "sample"
_LOGSNR = (-6.2, 2.0)  # the pipeline's own: from the most to the least noise


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


def levels(scheduler: Any, steps: int, device: Any, most: float = 1.0) -> Any:
    """A fresh scheduler that will step through the pipeline's levels, from noise level ``most`` to 0.

    Below 1 the second level may lie above the first: so it is in the pipeline, and in its origin.
    """
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(sigmas=logsnr_sigma_schedule(steps, *_LOGSNR, sigma_max=most), device=device)
    own.set_begin_index(0)
    return own


@torch.inference_mode()
def sample(
    module: StableAudio3Loss,
    scheduler: Any,
    text: Mapping[str, Tensor],
    without: Mapping[str, Tensor],
    seconds: float,
    frames: int,
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: float,
    held: Held | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> Tensor:
    """Sample latents ``[B, C, frames]``.

    Args:
        module: the loss module; it is in evaluation mode.
        scheduler: of the checkpoint.
        text: conditioning of the rows, encoded just now; ``without`` the same of "".
        seconds: duration of each sound.
        frames: its latents.
        seeds: one per row.
        steps: of the sampler.
        guidance: 1 is off.
        held: what the rows begin from or are held to. What is kept is given to the transformer as the
            inpainting pipeline gives it, and stands in the result as it was.
        should_stop: polled each step.
    """
    device = next(module.parameters()).device
    rows = len(seeds)
    guided = guidance != 1
    if guided:
        text = {name: torch.cat([without[name], value]) for name, value in text.items()}
    text = {name: value.to(device) for name, value in text.items()}
    ends = torch.full((len(text["ids"]),), float(seconds), device=device)
    told = module.conditions(text, ends, fresh=True)
    channels = int(module.transformer.config.io_channels)
    noise = noise_like(torch.zeros(rows, channels, frames), seeds, purpose=PURPOSE)
    x = noise = noise.to(device)
    given = latents = keep = None
    strength = 1.0
    if held is not None:
        latents, strength = held.latents.to(device).float(), held.strength
        x = (1 - strength) * latents + strength * noise
        if held.keep is not None:
            keep = held.keep.to(device)
            given = told_of(latents, keep)
            given = torch.cat([given, given]) if guided else given
    own = levels(scheduler, steps, device, strength)
    draws = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
    for t in own.timesteps:
        if number := should_stop():
            raise Stopped(number, "stopped while generating")
        shown = torch.cat([x, x]) if guided else x
        said = module.velocity(shown, t[None], told, given=given).float()
        if guided:
            plain, with_text = said.chunk(2)
            said = plain + guidance * (with_text - plain)
        x = own.step(said, t, x, generator=draws).prev_sample
    if latents is not None and keep is not None:
        x = torch.where(keep[:, None], latents, x)
    return x.float()


@torch.inference_mode()
def stepwise_difference(
    module: StableAudio3Loss,
    scheduler: Any,
    text: Mapping[str, Tensor],
    data: Tensor,
    seconds: float,
    seeds: Sequence[int],
) -> float:
    """Largest difference between what the loss and the sampler make of the same noisy latents.

    Both velocities, and the data that follow from them, at five of the pipeline's levels.

    Args:
        module: the loss module.
        scheduler: of the checkpoint.
        text: conditioning of the clip.
        data: ``[1, C, T]``.
        seconds: its duration.
        seeds: of the noise.
    """
    device = next(module.parameters()).device
    data = data.to(device).float()
    noise = noise_like(data, seeds)
    text = {name: value.to(device) for name, value in text.items()}
    ends = torch.full((1,), float(seconds), device=device)
    trained, fresh = (module.conditions(text, ends, fresh=fresh) for fresh in (False, True))
    worst = 0.0
    for level in logsnr_sigma_schedule(10, *_LOGSNR)[::2]:
        t = torch.tensor([level], device=device)
        noisy = flow_matching.add_noise(data, noise, t)
        wanted = module.velocity(noisy, t, trained).float()
        own = type(scheduler).from_config(scheduler.config)
        own.set_timesteps(sigmas=[level], device=device)  # one step, down to the data
        (told,) = own.timesteps
        said = module.velocity(noisy, told[None], fresh).float()
        worst = max(worst, float((said - wanted).abs().max()))
        found = own.step(said, told, noisy, generator=[torch.Generator()]).prev_sample
        worst = max(
            worst, float((found - flow_matching.predict_data(noisy, wanted, t)).abs().max())
        )
    return worst
