"""MusicGen's sampler: one loop over the decoder with a cache, guidance in the same batch.

``transformers``' own ``generate`` draws a whole batch from one global stream. Here each row draws
from its own seed, so that a row comes out the same alone or in company.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import Cache, DynamicLayer

from tunesmith.errors import Stopped
from tunesmith.families._sampling import Streams, pick
from tunesmith.families.musicgen.delay import apply_delay, undo_delay
from tunesmith.types import GenerationSettings

if TYPE_CHECKING:
    from tunesmith.families.musicgen.loss import MusicgenLoss

_FREE = -1


class _InPlace(DynamicLayer):
    """Keys and values of one layer ``[B, H, T, D]``, appended in place into room that doubles.

    The library's layer copies everything at every step, which for a small decoder is more than half
    of the time of sampling. What it holds is the same, bit for bit.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = (key_states[..., :0, :], value_states[..., :0, :])
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            self._room = tuple(
                torch.cat(
                    [old[..., :begin, :], new.new_empty(*new.shape[:-2], end, new.shape[-1])], -2
                )
                for old, new in zip(self._room, (key_states, value_states), strict=True)
            )
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., begin:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        return self.keys, self.values


@torch.inference_mode()
def sample_codes(
    module: MusicgenLoss,
    text: Mapping[str, Tensor],
    frames: int,
    seeds: Sequence[int],
    settings: GenerationSettings,
    given: Tensor | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> Tensor:
    """Sample codes ``[B, K, frames]``.

    Args:
        module: the loss module whose decoder is sampled; training mode is left as it was.
        text: conditioning of the prompts, as ``collate`` makes it, encoded just now.
        frames: length, the given part included.
        seeds: one per row.
        settings: guidance and sampling.
        given: codes ``[B, K, T0]`` to continue.
        should_stop: polled each step.
    """
    device = next(module.parameters()).device
    batch, codebooks = len(seeds), len(module.shifts)
    known = 0 if given is None else min(int(given.shape[-1]), frames)
    template = torch.full((batch, codebooks, frames), _FREE, device=device)
    if given is not None:
        template[..., :known] = given[..., :known].to(device)
    full = torch.full((batch,), frames, device=device)
    tokens, _ = apply_delay(template, full, module.shifts, module.pad)

    text = {name: value.to(device) for name, value in text.items()}
    states, mask = module.text_states(text, fresh=True)
    guided = settings.guidance != 1
    if guided:
        states = torch.cat([states, torch.zeros_like(states)])
        mask = torch.cat([mask, torch.zeros_like(mask)])
    states, mask = module.joined_text(states, mask)
    heads = module.heads()
    streams = Streams(seeds)
    cache = EncoderDecoderCache(Cache(layer_class_to_replicate=_InPlace), DynamicCache())
    begin = 0
    for position in range(1 + known, tokens.shape[-1]):
        if number := should_stop():
            raise Stopped(number, "stopped while generating")
        step = tokens[..., begin:position]
        begin = position
        hidden = module.model.decoder.model(
            input_ids=(torch.cat([step, step]) if guided else step).flatten(0, 1),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        logits = torch.einsum("bd,kvd->bkv", hidden, heads.to(hidden.dtype)).float()
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + settings.guidance * (conditional - unconditional)
        drawn = pick(logits, streams.draw(codebooks).to(device), settings)
        slot = tokens[..., position]
        tokens[..., position] = torch.where(slot == _FREE, drawn, slot)
    return undo_delay(tokens, frames, module.shifts)


@torch.inference_mode()
def stepwise_difference(module: MusicgenLoss, text: Mapping[str, Tensor], codes: Tensor) -> float:
    """Largest difference of logits between cached steps and one pass, along given codes.

    Args:
        module: the loss module.
        text: conditioning of the row.
        codes: ``[1, K, T]``.
    """
    device = next(module.parameters()).device
    frames = torch.tensor([codes.shape[-1]], device=device)
    tokens, _ = apply_delay(codes.to(device, torch.long), frames, module.shifts, module.pad)
    text = {name: value.to(device) for name, value in text.items()}
    heads = module.heads()
    whole = torch.einsum("bld,kvd->blkv", module.hidden(tokens[..., :-1], text), heads)
    states, mask = module.joined_text(*module.text_states(text))
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    worst = 0.0
    for position in range(tokens.shape[-1] - 1):
        hidden = module.model.decoder.model(
            input_ids=tokens[..., position : position + 1].flatten(0, 1),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        step = torch.einsum("bd,kvd->bkv", hidden, heads)
        worst = max(worst, float((step - whole[:, position]).abs().max()))
    return worst
