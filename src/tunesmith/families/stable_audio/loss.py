"""Stable Audio's training loss: v-prediction over the window that the model always sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

from tunesmith.analysis.repeats import repeated, sources_of_one
from tunesmith.families._bundle import LossModule
from tunesmith.families._inpainting import WidenedInput, told_banded, told_of
from tunesmith.objectives import v_prediction
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import timesteps
from tunesmith.objectives.velocity_loss import valid_frames, velocity_loss
from tunesmith.types import Batch, Loss

TERM = "velocity"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the transformer is told of a row.

    Attributes:
        states: ``[B, S + 2, D]`` projected words, then where the sound begins and where it ends.
        mask: ``[B, 1, 1, S']`` to be added to the logits of cross-attention; None for all seen.
        timing: ``[B, 1, 2·D]`` begin and end once more, put before the latents.
        given: ``[B, T, C + 1]`` what is given of the sound, for a model whose input was widened; None
            for nothing.
    """

    states: Tensor
    mask: Tensor | None
    timing: Tensor
    given: Tensor | None = None


class StableAudioLoss(LossModule):
    """Transformer, conditioner and text encoder of a Stable Audio; calling it gives the loss.

    The model has only ever seen windows of one length, in which silence follows the sound, and is told
    where the sound ends. So a clip is shown in such a window; what is learned is the sound and the
    second after it (``tail`` frames), where it has to have ended.

    Args:
        transformer: ``StableAudioDiTModel``.
        conditioner: ``StableAudioProjectionModel``.
        text_encoder: ``T5EncoderModel``.
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
        self.tail = round(frame_rate_hz)
        config = transformer.config
        self.window = int(config.sample_size)
        self._rotary_size = int(config.attention_head_dim) // 2
        self._rotary: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        if config.cross_attention_dim == config.cross_attention_input_dim:
            self.register_module("joined_states", None)

    def text_states(self, text: Mapping[str, Tensor], *, fresh: bool = False) -> Tensor:
        """Projected words ``[B, S, D]``, zero where there is none, as the pipeline has them.

        Cached states are used only while nothing upstream of them trains. ``fresh`` says that they
        were encoded just now.
        """
        encoder, present = self.text_encoder, text["present"]
        if not fresh and any(one.requires_grad for one in encoder.parameters()):
            states = encoder(text["ids"], attention_mask=present)[0]
        else:
            states = text["states"].to(_dtype(self.conditioner))
        states = self.conditioner(text_hidden_states=states).text_hidden_states
        return states * present[..., None].to(states.dtype)

    def conditions(
        self, text: Mapping[str, Tensor], seconds: Tensor, *, fresh: bool = False
    ) -> Conditions:
        """What rows are told.

        A row that lost its caption (``kept`` is 0) has zeros for words and times, but keeps the times
        before the latents: the pipeline guides away from just that.

        Args:
            text: ``ids``, ``present``, ``states`` and ``kept`` of each row.
            seconds: ``[B]``, where each sound ends.
            fresh: as of :meth:`text_states`.
        """
        words = self.text_states(text, fresh=fresh)
        dtype = _dtype(self.conditioner)
        times = self.conditioner(
            start_seconds=torch.zeros_like(seconds).to(dtype), end_seconds=seconds.to(dtype)
        )
        begin, end = times.seconds_start_hidden_states, times.seconds_end_hidden_states
        states = torch.cat([words, begin, end], dim=1)
        states = states * text["kept"][..., None].to(states.dtype)
        mask = None
        joined = getattr(self, "joined_states", None)
        if joined is not None:
            states, mask = joined(states, torch.ones_like(states[..., 0], dtype=torch.long))
            mask = mask if mask.dim() == 4 else None  # plain ones: everything is seen
        return Conditions(states, mask, torch.cat([begin, end], dim=2))

    def velocity(self, noisy: Tensor, t: Tensor, told: Conditions) -> Tensor:
        """What the transformer says of ``[B, C, T]`` at times t ``[B]`` (or one for all, ``[1]``)."""
        first = self.transformer.proj_in
        if isinstance(first, WidenedInput):
            nothing = noisy.new_zeros((*noisy.shape[::2], noisy.shape[1] + 1))
            first.told = nothing if told.given is None else told.given
        return self.transformer(
            noisy.to(_dtype(self.transformer)),
            t,
            encoder_hidden_states=told.states,
            global_hidden_states=told.timing,
            rotary_embedding=self.rotary(noisy.shape[-1], noisy.device),
            encoder_attention_mask=told.mask,
            return_dict=False,
        )[0]

    def rotary(self, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions of one timing vector and so many frames."""
        key = (frames, str(device))
        if key not in self._rotary:
            with torch.inference_mode(False):  # kept, and used where gradients are wanted
                cos, sin = get_1d_rotary_pos_embed(
                    self._rotary_size, frames + 1, use_real=True, repeat_interleave_real=False
                )
                self._rotary[key] = (cos.to(device), sin.to(device))
        return self._rotary[key]

    def drawn(self, batch: Batch) -> Batch:
        """The batch with what its seeds decide: noise, times and what is missing. ``collate`` ends in this.

        So nothing is left to the loss that a device would have to wait for.
        """
        seeds, length = batch.seeds, batch.codes.shape[-1]
        text = {
            **batch.text,
            "noise": noise_like(batch.codes.float(), seeds),
            "t": timesteps(seeds),
        }
        if self.holes is not None:
            text["given"] = self.holes.given(seeds, batch.frames, length)
        if self.holes is not None and "banded" in text:
            text["lacks_band"] = torch.tensor(self.holes.banded(seeds))
        return replace(batch, text=text)

    def forward(self, batch: Batch) -> Loss:
        data, text = batch.codes.float(), batch.text
        noise, t = text["noise"], text["t"]
        told = self.conditions(text, batch.frames / self.frame_rate_hz)
        if "given" in text:
            told = replace(told, given=self._shown(data, text))
        predicted = self.velocity(v_prediction.add_noise(data, noise, t), t, told)
        wanted = v_prediction.target(data, noise, t)
        total, count = velocity_loss(predicted, wanted, self._learned(batch))
        return {TERM: (total, count)}

    def _shown(self, data: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """``[B, T, C + 1]``: what is given of the sounds ``[B, C, T]``, and what stands in for the rest."""
        given, instead = text["given"], None
        if "spectra" in text:
            real = valid_frames(text["spectra_frames"], given.shape[-1])
            known, missing = given & real, ~given & real
            named, _ = sources_of_one(
                text["spectra"].float(), known, known, missing, self.frame_rate_hz
            )
            instead = repeated(data, named)
        shown = told_of(data, given, instead)
        if "lacks_band" in text:
            rows = text["lacks_band"][:, None, None]
            shown = torch.where(rows, told_banded(text["banded"]), shown)
        return shown

    def _learned(self, batch: Batch) -> Tensor:
        learned = valid_frames(batch.frames + self.tail, batch.codes.shape[-1])
        return learned & ~batch.text["given"] if "given" in batch.text else learned

    def count(self, batch: Batch) -> Mapping[str, Tensor]:
        return {TERM: self._learned(batch).sum(dim=1).float()}

    def static(self, batch: Batch) -> Batch | None:
        # Windows, texts and so batches all have one shape; recomputed layers read random states back.
        return None if self.transformer.gradient_checkpointing else batch


def _dtype(module: Any) -> torch.dtype:
    return next(module.parameters()).dtype
