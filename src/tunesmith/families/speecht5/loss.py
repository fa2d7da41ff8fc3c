"""SpeechT5's training loss: transformers' ``SpeechT5SpectrogramLoss``, per example.

    mel_before, mel_after   |m̂ − m| of log10 mels, before and after the postnet
    stop                    cross-entropy of "this is the last frame", the last one weighted by 5
    attention               guided attention (Tachibana et al. 2018, arXiv:1710.08969, equation 5)
    vocoder                 see :mod:`tunesmith.families.speecht5.vocoder`; only while the vocoder trains

Three things differ from the library, and none of them for a clip on its own in evaluation. Frames of
padding do not reach real ones through the postnet's convolutions. The postnet's batch normalisation
keeps the statistics of the base: those of a batch of two clips would be noise, would tell rows of
each other, and would change the base while an adapter trains. And the dropout of the decoder's
prenet, which the library draws for a whole batch from the global generator, also in evaluation,
comes from each example's seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunesmith.families._bundle import LossModule
from tunesmith.families.speecht5.vocoder import vocoder_counts, vocoder_loss
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.velocity_loss import valid_frames
from tunesmith.types import Batch, Loss

BEFORE, AFTER, STOP, ATTENTION, VOCODER = "mel_before", "mel_after", "stop", "attention", "vocoder"
_STOP_WEIGHT = 5.0  # the library's


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the model says of a batch, teacher forced.

    Attributes:
        before, after: mels ``[B, T, M]`` before and after the postnet.
        stop: logits ``[B, T]`` of each frame being the last.
        attentions: of each decoder layer, ``[B, H, T/r, S]``: how frames look at the text.
    """

    before: Tensor
    after: Tensor
    stop: Tensor
    attentions: Sequence[Tensor]


class SpeechT5Loss(LossModule):
    """A SpeechT5 and its vocoder; calling it gives the loss.

    Args:
        model: ``SpeechT5ForTextToSpeech``.
        vocoder: ``SpeechT5HifiGan``.
        sound: the feature extractor.
    """

    def __init__(self, model: Any, vocoder: Any, sound: Any) -> None:
        super().__init__()
        self.model: Any = model  # its parts are modules to a type checker, and no more
        self.vocoder: Any = vocoder
        self.sound = sound
        config = model.config
        self.bins, self.reduction = int(config.num_mel_bins), int(config.reduction_factor)
        self._guided = bool(config.use_guided_attention_loss)

    def train(self, mode: bool = True) -> SpeechT5Loss:
        """As ever, but batch normalisation keeps the base's statistics."""
        super().train(mode)
        for part in self.model.speech_decoder_postnet.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.eval()
        return self

    @property
    def vocoder_trains(self) -> bool:
        """Whether anything in the vocoder gets gradients."""
        return any(one.requires_grad for one in self.vocoder.parameters())

    # --- the parts that the loss and generation share ---

    def text_states(self, text: Mapping[str, Tensor]) -> Tensor:
        """The encoder's states ``[B, S, D]``; it runs each time, for a sentence is short."""
        encoder = self.model.speecht5.encoder
        return encoder(
            input_values=text["ids"], attention_mask=text["mask"], return_dict=True
        ).last_hidden_state

    def kept(self, seeds: Sequence[int], steps: int) -> list[Tensor]:
        """Which units of each of the prenet's layers stay, ``[B, steps, U]`` boolean.

        A frame's are drawn from seed and place alone, so they are the same in the loss and, step by
        step, in generation.
        """
        config = self.model.config
        # The library keeps with the probability that it is told to drop with; both are 0.5.
        edge = torch.special.ndtri(torch.tensor(float(config.speech_decoder_prenet_dropout)))
        shape = torch.empty(len(seeds), steps, int(config.speech_decoder_prenet_units))
        return [
            noise_like(shape, seeds, time_dim=1, purpose=f"prenet-{layer}") < edge
            for layer in range(int(config.speech_decoder_prenet_layers))
        ]

    def prenet(
        self, mels: Tensor, speaker: Tensor, kept: Sequence[Tensor], begin: int = 0
    ) -> Tensor:
        """What the decoder sees of frames that stand at ``begin`` and after, ``[B, L, D]``.

        Args:
            mels: ``[B, L, M]``, every r-th frame, one place late.
            speaker: ``[B, E]``.
            kept: of each layer ``[B, L, U]``, for these frames; see :meth:`kept`.
            begin: place of the first of them.
        """
        net = self.model.speecht5.decoder.prenet
        share = 1 / (1 - float(self.model.config.speech_decoder_prenet_dropout))
        states = mels.to(net.final_layer.weight.dtype)
        for layer, mask in zip(net.layers, kept, strict=True):
            states = F.relu(layer(states)) * (mask.to(states.device) * share).to(states.dtype)
        places = net.encode_positions
        states = net.final_layer(states)
        states = states + places.alpha * places.pe[:, begin : begin + states.shape[1]]
        states = places.dropout(states)
        speaker = F.normalize(speaker.to(states.dtype))[:, None].expand(-1, states.shape[1], -1)
        return F.relu(net.speaker_embeds_layer(torch.cat([states, speaker], dim=-1)))

    def postnet(self, mels: Tensor, real: Tensor) -> Tensor:
        """``[B, T, M]`` refined; each row as if it stood alone.

        Args:
            mels: ``[B, T, M]``.
            real: ``[B, T]`` boolean.
        """
        states, seen = mels.transpose(1, 2), real[:, None]
        for layer in self.model.speech_decoder_postnet.layers:
            states = layer(states * seen.to(states.dtype))
        return mels + states.transpose(1, 2)

    def predict(self, batch: Batch) -> Predicted:
        """All frames at once, each from the given ones before it."""
        mels, real = batch.codes[:, : self.bins].float().transpose(1, 2), self._real(batch)
        last = mels[:, self.reduction - 1 :: self.reduction]  # of each step, what is heard of it
        shifted = F.pad(last[:, :-1], (0, 0, 1, 0))  # the first step hears silence: zeros
        kept = self.kept(batch.seeds, shifted.shape[1])
        out = self.model.speecht5.decoder.wrapped_decoder(
            hidden_states=self.prenet(shifted, batch.text["speaker"], kept),
            encoder_hidden_states=self.text_states(batch.text),
            encoder_attention_mask=batch.text["mask"],
            use_cache=False,
            output_attentions=self._guided,
            return_dict=True,
        )
        heads = self.model.speech_decoder_postnet
        before = heads.feat_out(out.last_hidden_state).unflatten(-1, (-1, self.bins)).flatten(1, 2)
        stop = heads.prob_out(out.last_hidden_state).flatten(1)
        # Frames of padding may hold anything; what is masked by a product has to be finite.
        before = before.masked_fill(~real[..., None], 0.0)
        attentions = out.cross_attentions or ()
        return Predicted(before, self.postnet(before, real), stop, attentions)

    # --- the loss ---

    def forward(self, batch: Batch) -> Loss:
        counts, found, real = self.count(batch), self.predict(batch), self._real(batch)
        wanted = batch.codes[:, : self.bins].float().transpose(1, 2)
        sums = {
            BEFORE: _apart(found.before, wanted, real),
            AFTER: _apart(found.after, wanted, real),
            STOP: _stop(found.stop, batch.frames, real),
        }
        if self._guided:
            sums[ATTENTION] = self._off_diagonal(found.attentions, batch)
        if VOCODER in counts:
            sums[VOCODER] = vocoder_loss(self.vocoder, self.sound, batch, self.bins, found.after)
        return {name: (sums[name], counts[name]) for name in counts}

    def count(self, batch: Batch) -> Mapping[str, Tensor]:
        frames = batch.frames.float()
        counts = {BEFORE: frames * self.bins, AFTER: frames * self.bins, STOP: frames}
        if self._guided:
            letters = batch.text["mask"].sum(dim=1).float()
            counts[ATTENTION] = self._heads() * (batch.frames // self.reduction) * letters
        if self.vocoder_trains and batch.codes.shape[1] > self.bins:
            counts[VOCODER] = vocoder_counts(batch)
        return counts

    def _real(self, batch: Batch) -> Tensor:
        return valid_frames(batch.frames, batch.codes.shape[-1])

    def _heads(self) -> int:
        """Attention maps, of all layers together, that are guided."""
        config = self.model.config
        heads = range(int(config.decoder_attention_heads))
        return int(config.decoder_layers) * len(heads[: config.guided_attention_loss_num_heads])

    def _off_diagonal(self, attentions: Sequence[Tensor], batch: Batch) -> Tensor:
        """Σ W ∘ A, ``[B]``, with W_tn = 1 − exp(−(n/N − t/T)² / 2σ²)."""
        config, text = self.model.config, batch.text["mask"]
        maps = torch.cat(
            [one[:, : config.guided_attention_loss_num_heads] for one in attentions], 1
        )
        maps = maps.float()
        steps, letters = batch.frames // self.reduction, text.sum(dim=1)
        t = torch.arange(maps.shape[2], device=maps.device) / steps[:, None]
        n = torch.arange(maps.shape[3], device=maps.device) / letters[:, None]
        apart = n[:, None, :] - t[:, :, None]
        weight = 1 - torch.exp(-apart.square() / (2 * config.guided_attention_loss_sigma**2))
        real = valid_frames(steps, maps.shape[2])[:, :, None] & (text[:, None, :] == 1)
        return (maps * (weight * real)[:, None]).sum(dim=(1, 2, 3))


def _apart(found: Tensor, wanted: Tensor, real: Tensor) -> Tensor:
    """Σ |found − wanted| over real frames and bins, ``[B]``."""
    gaps = (found.float() - wanted).masked_fill(~real[..., None], 0.0)
    return gaps.abs().sum(dim=(1, 2))


def _stop(logits: Tensor, frames: Tensor, real: Tensor) -> Tensor:
    """Σ cross-entropy of stopping, ``[B]``: right at the last real frame, wrong before."""
    last = torch.arange(logits.shape[1], device=logits.device) == frames[:, None] - 1
    each = F.binary_cross_entropy_with_logits(
        logits.float(),
        last.float(),
        reduction="none",
        pos_weight=torch.tensor(_STOP_WEIGHT, device=logits.device),
    )
    return each.masked_fill(~real, 0.0).sum(dim=1)
