"""CSM's sampler: the backbone a frame at a time, the depth decoder a codebook at a time, both cached.

``transformers``' own ``generate`` draws a whole batch from one global stream. Here each row draws from
its own seed, so that a row comes out the same alone or in company.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from tunesmith.errors import Stopped
from tunesmith.families._sampling import pick
from tunesmith.types import GenerationSettings

if TYPE_CHECKING:
    from tunesmith.families.csm.loss import CsmLoss


@torch.inference_mode()
def sample_codes(
    module: CsmLoss,
    text: Mapping[str, Tensor],
    most: int,
    codes: int,
    seeds: Sequence[int],
    settings: GenerationSettings,
    given: Sequence[Tensor] | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> list[Tensor]:
    """Sample codes ``[K, T]`` of each row, T from 1 to ``most``: the model says where its speech ends.

    Args:
        module: the loss module whose model is sampled.
        text: conditioning of the prompts, as ``collate`` makes it.
        most: frames of a row at most, the given part included.
        codes: codes that the codec knows; the model's vocabulary has a few beyond them.
        seeds: one per row.
        settings: of sampling.
        given: codes ``[K, T0]`` of each row, to continue.
        should_stop: polled each frame.
    """
    device = next(module.parameters()).device
    text = {name: value.to(device) for name, value in text.items()}
    made = [[] for _ in seeds] if given is None else [list(one.T[:most]) for one in given]
    states, mask, places = _prompts(module, text, made, device)
    draws = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
    cache = DynamicCache()
    waiting = {row for row, frames in enumerate(made) if len(frames) < most}
    while waiting:
        if number := should_stop():
            raise Stopped(number, "stopped while generating")
        hidden = module.model.backbone_model(
            inputs_embeds=states,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        uniforms = torch.stack([torch.rand(module.codebooks, generator=one) for one in draws])
        frame = _frame(module, hidden, uniforms.to(device), codes, settings)
        # The library looks at all but the last codebook, too.
        ended = (frame[:, :-1] == module.eos).all(dim=1).tolist()
        for row in sorted(waiting):
            if ended[row] and made[row]:  # a take is never empty
                waiting.discard(row)
                continue
            made[row].append(frame[row].cpu())
            if len(made[row]) == most:
                waiting.discard(row)
        states = module.frame_states(frame[:, None])
        places = places[:, -1:] + 1
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return [torch.stack([one.cpu() for one in frames], dim=1) for frames in made]


def _prompts(
    module: CsmLoss, text: Mapping[str, Tensor], made: Sequence[Sequence[Tensor]], device: Any
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What stands before the first new frame, padded in front: states, their mask, their positions."""
    prompts, lengths = module.prompt_states(text), text["present"].sum(dim=1).tolist()
    rows = []
    for row, frames in enumerate(made):
        rows.append(prompts[row, : lengths[row]])
        if frames:
            sound = module.frame_states(torch.stack(list(frames)).to(device, torch.long)[None])[0]
            rows[-1] = torch.cat([rows[-1], sound.to(prompts.dtype)])
    longest = max(len(row) for row in rows)
    states = prompts.new_zeros((len(rows), longest, prompts.shape[-1]))
    mask = torch.zeros((len(rows), longest), dtype=torch.long, device=device)
    for number, row in enumerate(rows):
        states[number, longest - len(row) :] = row
        mask[number, longest - len(row) :] = 1
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return states, None if bool(mask.all()) else mask, places


def _frame(
    module: CsmLoss, hidden: Tensor, uniforms: Tensor, codes: int, settings: GenerationSettings
) -> Tensor:
    """One frame ``[B, K]`` from the backbone's states ``[B, D]`` and uniforms ``[B, K]``."""
    logits = module.model.lm_head(hidden)
    frame = [pick(logits[:, :codes].float(), uniforms[:, 0], settings)]
    cache = DynamicCache()
    ids, before = torch.stack([torch.zeros_like(frame[0]), frame[0]], dim=1), hidden
    for codebook in range(1, module.codebooks):
        state = _deeper(module, ids, before, cache)
        logits = state @ module.depth_head(codebook).T.to(state.dtype)
        frame.append(pick(logits[:, :codes].float(), uniforms[:, codebook], settings))
        ids, before = frame[-1][:, None], None
    return torch.stack(frame, dim=1)


def _deeper(module: CsmLoss, ids: Tensor, before: Tensor | None, cache: Any) -> Tensor:
    """The depth decoder's last state ``[B, d]`` after further codes ``[B, n]``."""
    return module.model.depth_decoder.model(
        input_ids=ids, backbone_last_hidden_state=before, past_key_values=cache, use_cache=True
    ).last_hidden_state[:, -1]


@torch.inference_mode()
def stepwise_difference(module: CsmLoss, text: Mapping[str, Tensor], codes: Tensor) -> float:
    """Largest difference of logits between cached steps and one pass, of both transformers.

    Args:
        module: the loss module.
        text: conditioning of the row.
        codes: ``[1, K, T]``.
    """
    device = next(module.parameters()).device
    text = {name: value.to(device) for name, value in text.items()}
    codes = codes.to(device, torch.long)
    whole = module.states(text, codes)[0]  # [T + 1, D]
    head = module.model.lm_head
    frames = codes[0].T  # [T, K]
    deep = module.depth_states(whole[:-1], frames)
    cache = DynamicCache()
    worst, inputs = 0.0, module.prompt_states(text)
    for step in range(len(frames) + 1):
        hidden = module.model.backbone_model(
            inputs_embeds=inputs, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        worst = max(worst, _apart(head(hidden), head(whole[step : step + 1])))
        if step == len(frames):
            break
        inside = DynamicCache()
        ids = torch.stack([torch.zeros_like(frames[step, :1]), frames[step, :1]], dim=1)
        for codebook in range(1, module.codebooks):
            state = _deeper(module, ids, hidden if codebook == 1 else None, inside)
            weight = module.depth_head(codebook).T.to(state.dtype)
            worst = max(worst, _apart(state @ weight, deep[step, codebook][None] @ weight))
            ids = frames[step, codebook][None, None]
        inputs = module.frame_states(frames[None, step : step + 1])
    return worst


def _apart(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())
