"""Stable Audio 3's training loss: flow matching, at times that are shifted by the clip's length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.families._bundle import LossModule
from tunesmith.families.stable_audio_3.attention import Places
from tunesmith.objectives import flow_matching
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import shifted, timesteps
from tunesmith.objectives.velocity_loss import valid_frames, velocity_loss
from tunesmith.types import Batch, Loss

TERM = "velocity"

# ``distribution_shift_options`` of the published checkpoints, all alike.
_SHIFTS, _LENGTHS = (0.5, 1.15), (256, 4096)


def length_shift(frames: Sequence[int]) -> Tensor:
    """s of each clip ``[B]``: log s goes from 0.5 at 256 frames to 1.15 at 4096, and stays beyond.

    ``DistributionShift`` of Stability AI's stable-audio-3, which its LoRA trainer puts times through by
    each clip's own length: 1 − 1/(1 + s·t/(1 − t)), the same as s·t/(1 + (s − 1)·t). Its sampler does
    not: it spaces its levels by log-SNR whatever the length, as diffusers' pipeline does.
    """
    (low, high), (short, long) = _SHIFTS, _LENGTHS
    length = torch.tensor([float(one) for one in frames]).clamp(short, long)
    return torch.exp(low + (high - low) * (length - short) / (long - short))


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the transformer is told of a row.

    Attributes:
        states: ``[B, S + 1, E]`` words, then the duration.
        present: ``[B, S + 1]``, 0 where a learned vector stands in a word's place.
        timing: ``[B, E]`` the duration once more.
        context: ``[B, S', D]`` what cross-attention reads: both together, projected.
        mask: ``[B, 1, 1, S']`` to be added to the logits of cross-attention; None for all seen.
    """

    states: Tensor
    present: Tensor
    timing: Tensor
    context: Tensor
    mask: Tensor | None

    def rows(self, which: Tensor) -> Conditions:
        """Those of some rows."""
        return Conditions(
            self.states[which],
            self.present[which],
            self.timing[which],
            self.context[which],
            None if self.mask is None else self.mask[which],
        )


class StableAudio3Loss(LossModule):
    """Transformer, duration embedder and text encoder of a Stable Audio 3; calling it gives the loss.

    Clips are shown as long as they are, as the pipeline samples them, and frames that only fill a batch
    are seen by none. Nothing is given of a clip, and the input for given sound is left out as the
    text-to-audio pipeline leaves it out; with ``holes`` set, rows of which something is given have it as
    the inpainting pipeline has it.

    Args:
        transformer: ``StableAudio3DiTModel``.
        conditioner: ``StableAudio3DurationEmbedder``.
        text_encoder: ``T5GemmaEncoderModel``.
        frame_rate_hz: latents a second.
    """

    def __init__(
        self, transformer: Any, conditioner: Any, text_encoder: Any, frame_rate_hz: float
    ) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.conditioner: Any = conditioner
        self.text_encoder: Any = text_encoder
        self.frame_rate_hz = frame_rate_hz
        self.register_module("joined_states", None)

    # --- what is told ---

    def text_states(self, text: Mapping[str, Tensor], *, fresh: bool = False) -> Tensor:
        """Words ``[B, S, E]``.

        Cached states are used only while nothing upstream of them trains. ``fresh`` says that they
        were encoded just now.
        """
        encoder = self.text_encoder
        if not fresh and any(one.requires_grad for one in encoder.parameters()):
            return encoder(text["ids"], attention_mask=text["present"])[0]
        return text["states"].to(_dtype(self.transformer))

    def conditions(
        self, text: Mapping[str, Tensor], seconds: Tensor, *, fresh: bool = False
    ) -> Conditions:
        """What rows are told.

        Args:
            text: ``ids``, ``present`` and ``states`` of each row; of "" where a row lost its caption.
            seconds: ``[B]``, duration of each sound.
            fresh: as of :meth:`text_states`.
        """
        words = self.text_states(text, fresh=fresh)
        timing = self.conditioner(seconds)
        states = torch.cat([words, timing[:, None].to(words.dtype)], dim=1)
        present = torch.cat([text["present"], torch.ones_like(text["present"][:, :1])], dim=1)
        dit = self.transformer
        empty = dit.prompt_padding_embedding.to(states.dtype)
        context = dit.to_cond_embed(torch.where(present.bool()[..., None], states, empty))
        mask = None
        if self.joined_states is not None:
            context, mask = self.joined_states(context, torch.ones_like(present))
            mask = mask if mask.dim() == 4 else None  # plain ones: everything is seen
        return Conditions(states, present, timing, context, mask)

    # --- what the transformer says ---

    def velocity(
        self,
        noisy: Tensor,
        t: Tensor,
        told: Conditions,
        *,
        given: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        """What the transformer says of ``[B, C, T]`` at times t ``[B]`` (or one for all, ``[1]``).

        The steps of ``StableAudio3DiTModel.forward``, which takes no mask for frames that fill a batch,
        nor one for cross-attention; without either it says the same, bit for bit.

        Args:
            noisy: latents.
            t: 1 is pure noise.
            told: conditions.
            given: ``[B, 1 + C, T]``: a mask that is 1 where sound is given, and its latents there, else
                zero; None leaves that input out.
            frames: ``[B]`` real lengths; None where all rows are whole.
        """
        dit, dtype = self.transformer, _dtype(self.transformer)
        rows, length = noisy.shape[0], noisy.shape[-1]
        noisy = noisy.to(dtype)
        features = dit.timestep_features(t.float().expand(rows)[:, None]).to(dtype)
        timed = dit.to_global_embed(told.timing) + dit.to_timestep_embed(features)
        modulation = dit.global_cond_embedder(timed)
        x = dit.proj_in((dit.preprocess_conv(noisy) + noisy).transpose(1, 2))
        local = None if given is None else given.to(dtype).transpose(1, 2)
        memory = int(dit.config.num_memory_tokens)
        if memory:
            x = torch.cat([dit.memory_tokens.expand(rows, -1, -1), x], dim=1)
        mask = None
        if frames is not None:
            mask = valid_frames(frames + memory, length + memory)[:, None, None]
        places = Places(dit.rotary_pos_emb(x.shape[1], x.device), mask)
        beside = (told.context, modulation, places, told.mask, local, memory)
        checkpointed = dit.gradient_checkpointing and torch.is_grad_enabled()
        call = dit._gradient_checkpointing_func if checkpointed else _called
        for block in dit.transformer_blocks:
            x = call(block, x, *beside)
        said = dit.proj_out(x[:, memory:]).transpose(1, 2)
        return dit.postprocess_conv(said) + said

    # --- the loss ---

    def forward(self, batch: Batch) -> Loss:
        data = batch.codes.float()
        lengths = [int(one) for one in batch.frames.tolist()]
        scale: Any = length_shift(lengths)
        t = shifted(timesteps(batch.seeds, "truncated_logit_normal"), scale).to(data.device)
        noise = noise_like(data, batch.seeds)
        told = self.conditions(batch.text, batch.frames / self.frame_rate_hz)
        frames = batch.frames if min(lengths) < data.shape[-1] else None
        predicted = self._said(flow_matching.add_noise(data, noise, t), t, told, frames, batch)
        wanted = flow_matching.target(data, noise, t)
        total, _ = velocity_loss(predicted, wanted, self._learned(batch))
        return {TERM: (total, self.count(batch)[TERM])}

    def _said(
        self, noisy: Tensor, t: Tensor, told: Conditions, frames: Tensor | None, batch: Batch
    ) -> Tensor:
        """Velocities; rows of which something is given go by themselves, for they have one more input."""
        given = self._given(batch)
        if given is None:
            return self.velocity(noisy, t, told, frames=frames)
        some = given.any(dim=1).tolist()
        local = told_of(batch.codes.float(), given)
        said: dict[int, Tensor] = {}
        for wanted in (False, True):
            rows = [row for row, one in enumerate(some) if bool(one) == wanted]
            if not rows:
                continue
            which = torch.tensor(rows, device=noisy.device)
            found = self.velocity(
                noisy[which],
                t[which],
                told.rows(which),
                given=local[which] if wanted else None,
                frames=None if frames is None else frames[which],
            )
            said |= dict(zip(rows, found, strict=True))
        return torch.stack([said[row] for row in range(len(some))])

    def _given(self, batch: Batch) -> Tensor | None:
        """``[B, T]``, true where a frame is shown without noise; None where none ever is."""
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


def told_of(latents: Tensor, given: Tensor) -> Tensor:
    """``[B, 1 + C, T]`` of latents ``[B, C, T]`` and where they are given, ``[B, T]``: the pipeline's order."""
    mask = given[:, None].to(latents.dtype)
    return torch.cat([mask, latents * mask], dim=1)


def _called(block: Any, *inputs: Any) -> Tensor:
    return block(*inputs)


def _dtype(module: Any) -> torch.dtype:
    return next(module.parameters()).dtype
