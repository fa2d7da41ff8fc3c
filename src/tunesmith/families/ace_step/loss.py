"""ACE-Step's training loss: flow matching at continuous times, on what the pipeline shows the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.ace_step_transformer import (
    _ace_step_rotary_freqs,
    _create_4d_mask,
)
from diffusers.pipelines.ace_step.modeling_ace_step import _pack_sequences
from torch import Tensor
from torch.nn import functional as F

from tunesmith.families._bundle import LossModule
from tunesmith.families.ace_step.sites import TEXT_TABLE
from tunesmith.objectives import flow_matching
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import timesteps
from tunesmith.objectives.velocity_loss import valid_frames, velocity_loss
from tunesmith.types import Batch, Loss

TERM = "velocity"
_TIMBRE_S = 30  # seconds of a reference for timbre, silence where there is none: the pipeline's


@dataclass(frozen=True, slots=True)
class Conditions:
    """What cross-attention reads.

    Attributes:
        packed: ``[B, S, E]`` lyrics, timbre and words, those of a row before what only fills it.
        present: ``[B, S]``, true where a state is a row's own.
        context: ``[B, S', D]`` the same, projected.
        mask: ``[B, 1, 1, S']``, boolean or to be added to the logits; None for all seen.
    """

    packed: Tensor
    present: Tensor
    context: Tensor
    mask: Tensor | None


class AceStepLoss(LossModule):
    """Transformer, condition encoder and text encoder of an ACE-Step; calling it gives the loss.

    Clips are shown as long as they are. The pipeline lets words that fill a batch be seen; here they
    are not, nor are such frames, so that a row is what it would be alone.

    With ``holes`` set, rows of which something is given are shown it as the pipeline's repainting has
    it: latents and mask beside the noise, and another instruction before the caption.

    Args:
        transformer: ``AceStepTransformer1DModel``.
        conditioner: ``AceStepConditionEncoder``.
        text_encoder: ``Qwen3Model``.
        frame_rate_hz: latents a second.
    """

    def __init__(
        self, transformer: Any, conditioner: Any, text_encoder: Any, frame_rate_hz: float
    ) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.conditioner: Any = conditioner
        self.text_encoder: Any = text_encoder
        self._timbre_frames = math.ceil(_TIMBRE_S * frame_rate_hz)
        self.register_module("joined_states", None)
        # Every row has one reference; the library counts them with functions of their values.
        conditioner.timbre_encoder.unpack_timbre_embeddings = _one_each

    # --- what the transformer is told ---

    def _words(
        self, text: Mapping[str, Tensor], fresh: bool, repainted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """States of the caption's text ``[B, S, E]`` and where they are.

        Cached states are used only while nothing upstream of them trains. They have the instruction to
        make all of a sound; rows that are made in part are read anew.
        """
        encoder, states, present = self.text_encoder, text["states"], text["present"]
        if not fresh and any(one.requires_grad for one in encoder.parameters()):
            states = encoder(input_ids=text["ids"], use_cache=False).last_hidden_state
        if repainted is None or not bool(repainted.any()):
            return states, present
        # The encoder looks back only, so what fills a row is nothing to what is before it.
        read = encoder(input_ids=text["repaint_ids"], use_cache=False).last_hidden_state
        read, there = read.to(states.dtype), text["repaint_present"]
        if bool(repainted.all()):
            return read, there
        length = max(states.shape[1], read.shape[1])
        states, read = (F.pad(one, (0, 0, 0, length - one.shape[1])) for one in (states, read))
        present, there = (F.pad(one, (0, length - one.shape[1])) for one in (present, there))
        rows = repainted[:, None]
        return torch.where(rows[..., None], read, states), torch.where(rows, there, present)

    def conditions(
        self,
        text: Mapping[str, Tensor],
        *,
        fresh: bool = False,
        repainted: Tensor | None = None,
    ) -> Conditions:
        """What rows are told.

        A row that lost its caption (``kept`` is 0) has the learned null state in the place of each of
        its states, as the pipeline has it: another number of them would weigh otherwise against a prefix.

        Args:
            text: ``ids``, ``repaint_ids``, ``lyric_ids``, where they are (``present``,
                ``repaint_present``, ``lyric_present``), ``states`` and ``kept`` of each row.
            fresh: the states were encoded just now.
            repainted: ``[B]``, true where a part of the sound is given.
        """
        conditioner, dtype = self.conditioner, self.conditioner.null_condition_emb.dtype
        states, present = self._words(text, fresh, repainted)
        words = conditioner.text_projector(states.to(dtype))
        table = self.text_encoder.get_submodule(TEXT_TABLE)
        sung = text["lyric_present"].bool()
        lyrics = conditioner.lyric_encoder(
            inputs_embeds=table(text["lyric_ids"]).to(dtype), attention_mask=sung
        )
        rows = len(sung)
        reference = conditioner.silence_latent[:, : self._timbre_frames].to(dtype)
        timbre, one = conditioner.timbre_encoder(reference, torch.zeros_like(sung[:1, 0]).long())
        timbre, one = timbre.expand(rows, -1, -1), one.expand(rows, -1)
        packed, seen = _pack_sequences(lyrics, timbre, sung, one)
        packed, seen = _pack_sequences(packed, words, seen, present.bool())
        null = conditioner.null_condition_emb.expand_as(packed)
        packed = torch.where(text["kept"][..., None].bool(), packed, null)
        context = self.transformer.condition_embedder(packed.to(_dtype(self.transformer)))
        mask = None if bool(seen.all()) else seen[:, None, None]
        if self.joined_states is not None:
            context, told = self.joined_states(context, seen.long())
            if told.dim() == 4:
                mask = told
            elif mask is not None:
                mask = told.bool()[:, None, None]
        return Conditions(packed, seen, context, mask)

    def surroundings(
        self, rows: int, frames: int, latents: Tensor | None = None, given: Tensor | None = None
    ) -> Tensor:
        """What stands beside the noisy latents, ``[B, T, 2C]``: source latents, and 1 where to make sound.

        Where nothing is given the source is the latents of silence that come with the checkpoint.

        Args:
            rows, frames: B and T.
            latents: ``[B, C, T]`` of a sound.
            given: ``[B, T]``, true where it is given; None gives none of it.
        """
        silence = self.conditioner.silence_latent
        silence = silence.repeat(1, -(-frames // silence.shape[1]), 1)[:, :frames]
        source = silence.expand(rows, -1, -1)
        make = torch.ones_like(source)
        if latents is not None and given is not None:
            there = given[..., None]
            source = torch.where(there, latents.transpose(1, 2).to(source.dtype), source)
            make = make.masked_fill(there, 0.0)
        return torch.cat([source, make], dim=-1)

    # --- what the transformer says ---

    def velocity(
        self,
        noisy: Tensor,
        t: Tensor,
        told: Conditions,
        beside: Tensor,
        frames: Tensor | None = None,
    ) -> Tensor:
        """What the transformer says of ``[B, C, T]`` at times t ``[B]`` (or one for all, ``[1]``).

        The steps of ``AceStepTransformer1DModel.forward``, which takes no mask for frames that fill a
        batch, nor one for cross-attention; without either it says the same, bit for bit.

        Args:
            noisy: latents.
            t: 1 is pure noise.
            told: conditions.
            beside: of :meth:`surroundings`.
            frames: ``[B]`` real lengths; None where all rows are whole.
        """
        dit, dtype = self.transformer, _dtype(self.transformer)
        rows, length = noisy.shape[0], noisy.shape[-1]
        t = t.to(dtype).expand(rows)
        time, modulation = dit.time_embed(t)
        # The second time is the first: what is said is the velocity, not a mean of it.
        still, more = dit.time_embed_r(t - t)
        time, modulation = time + still, modulation + more
        x = torch.cat([beside.to(dtype), noisy.transpose(1, 2).to(dtype)], dim=-1)
        if (
            frames is not None
        ):  # a patch that a row ends in has zeros after its end, as it has alone
            x = x.masked_fill(~valid_frames(frames, length)[..., None], 0.0)
        if rest := length % dit.patch_size:
            x = F.pad(x, (0, 0, 0, dit.patch_size - rest))
        x = dit.proj_in_conv(x.transpose(1, 2)).transpose(1, 2)
        places = _ace_step_rotary_freqs(x.shape[1], dit.head_dim, dit.rope_theta, x.device, x.dtype)
        masks = self._masks(x, None if frames is None else -(-frames // dit.patch_size))
        checkpointed = dit.gradient_checkpointing and torch.is_grad_enabled()
        for layer, kind in zip(dit.layers, dit.layer_types, strict=True):
            sees = (x, places, modulation, masks[kind], told.context, told.mask)
            x = dit._gradient_checkpointing_func(layer, *sees) if checkpointed else layer(*sees)
        shift, scale = (dit.scale_shift_table + time.unsqueeze(1)).chunk(2, dim=1)
        x = (dit.norm_out(x) * (1 + scale) + shift).type_as(x)
        return dit.proj_out_conv(x.transpose(1, 2))[..., :length]

    def _masks(self, x: Tensor, patches: Tensor | None) -> dict[str, Tensor | None]:
        """Of self-attention, by kind of layer: ``[1 or B, 1, L, L]``, to be added to the logits.

        Args:
            x: ``[B, L, D]``.
            patches: ``[B]`` of them that are real; None for all.
        """
        length = x.shape[1]
        band = _create_4d_mask(
            seq_len=length,
            dtype=x.dtype,
            device=x.device,
            sliding_window=self.transformer.config.sliding_window,
            is_sliding_window=True,
            is_causal=False,
        )
        if patches is None:
            return {"sliding_attention": band, "full_attention": None}
        real = valid_frames(patches, length)
        # What fills a row may look where it likes: a query that saw nothing would be NaN.
        hidden = (real[:, :, None] & ~real[:, None])[:, None]
        lowest = torch.finfo(x.dtype).min
        plain = torch.zeros_like(band)
        return {
            "sliding_attention": band.masked_fill(hidden, lowest),
            "full_attention": plain.masked_fill(hidden, lowest),
        }

    # --- the loss ---

    def forward(self, batch: Batch) -> Loss:
        data = batch.codes.float()
        # As the base was trained: of two draws the greater, at any time and not at those of a sampler.
        t = timesteps(batch.seeds, "logit_normal", mean=-0.4, std=1.0, greatest_of=2)
        t = t.to(data.device)
        noise = noise_like(data, batch.seeds)
        given = self._given(batch)
        told = self.conditions(batch.text, repainted=None if given is None else given.any(dim=1))
        beside = self.surroundings(len(data), data.shape[-1], data, given)
        whole = min(batch.frames.tolist()) == data.shape[-1]
        predicted = self.velocity(
            flow_matching.add_noise(data, noise, t),
            t,
            told,
            beside,
            None if whole else batch.frames,
        )
        wanted = flow_matching.target(data, noise, t)
        total, _ = velocity_loss(predicted, wanted, self._learned(batch))
        return {TERM: (total, self.count(batch)[TERM])}

    def _given(self, batch: Batch) -> Tensor | None:
        """``[B, T]``, true where a frame is given; None where none ever is."""
        if self.holes is None:
            return None
        length = batch.codes.shape[-1]
        given = self.holes.given(batch.seeds, batch.frames, length)
        return given & valid_frames(batch.frames, length)

    def _learned(self, batch: Batch) -> Tensor:
        learned = valid_frames(batch.frames, batch.codes.shape[-1])
        given = self._given(batch)
        return learned if given is None else learned & ~given

    def count(self, batch: Batch) -> Mapping[str, Tensor]:
        return {TERM: self._learned(batch).sum(dim=1).float()}


def _one_each(states: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """States ``[B, 1, D]`` of one reference a row, and that each is there."""
    return states[:, None], torch.ones_like(order)[:, None]


def _dtype(transformer: Any) -> torch.dtype:
    return transformer.scale_shift_table.dtype  # a linear may be packed
