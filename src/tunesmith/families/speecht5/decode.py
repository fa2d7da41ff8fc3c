"""SpeechT5's generation: one loop with a cache, a row its own dropout and its own end.

What a row becomes is what ``SpeechT5ForTextToSpeech.generate_speech`` makes of it for the same dropout
of the prenet, which the library draws from the global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from tunesmith.errors import Stopped
from tunesmith.types import Batch

if TYPE_CHECKING:
    from tunesmith.families.speecht5.loss import SpeechT5Loss

THRESHOLD = 0.5
"""Probability of the end, summed over the frames of a step, at which a row ends: the library's."""


class _Stepper:
    """The decoder, one step at a time.

    Args:
        module: the loss module.
        text: conditioning of the rows.
        seeds: one per row.
        steps: the most that will be asked for.
    """

    def __init__(
        self, module: SpeechT5Loss, text: Mapping[str, Tensor], seeds: Sequence[int], steps: int
    ) -> None:
        self._module, self._text = module, text
        self._states = module.text_states(text)
        self._kept = module.kept(seeds, steps)
        self._cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._heard = torch.zeros(len(seeds), 1, module.bins, device=self._states.device)
        self._step = 0

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Mels ``[B, r, M]`` of the next step, before the postnet, and its stop logits ``[B, r]``."""
        module, step = self._module, self._step
        kept = [one[:, step : step + 1] for one in self._kept]
        out = module.model.speecht5.decoder.wrapped_decoder(
            hidden_states=module.prenet(self._heard, self._text["speaker"], kept, step),
            encoder_hidden_states=self._states,
            encoder_attention_mask=self._text["mask"],
            past_key_values=self._cache,
            use_cache=True,
            return_dict=True,
        )
        heads, last = module.model.speech_decoder_postnet, out.last_hidden_state[:, 0]
        self._step += 1
        return heads.feat_out(last).unflatten(-1, (-1, module.bins)), heads.prob_out(last)

    def hear(self, mels: Tensor) -> None:
        """What the next step goes on from: the last of mels ``[B, r, M]``."""
        self._heard = mels[:, -1:].float()


@torch.inference_mode()
def speak(
    module: SpeechT5Loss,
    text: Mapping[str, Tensor],
    frames: int,
    seeds: Sequence[int],
    given: Tensor | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> list[Tensor]:
    """Mels ``[M, T]`` of each row; T is where the row ends by itself, and at most ``frames``.

    Args:
        module: the loss module, in evaluation mode.
        text: conditioning of the rows.
        frames: the most.
        seeds: one per row.
        given: mels ``[B, M, T0]`` that the rows begin with; T0 is a whole number of steps.
        should_stop: polled each step.
    """
    device = next(module.parameters()).device
    text = {name: value.to(device) for name, value in text.items()}
    most = -(-frames // module.reduction)
    stepper = _Stepper(module, text, seeds, most)
    forced = None if given is None else given.to(device).float().transpose(1, 2)
    known = 0 if forced is None else min(forced.shape[1] // module.reduction, most)
    ends, made = torch.full((len(seeds),), most), []
    for step in range(most):
        if number := should_stop():
            raise Stopped(number, "stopped while speaking")
        mels, stop = stepper()
        if forced is not None and step < known:
            mels = forced[:, step * module.reduction : (step + 1) * module.reduction]
        else:
            over = (torch.sigmoid(stop.float()).sum(dim=1) >= THRESHOLD).cpu()
            ends = torch.where(over & (ends == most), step + 1, ends)
        made.append(mels.float())
        stepper.hear(mels)
        if bool((ends <= step + 1).all()):
            break
    whole = torch.cat(made, dim=1)
    rows = []
    for row, end in enumerate(ends.tolist()):
        mine = whole[row : row + 1, : end * module.reduction]
        real = torch.ones(mine.shape[:2], dtype=torch.bool, device=device)
        dtype = module.model.speech_decoder_postnet.feat_out.weight.dtype
        mine = module.postnet(mine.to(dtype), real)[0].float()
        if forced is not None:
            mine[: known * module.reduction] = forced[row, : known * module.reduction]
        rows.append(mine[:frames].T.contiguous())
    return rows


@torch.inference_mode()
def stepwise_difference(module: SpeechT5Loss, batch: Batch) -> float:
    """Largest difference between cached steps and one pass, of mels and stop logits along given mels.

    Args:
        module: the loss module, in evaluation mode.
        batch: one row.
    """
    whole, reduction = module.predict(batch), module.reduction
    steps = batch.codes.shape[-1] // reduction
    stepper = _Stepper(module, batch.text, batch.seeds, steps)
    mels = batch.codes[:, : module.bins].float().transpose(1, 2)
    worst, made = 0.0, []
    for step in range(steps):
        place = slice(step * reduction, (step + 1) * reduction)
        found, stop = stepper()
        made.append(found)
        worst = max(worst, float((found - whole.before[:, place]).abs().max()))
        worst = max(worst, float((stop - whole.stop[:, place]).abs().max()))
        stepper.hear(mels[:, place])
    together = torch.cat(made, dim=1)
    real = torch.ones(together.shape[:2], dtype=torch.bool, device=together.device)
    return max(worst, float((module.postnet(together, real) - whole.after).abs().max()))
