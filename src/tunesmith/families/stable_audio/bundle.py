"""Loading a Stable Audio and everything around it: autoencoder, text side, seams, generation."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.analysis.repeats import BANDS, repeated, sources, spectra
from tunesmith.errors import UserError
from tunesmith.families._diffusers import quiet
from tunesmith.families._inpainting import WidenedInput
from tunesmith.families._latents import LatentBundle
from tunesmith.families._tokens import Vocabulary
from tunesmith.families.stable_audio.attention import make_joinable
from tunesmith.families.stable_audio.loss import TERM, StableAudioLoss
from tunesmith.families.stable_audio.sample import Held, sample, stepwise_difference
from tunesmith.families.stable_audio.sites import sites_of
from tunesmith.types import (
    Audio,
    Batch,
    Details,
    Example,
    GenerationSettings,
    Source,
)

_STEPS, _GUIDANCE = 100, 7.0  # the pipeline's own
_HEARD_AFTER = 16  # frames of silence that a clip is encoded with, as in the window it is shown in


class StableAudioBundle(LatentBundle):
    """A Stable Audio. ``codec`` comes and goes; ``module`` stays.

    Args:
        parts: ``transformer``, ``projection_model``, ``text_encoder``, ``tokenizer``, ``scheduler``.
        load_codec: brings the autoencoder, at first and after it was released.
        codec_config: of the autoencoder.
        name, base_hash, codec_hash, text_hash, licence: identity, see :class:`Bundle`.
        notes: of the base's folder: ``max_s``, ``steps``, ``guidance``.
    """

    family = "stable_audio"
    module: StableAudioLoss
    inpainting = "widened"
    input_place = ("transformer", "proj_in")
    # The frequencies of a Fourier embedding, which diffusers keeps as a parameter, and those of a time
    # that is 0 in every clip.
    fixed = frozenset(
        {
            "transformer/time_proj.weight",
            "conditioner/start_number_conditioner.time_positional_embedding.0.weights",
        }
    )

    def __init__(
        self,
        parts: Mapping[str, Any],
        load_codec: Callable[[], Any],
        codec_config: Mapping[str, Any],
        *,
        name: str,
        base_hash: str,
        codec_hash: str,
        text_hash: str,
        licence: str,
        notes: Mapping[str, Any],
    ) -> None:
        transformer, text = parts["transformer"], parts["text_encoder"]
        make_joinable(transformer)
        self._load_codec = load_codec
        self.hop = int(np.prod(codec_config["downsampling_ratios"]))
        self.sample_rate_hz = int(codec_config["sampling_rate"])
        self.channels = int(codec_config["audio_channels"])
        self.frame_rate_hz = self.sample_rate_hz / self.hop
        self.module = StableAudioLoss(
            transformer, parts["projection_model"], text, self.frame_rate_hz
        )
        self.module.requires_grad_(False)
        self.tokenizer, self.scheduler = parts["tokenizer"], parts["scheduler"]
        self._length = int(self.tokenizer.model_max_length)
        self._words = Vocabulary(
            self.tokenizer, rows=int(text.config.vocab_size), limit=self._length
        )
        self.name, self.base_hash, self.licence = name, base_hash, licence
        self._codec_hash, self._text_hash = codec_hash, text_hash
        window_s = self.module.window / self.frame_rate_hz
        self.max_s = min(window_s, float(notes.get("max_s", window_s)))
        self._steps = int(notes.get("steps", _STEPS))
        self.sampling = replace(
            GenerationSettings(),
            guidance=float(notes.get("guidance", _GUIDANCE)),
            steps=self._steps,
        )
        self.term_weights = {TERM: 1.0}
        self.components: Mapping[str, nn.Module] = {
            "transformer": transformer,
            "text_encoder": text,
            "conditioner": parts["projection_model"],
        }
        self.sites = sites_of(transformer, text)
        self.input_sizes = (int(transformer.config.in_channels), self.sites[0].width)
        self._quiet_frame: Tensor | None = None

    # --- in ---

    @torch.no_grad()  # not inference mode: autograd refuses tensors that were made in it
    def encode_audio(self, audio: Audio) -> Tensor:
        """Means of the autoencoder's posterior, ``[C, T]``: a cache has to hold one value."""
        frames = -(-audio.samples.shape[1] // self.hop)
        wave = self._wave(audio, _HEARD_AFTER)
        self._silence()
        return self._encode(wave)[:, :frames].contiguous()

    def _encode(self, wave: Tensor) -> Tensor:
        """``[C, T]`` on the CPU, float32."""
        codec = self.codec
        found = codec.encode(wave.to(next(codec.parameters()).dtype)).latent_dist.mode()
        return found[0].float().cpu()

    @torch.no_grad()
    def _silence(self) -> Tensor:
        """One frame of latents of silence, ``[C, 1]``: what fills a window after the sound."""
        if self._quiet_frame is None:
            wave = torch.zeros((1, self.channels, 64 * self.hop), device=self.device)
            self._quiet_frame = self._encode(wave)[:, 32:33]  # far from both edges
        return self._quiet_frame

    @torch.no_grad()
    def encode_text(
        self, captions: Sequence[str], details: Sequence[Details] | None = None
    ) -> list[Mapping[str, Tensor]]:
        # One at a time: a state computed in other company would differ in its last bits, and the
        # cache must hold the same thing whatever was encoded beside it.
        encoder = self.module.text_encoder
        was_training = encoder.training
        encoder.eval()
        found = []
        for caption in captions:
            text = self._padded(self._words.ids(caption))
            ids, present = (text[name][None].to(self.device) for name in ("ids", "present"))
            states = encoder(ids, attention_mask=present)[0][0].float().cpu()
            found.append({**text, "states": states})
        encoder.train(was_training)
        return found

    def _padded(self, ids: list[int]) -> dict[str, Tensor]:
        """Ids filled up to the length that the pipeline has always, and which of them are words."""
        empty = self._length - len(ids)
        return {
            "ids": torch.tensor(ids + [self.tokenizer.pad_token_id] * empty),
            "present": torch.tensor([1] * len(ids) + [0] * empty),
        }

    def collate(
        self, examples: Sequence[Example], seeds: Sequence[int], drop: float = 0.0
    ) -> Batch:
        window = self.module.window
        codes = self._window([example.codes for example in examples])
        frames = torch.tensor([min(example.frames, window) for example in examples])
        dropped = [random.Random(f"drop-{seed}").random() < drop for seed in seeds]
        text = _stacked([e.text for e in examples], dropped)
        if all(example.banded for example in examples):
            pairs = zip(examples, seeds, strict=True)
            chosen = [random.Random(f"band-{seed}").choice(e.banded) for e, seed in pairs]
            text["banded"] = self._window(chosen)
        if self.module.holes is not None and self.module.repeats:
            heard = [example.spectra for example in examples]
            text |= {"spectra": self._spectra(heard), "spectra_frames": frames.clone()}
            text["spectra_frames"][[one is None for one in heard]] = 0
        return self.module.drawn(Batch(codes, frames, text, seeds))

    def _spectra(self, heard: Sequence[Tensor | None]) -> Tensor:
        """``[B, F, window]`` of spectra ``[F, T]``; zero after them and where there are none."""
        whole = torch.zeros(len(heard), BANDS, self.module.window, dtype=torch.half)
        for row, one in zip(whole, heard, strict=True):
            if one is not None:
                row[:, : one.shape[1]] = one[:, : self.module.window]
        return whole

    def _window(self, latents: Sequence[Tensor]) -> Tensor:
        """``[B, C, window]`` of latents ``[C, T]``, silence after them."""
        window, rows = self.module.window, len(latents)
        quiet = latents[0][:, :1] if self.device.type == "meta" else self._silence()
        whole = quiet.expand(-1, window).repeat(rows, 1, 1).float()
        for row, one in enumerate(latents):
            whole[row, :, : one.shape[1]] = one[:, :window]
        return whole

    # --- out ---

    @torch.inference_mode()
    def decode_audio(self, codes: Tensor) -> Audio:
        codec = self.codec
        latents = codes[None].to(self.device, next(codec.parameters()).dtype)
        wave = codec.decode(latents).sample[0]
        return Audio(wave.float().clamp(-1, 1).cpu().numpy(), self.sample_rate_hz)

    def generate_codes(
        self,
        prompts: Sequence[str],
        duration_s: float,
        seeds: Sequence[int],
        settings: GenerationSettings,
        audio_prompts: Sequence[Audio] | None = None,
        should_stop: Callable[[], int] = lambda: 0,
        details: Sequence[Details] | None = None,
    ) -> list[Tensor]:
        frames = max(1, round(duration_s * self.frame_rate_hz))
        held = None
        if audio_prompts is not None:
            given = [self.encode_audio(audio)[:, :frames] for audio in audio_prompts]
            known = torch.tensor([one.shape[1] for one in given])
            keep = torch.arange(self.module.window) < known[:, None]
            latents = self._window(given)
            held = Held(latents, keep, instead=self._instead(latents, keep, audio_prompts, frames))
        return self._sampled(prompts, duration_s, frames, seeds, settings, held, should_stop)

    def remake_codes(
        self,
        prompts: Sequence[str],
        sources: Sequence[Source],
        seeds: Sequence[int],
        settings: GenerationSettings,
        should_stop: Callable[[], int] = lambda: 0,
        details: Sequence[Details] | None = None,
    ) -> list[Tensor]:
        latents = [self.encode_audio(source.audio) for source in sources]
        frames = latents[0].shape[1]
        keep, banded = None, sources[0].banded
        if banded and not isinstance(self.module.transformer.proj_in, WidenedInput):
            raise UserError(
                f"'{self.name}' was not taught to bring back a band of frequencies",
                "give an adapter of `--recipe inpaint` with task.masks=[span, tail, band]",
            )
        if any(source.spans for source in sources):
            keep = torch.stack([self._kept(source.spans, self.module.window) for source in sources])
        strength = 1.0 if keep is not None or banded else sources[0].strength
        whole, sounds = self._window(latents), [source.audio for source in sources]
        instead = None if keep is None else self._instead(whole, keep, sounds, frames)
        held = Held(whole, keep, strength, banded, instead)
        seconds = sources[0].audio.duration_s
        return self._sampled(prompts, seconds, frames, seeds, settings, held, should_stop)

    def _instead(
        self, latents: Tensor, keep: Tensor, sounds: Sequence[Audio], frames: int
    ) -> Tensor | None:
        """What is told of in place of what is missing, if the model was taught to listen to it."""
        if not self.module.repeats:
            return None
        instead = torch.zeros_like(latents)
        energies: dict[int, Tensor] = {}  # the rows are mostly takes of one recording
        for row, own, known, sound in zip(instead, latents, keep, sounds, strict=True):
            if id(sound) not in energies:
                energies[id(sound)] = torch.from_numpy(spectra(sound, self.frame_rate_hz, frames))
            found = sources(energies[id(sound)], known[:frames], self.frame_rate_hz)
            row[:, :frames] = repeated(own[:, :frames], found)
        return instead

    def _sampled(
        self,
        prompts: Sequence[str],
        duration_s: float,
        frames: int,
        seeds: Sequence[int],
        settings: GenerationSettings,
        held: Held | None,
        should_stop: Callable[[], int],
    ) -> list[Tensor]:
        text = _stacked(self.encode_text(prompts), [prompt == "" for prompt in prompts])
        with self._evaluating():
            whole = sample(
                self.module,
                self.scheduler,
                text,
                duration_s,
                seeds,
                steps=settings.steps or self._steps,
                guidance=settings.guidance,
                held=held,
                should_stop=should_stop,
            )
        return [one[:, :frames].contiguous() for one in whole.cpu()]

    def agreement(self, example: Example) -> float:
        with self._evaluating():
            text = _stacked([example.text], [False])
            data, seconds = self._window([example.codes]), example.frames / self.frame_rate_hz
            return stepwise_difference(self.module, self.scheduler, text, text, data, seconds, [0])

    # --- the rest ---

    def set_dropout(self, share: float) -> None:
        for part in (self.module.transformer, self.module.text_encoder):
            for module in part.modules():
                if isinstance(module, nn.Dropout):
                    module.p = share

    def pipeline(self) -> Any:
        """The base as it now is as diffusers' pipeline."""
        from diffusers import StableAudioPipeline

        module = self.module
        with quiet():
            return StableAudioPipeline(
                vae=self.codec,
                text_encoder=module.text_encoder,
                projection_model=module.conditioner,
                tokenizer=self.tokenizer,
                transformer=module.transformer,
                scheduler=type(self.scheduler).from_config(self.scheduler.config),
            )

    def checkpoint_activations(self, enabled: bool) -> None:
        transformer = self.module.transformer
        if enabled:
            transformer.enable_gradient_checkpointing()
        else:
            transformer.disable_gradient_checkpointing()


def _stacked(texts: Sequence[Mapping[str, Tensor]], dropped: Sequence[bool]) -> dict[str, Tensor]:
    """Rows of text, ``[B, S]`` and ``[B, S, D]``, and which of them are heard, ``[B, 1]``."""
    together = {name: torch.stack([text[name] for text in texts]) for name in texts[0]}
    together["kept"] = torch.tensor([[0 if one else 1] for one in dropped])
    return together
