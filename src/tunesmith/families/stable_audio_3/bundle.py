"""A Stable Audio 3 and everything around it: autoencoder, text side, generation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.families._diffusers import quiet
from tunesmith.families._latents import LatentBundle
from tunesmith.families._tokens import Vocabulary
from tunesmith.families.stable_audio_3 import codec as parts_of_sound
from tunesmith.families.stable_audio_3.attention import make_joinable
from tunesmith.families.stable_audio_3.loss import TERM, StableAudio3Loss
from tunesmith.families.stable_audio_3.sample import Held, sample, stepwise_difference
from tunesmith.families.stable_audio_3.sites import sites_of
from tunesmith.types import Audio, Batch, Details, Example, GenerationSettings, Source

_MOST_WORDS = 256  # the pipeline's, whatever the tokenizer says
_STEPS, _FEW_STEPS = 100, 8  # the pipeline's, and for distilled checkpoints
# The pipeline's 1 leaves a base without guidance; its own trainer listens to it at 2, 4 and 7.
_GUIDANCE = 4.0


class StableAudio3Bundle(LatentBundle):
    """A Stable Audio 3. ``codec`` comes and goes; ``module`` stays.

    Args:
        parts: ``transformer``, ``duration_embedder``, ``text_encoder``, ``tokenizer``, ``scheduler``.
        load_codec: brings the autoencoder, at first and after it was released.
        codec_config: of the autoencoder.
        name, base_hash, codec_hash, text_hash, licence: identity, see :class:`Bundle`.
        notes: of the base's folder: ``max_s``, ``steps``, ``guidance``.
    """

    family = "stable_audio_3"
    module: StableAudio3Loss
    inpainting = "own"

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
        strides = codec_config["encoder_strides"]
        self.hop = int(codec_config["patch_size"]) * math.prod(strides)
        self.sample_rate_hz = int(codec_config["sampling_rate"])
        self.channels = int(codec_config["audio_channels"])
        self.frame_rate_hz = self.sample_rate_hz / self.hop
        self.codec_s = parts_of_sound.WHOLE / self.frame_rate_hz
        conditioner = parts["duration_embedder"]
        self.module = StableAudio3Loss(transformer, conditioner, text, self.frame_rate_hz)
        self.module.requires_grad_(False)
        self.tokenizer, self.scheduler = parts["tokenizer"], parts["scheduler"]
        self._length = min(int(self.tokenizer.model_max_length), _MOST_WORDS)
        rows = int(text.config.encoder.vocab_size)
        self._words = Vocabulary(self.tokenizer, rows=rows, limit=self._length)
        self.name, self.base_hash, self.licence = name, base_hash, licence
        self._codec_hash, self._text_hash = codec_hash, text_hash
        self.max_s = min(float(conditioner.config.max_val), float(notes.get("max_s", math.inf)))
        distilled = bool(self.scheduler.config.stochastic_sampling)
        if distilled:
            self.untrainable = (
                "it is distilled to a few steps, and the loss of its base would undo that"
            )
        self._steps = int(notes.get("steps", _FEW_STEPS if distilled else _STEPS))
        guidance = float(notes.get("guidance", 1.0 if distilled else _GUIDANCE))
        self.sampling = replace(GenerationSettings(), guidance=guidance, steps=self._steps)
        self.term_weights = {TERM: 1.0}
        self.components: Mapping[str, nn.Module] = {
            "transformer": transformer,
            "text_encoder": text,
            "conditioner": conditioner,
        }
        self.sites = sites_of(transformer, text)
        # The input for given sound, which the loss leaves out unless sounds are shown with holes.
        self.fixed = frozenset(
            f"transformer/{path}"
            for path, _ in transformer.named_parameters()
            if ".to_local_embed." in path
        )

    # --- in ---

    @torch.no_grad()  # not inference mode: autograd refuses tensors that were made in it
    def encode_audio(self, audio: Audio) -> Tensor:
        """Latents ``[C, T]``, as the pipeline has them of a reference."""
        codec = self.codec
        wave = self._wave(audio)
        found = parts_of_sound.encode(codec, wave.to(next(codec.parameters()).dtype))
        return found[0].float().cpu().contiguous()

    @torch.no_grad()
    def encode_text(
        self, captions: Sequence[str], details: Sequence[Details] | None = None
    ) -> list[Mapping[str, Tensor]]:
        # One at a time: a state computed in other company would differ in its last bits, and the
        # cache must hold the same thing whatever was encoded beside it.
        encoder = self.module.text_encoder
        was_training = encoder.training
        encoder.eval()
        found: dict[str, Mapping[str, Tensor]] = {}
        for caption in dict.fromkeys(captions):  # the empty one of guidance is there for each row
            text = self._padded(self._words.ids(caption))
            ids, present = (text[name][None].to(self.device) for name in ("ids", "present"))
            states = encoder(ids, attention_mask=present)[0][0].float().cpu()
            found[caption] = {**text, "states": states}
        encoder.train(was_training)
        return [found[caption] for caption in captions]

    def _padded(self, ids: list[int]) -> dict[str, Tensor]:
        """Ids filled up to the length that the pipeline has always, on the tokenizer's side."""
        empty = self._length - len(ids)
        fill, real = [self.tokenizer.pad_token_id] * empty, [1] * len(ids)
        if self.tokenizer.padding_side == "left":
            ids, present = fill + ids, [0] * empty + real
        else:
            ids, present = ids + fill, real + [0] * empty
        return {"ids": torch.tensor(ids), "present": torch.tensor(present)}

    def collate(
        self, examples: Sequence[Example], seeds: Sequence[int], drop: float = 0.0
    ) -> Batch:
        frames = torch.tensor([example.frames for example in examples])
        channels = examples[0].codes.shape[0]
        codes = torch.zeros(len(examples), channels, int(frames.max()))
        for row, example in enumerate(examples):
            codes[row, :, : example.frames] = example.codes
        texts = [example.text for example in examples]
        dropped = [random.Random(f"drop-{seed}").random() < drop for seed in seeds]
        if any(dropped):
            # The pipeline guides away from the empty text. Encoded anew: what trains may change it.
            (nothing,) = self.encode_text([""])
            texts = [nothing if one else text for one, text in zip(dropped, texts, strict=True)]
        return Batch(codes, frames, _stacked(texts), seeds)

    # --- out ---

    @torch.inference_mode()
    def decode_audio(self, codes: Tensor) -> Audio:
        codec = self.codec
        latents = codes[None].to(self.device, next(codec.parameters()).dtype)
        wave = parts_of_sound.decode(codec, latents)[0]
        return Audio(wave.float().clamp(-1, 1).cpu().numpy(), self.sample_rate_hz)

    def generate(
        self,
        prompts: Sequence[str],
        duration_s: float,
        seeds: Sequence[int],
        settings: GenerationSettings | None = None,
        audio_prompts: Sequence[Audio] | None = None,
        should_stop: Callable[[], int] = lambda: 0,
        details: Sequence[Details] | None = None,
    ) -> list[Audio]:
        """As the pipeline does: whole frames are sampled, and the sound cut to the duration."""
        made = super().generate(
            prompts, duration_s, seeds, settings, audio_prompts, should_stop, details
        )
        length = int(duration_s * self.sample_rate_hz + 1e-6)
        return [Audio(one.samples[:, :length], one.sample_rate_hz) for one in made]

    def _frames(self, duration_s: float) -> int:
        return max(1, math.ceil(duration_s * self.frame_rate_hz - 1e-6))

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
        frames, held = self._frames(duration_s), None
        if audio_prompts is not None:
            latents = torch.zeros(len(prompts), self.channels_of_latents, frames)
            keep = torch.zeros(len(prompts), frames, dtype=torch.bool)
            for row, audio in enumerate(audio_prompts):
                given = self.encode_audio(audio)[:, :frames]
                latents[row, :, : given.shape[1]] = given
                keep[row, : given.shape[1]] = True
            held = Held(latents, keep)
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
        latents = torch.stack([self.encode_audio(source.audio) for source in sources])
        frames = latents.shape[-1]
        keep, strength = None, sources[0].strength
        if any(source.spans for source in sources):
            keep = torch.stack([self._kept(source.spans, frames) for source in sources])
            strength = 1.0
        elif strength == 0:
            return list(latents)
        held = Held(latents, keep, strength)
        seconds = sources[0].audio.duration_s
        return self._sampled(prompts, seconds, frames, seeds, settings, held, should_stop)

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
        with self._evaluating():
            # Of each row its own, though all are alike: what serves rows may read them differently.
            texts = self.encode_text([*prompts, *[""] * len(prompts)])
            whole = sample(
                self.module,
                self.scheduler,
                _stacked(texts[: len(prompts)]),
                _stacked(texts[len(prompts) :]),
                duration_s,
                frames,
                seeds,
                steps=settings.steps or self._steps,
                guidance=settings.guidance,
                held=held,
                should_stop=should_stop,
            )
        return [one.contiguous() for one in whole.cpu()]

    def agreement(self, example: Example) -> float:
        with self._evaluating():
            seconds = example.frames / self.frame_rate_hz
            text, data = _stacked([example.text]), example.codes[None]
            return stepwise_difference(self.module, self.scheduler, text, data, seconds, [0])

    # --- the rest ---

    @property
    def channels_of_latents(self) -> int:
        return int(self.module.transformer.config.io_channels)

    def set_dropout(self, share: float) -> None:
        """The text encoder's; the transformer has none.

        Raises:
            UserError: a share above 0, which would change nothing that trains by default.
        """
        if share:
            raise self._cannot("train with dropout: its transformer has none")
        for module in self.module.text_encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = share

    def pipeline(self) -> Any:
        """The base as it now is as diffusers' pipeline."""
        from diffusers import StableAudio3Pipeline

        module = self.module
        with quiet():
            return StableAudio3Pipeline(
                vae=self.codec,
                text_encoder=module.text_encoder,
                tokenizer=self.tokenizer,
                duration_embedder=module.conditioner,
                transformer=module.transformer,
                scheduler=type(self.scheduler).from_config(self.scheduler.config),
            )

    def checkpoint_activations(self, enabled: bool) -> None:
        transformer = self.module.transformer
        if enabled:
            transformer.enable_gradient_checkpointing()
        else:
            transformer.disable_gradient_checkpointing()


def _stacked(texts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of text, ``[B, S]`` and ``[B, S, E]``."""
    return {name: torch.stack([text[name] for text in texts]) for name in texts[0]}
