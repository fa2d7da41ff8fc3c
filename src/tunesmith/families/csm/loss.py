"""CSM's training loss: cross-entropy of the first codebook, and of the others given the first.

It is the library's own (``labels=`` of ``CsmForConditionalGeneration``), kept apart by example: the frames
of the last turn and the frame that ends it are learned, text and earlier turns are not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import CsmForConditionalGeneration

from tunesmith.families._bundle import LossModule
from tunesmith.families.csm.turns import HEARD
from tunesmith.objectives.cross_entropy import IGNORE, codebook_cross_entropy
from tunesmith.types import Batch, Loss


class CsmLoss(LossModule):
    """Backbone, depth decoder and text table of a CSM; calling it gives the loss.

    Args:
        model: the plain model, without its codec.
    """

    def __init__(self, model: CsmForConditionalGeneration) -> None:
        super().__init__()
        self.model: Any = model  # its parts are modules to a type checker, and no more
        self.codebooks = int(self.model.config.num_codebooks)
        self.eos = int(self.model.config.codebook_eos_token_id)

    def prompt_states(self, text: Mapping[str, Tensor]) -> Tensor:
        """Embeddings ``[B, L, D]`` of what stands before the sound, padded at the end."""
        ids = text["ids"]
        states = self.model.embed_text_tokens(ids.clamp(min=0))
        if "heard" not in text:
            return states
        return torch.where((ids == HEARD)[..., None], self.frame_states(text["heard"]), states)

    def frame_states(self, frames: Tensor) -> Tensor:
        """Embeddings ``[B, T, D]`` of frames ``[B, T, K]``."""
        return self.model.backbone_model.embed_tokens(frames)

    def states(self, text: Mapping[str, Tensor], codes: Tensor) -> Tensor:
        """What the backbone knows before each frame and before the one that ends: ``[B, T + 1, D]``.

        Args:
            text: conditioning, as ``collate`` makes it.
            codes: ``[B, K, T]``, padded at the end.
        """
        prompt, sound = self.prompt_states(text), self.frame_states(codes.transpose(1, 2))
        both = torch.cat([prompt, sound.to(prompt.dtype)], dim=1)
        length = text["present"].sum(dim=1, keepdim=True)
        place = torch.arange(both.shape[1], device=both.device)[None]
        # The sound follows its own text; what is left over at the end is seen by nothing before it.
        source = torch.where(place < length, place, place - length + prompt.shape[1])
        whole = _taken(both, source.clamp(max=both.shape[1] - 1))
        hidden = self.model.backbone_model(inputs_embeds=whole, use_cache=False).last_hidden_state
        ahead = torch.arange(codes.shape[-1] + 1, device=both.device)[None]
        return _taken(hidden, length - 1 + ahead)

    def depth_states(self, states: Tensor, frames: Tensor) -> Tensor:
        """Hidden states ``[N, K, d]`` of the depth decoder; that at k tells codebook k (none tells 0).

        Args:
            states: the backbone's, ``[N, D]``.
            frames: ``[N, K]``; the last codebook is not looked at.
        """
        # The place of the backbone's state is held by a zero.
        ids = F.pad(frames[:, :-1], (1, 0))
        return self.model.depth_decoder.model(
            input_ids=ids, backbone_last_hidden_state=states, use_cache=False
        ).last_hidden_state

    def depth_head(self, codebook: int) -> Tensor:
        """Weights ``[V, d]`` of the head of one codebook, from 1 on."""
        return self.model.depth_decoder.codebooks_head.weight[codebook - 1].T

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Frames ``[B, T + 1, K]`` with the one that ends each sound, and which are learned ``[B, T + 1]``.

        A sound that was cut off (``ends`` is 0) has no end to be learned.
        """
        frames = F.pad(batch.codes.transpose(1, 2), (0, 0, 0, 1), value=self.eos)
        place = torch.arange(frames.shape[1], device=frames.device)[None]
        sound = place < batch.frames[:, None]
        learned = place < batch.frames[:, None] + batch.text["ends"]
        return frames.masked_fill(~sound[..., None], self.eos), learned

    def forward(self, batch: Batch) -> Loss:
        frames, learned = self.targets(batch)
        states = self.states(batch.text, batch.codes)
        labels = frames[..., :1].masked_fill(~learned[..., None], IGNORE)
        first = codebook_cross_entropy(
            states.flatten(0, 1), self.model.lm_head.weight[None], labels.flatten(0, 1)
        )
        # Places that only fill up a row are computed and thrown away, so that shapes depend on no values.
        places = batch.text["deep"]
        wanted = _taken(frames, places.clamp(min=0)).flatten(0, 1)
        hidden = self.depth_states(_taken(states, places.clamp(min=0)).flatten(0, 1), wanted)
        labels = wanted.masked_fill((places < 0).flatten()[:, None], IGNORE)
        others = torch.zeros(len(wanted), device=hidden.device)
        for codebook in range(1, self.codebooks):
            head, label = self.depth_head(codebook)[None], labels[:, codebook : codebook + 1]
            others = others + codebook_cross_entropy(hidden[:, codebook], head, label)[:, 0]
        counts = self.count(batch)
        return {
            "backbone": (first.view(learned.shape).sum(dim=1), counts["backbone"]),
            "depth": (others.view(places.shape).sum(dim=1), counts["depth"]),
        }

    def count(self, batch: Batch) -> Mapping[str, Tensor]:
        ends = batch.text["ends"][:, 0]
        deep = (batch.text["deep"] >= 0).sum(dim=1) * (self.codebooks - 1)
        return {"backbone": (batch.frames + ends).float(), "depth": deep.float()}


def deep_places(learned: Sequence[int], seeds: Sequence[int], share: float) -> Tensor:
    """Frames ``[B, P]`` that the depth decoder learns from, filled up with -1.

    Args:
        learned: frames of each row that are learned, ends included.
        seeds: of each row.
        share: how many of them. Sesame trained on a sixteenth, which saves memory (their report of
            February 2025, "compute amortization").
    """
    chosen = [
        torch.arange(count)
        if share >= 1
        else torch.tensor(
            sorted(random.Random(f"depth-{seed}").sample(range(count), math.ceil(share * count)))
        )
        for count, seed in zip(learned, seeds, strict=True)
    ]
    return pad_sequence(chosen, batch_first=True, padding_value=-1)


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """``[B, P, D]``: of values ``[B, S, D]`` those at places ``[B, P]``."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
