"""An ACE-Step and everything around it: autoencoder, text side, generation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.transformers.ace_step_transformer import AceStepAttention
from torch import Tensor, nn

from tunesmith.families._diffusers import quiet
from tunesmith.families._latents import LatentBundle
from tunesmith.families.ace_step import SPEC, text
from tunesmith.families.ace_step.attention import make_joinable
from tunesmith.families.ace_step.loss import TERM, AceStepLoss
from tunesmith.families.ace_step.sample import Held, sample, stepwise_difference
from tunesmith.families.ace_step.sites import sites_of
from tunesmith.families.ace_step.words import Words, stacked
from tunesmith.types import Audio, Batch, Details, Example, GenerationSettings, Source

# The pipeline's, but for the steps of a base: its own 8 are a turbo's, its authors advise 32 to 64.
_STEPS, _FEW_STEPS, _GUIDANCE, _SHIFT = 50, 8, 7.0, 3.0
_PART = 512  # frames that go through the autoencoder at once, 20 s


class AceStepBundle(LatentBundle):
    """An ACE-Step. ``codec`` comes and goes; ``module`` stays.

    Args:
        parts: ``transformer``, ``condition_encoder``, ``text_encoder``, ``tokenizer``, ``scheduler``.
        load_codec: brings the autoencoder, at first and after it was released.
        codec_config: of the autoencoder.
        load_rest: brings further parts of the base's pipeline, for an export.
        name, base_hash, codec_hash, text_hash, licence: identity, see :class:`Bundle`.
        notes: of the base's folder: ``max_s``, ``steps``, ``guidance``, ``shift``.
    """

    family = "ace_step"
    module: AceStepLoss
    columns = text.COLUMNS
    apart = 0.25  # of unrelated latents 86 % lie further apart
    inpainting = "own"
    # What only rows without a caption reach, and what the library keeps but never calls.
    fixed = frozenset(
        {"conditioner/null_condition_emb", "conditioner/timbre_encoder.special_token"}
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
        load_rest: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        transformer, conditioner = parts["transformer"], parts["condition_encoder"]
        make_joinable(transformer)
        self._load_codec, self._load_rest = load_codec, load_rest
        self.hop = math.prod(codec_config["downsampling_ratios"])
        self.sample_rate_hz = int(codec_config["sampling_rate"])
        self.channels = int(codec_config["audio_channels"])
        self.frame_rate_hz = self.sample_rate_hz / self.hop
        self.codec_s = _PART / self.frame_rate_hz
        encoder = parts["text_encoder"]
        self.module = AceStepLoss(transformer, conditioner, encoder, self.frame_rate_hz)
        self.module.requires_grad_(False)
        self.tokenizer, self.scheduler = parts["tokenizer"], parts["scheduler"]
        self._words = Words(self.tokenizer, rows=int(encoder.config.vocab_size))
        self.name, self.base_hash, self.licence = name, base_hash, licence
        self._codec_hash, self._text_hash = codec_hash, text_hash
        longest: Any = SPEC["max_s"]
        self.max_s = min(float(longest), float(notes.get("max_s", longest)))
        config = transformer.config
        self.distilled = bool(config.is_turbo or config.model_version == "turbo")
        if self.distilled:
            self.untrainable = (
                "it is a turbo, distilled to eight steps, and the loss of its base would undo that"
            )
            self.settings = ("steps",)
        self._shift = float(notes.get("shift", _SHIFT))
        self._steps = int(notes.get("steps", _FEW_STEPS if self.distilled else _STEPS))
        guidance = 1.0 if self.distilled else float(notes.get("guidance", _GUIDANCE))
        self.sampling = replace(GenerationSettings(), guidance=guidance, steps=self._steps)
        self.term_weights = {TERM: 1.0}
        self.components: Mapping[str, nn.Module] = {
            "transformer": transformer,
            "text_encoder": encoder,
            "conditioner": conditioner,
        }
        self.sites = sites_of(transformer, conditioner, encoder)

    @property
    def codec(self) -> Any:
        """The autoencoder, loaded if it is not there."""
        if self._codec is None:
            self._codec = self._load_codec().to(self.device)
            # In parts that overlap: a minute at once would take more memory than all that trains.
            self._codec.use_tiling = True
            self._codec.tile_latent_min_length = _PART
            self._codec.tile_sample_min_length = _PART * self.hop
        if next(self._codec.parameters()).device != self.device:
            self._codec.to(self.device)
        return self._codec.eval()

    # --- in ---

    @torch.no_grad()  # not inference mode: autograd refuses tensors that were made in it
    def encode_audio(self, audio: Audio) -> Tensor:
        """Means of the autoencoder's posterior, ``[C, T]``: a cache has to hold one value."""
        codec = self.codec
        wave = self._wave(audio)
        found = codec.encode(wave.to(next(codec.parameters()).dtype)).latent_dist.mode()
        return found[0].float().cpu().contiguous()

    @torch.no_grad()
    def encode_text(
        self, captions: Sequence[str], details: Sequence[Details] | None = None
    ) -> list[Mapping[str, Tensor]]:
        """Ids of captions and lyrics, and the captions' states.

        Raises:
            UserError: a detail that the model is not told, or that would be cut off.
        """
        # One at a time, as the pipeline reads a single prompt: of several it lets what fills the
        # shorter ones be seen.
        encoder = self.module.text_encoder
        found = []
        for caption, one in zip(captions, details or [None] * len(captions), strict=True):
            row = self._words.ids(caption, text.read(one))
            ids = row["ids"][None].to(self.device)
            states = encoder(input_ids=ids, use_cache=False).last_hidden_state[0]
            found.append({**row, "states": states.float().cpu()})
        return found

    def collate(
        self, examples: Sequence[Example], seeds: Sequence[int], drop: float = 0.0
    ) -> Batch:
        frames = torch.tensor([example.frames for example in examples])
        channels = examples[0].codes.shape[0]
        codes = torch.zeros(len(examples), channels, int(frames.max()))
        for row, example in enumerate(examples):
            codes[row, :, : example.frames] = example.codes
        dropped = [random.Random(f"drop-{seed}").random() < drop for seed in seeds]
        return Batch(codes, frames, stacked([e.text for e in examples], dropped), seeds)

    # --- out ---

    @torch.inference_mode()
    def decode_audio(self, codes: Tensor) -> Audio:
        """Sound of latents; as in the pipeline, one that is too loud is made softer rather than cut off."""
        codec = self.codec
        latents = codes[None].to(self.device, next(codec.parameters()).dtype)
        wave = codec.decode(latents).sample[0].float()
        wave = wave / wave.abs().max().clamp(min=1.0)
        return Audio(wave.cpu().numpy(), self.sample_rate_hz)

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
            latents = torch.zeros(len(prompts), self._channels, frames)
            keep = torch.zeros(len(prompts), frames, dtype=torch.bool)
            for row, audio in enumerate(audio_prompts):
                given = self.encode_audio(audio)[:, :frames]
                latents[row, :, : given.shape[1]] = given
                keep[row, : given.shape[1]] = True
            held = Held(latents, keep)
        told = self._told(prompts, details, duration_s)
        return self._sampled(told, frames, seeds, settings, held, should_stop)

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
        told = self._told(prompts, details, sources[0].audio.duration_s)
        held = Held(latents, keep, strength)
        return self._sampled(told, frames, seeds, settings, held, should_stop)

    def _told(
        self, prompts: Sequence[str], details: Sequence[Details] | None, duration_s: float
    ) -> dict[str, Tensor]:
        """Conditioning of prompts for sounds of a length; of none where nothing is said."""
        given = [dict(one) for one in details or [{}] * len(prompts)]
        for one in given:
            one["duration_s"] = duration_s
        pairs = zip(prompts, given, strict=True)
        without = [prompt == "" and not text.read(one).anything for prompt, one in pairs]
        return stacked(self.encode_text(prompts, given), without)

    def _sampled(
        self,
        told: Mapping[str, Tensor],
        frames: int,
        seeds: Sequence[int],
        settings: GenerationSettings,
        held: Held | None,
        should_stop: Callable[[], int],
    ) -> list[Tensor]:
        with self._evaluating():
            whole = sample(
                self.module,
                self.scheduler,
                told,
                frames,
                seeds,
                steps=settings.steps or self._steps,
                shift=self._shift,
                guidance=1.0 if self.distilled else settings.guidance,
                held=held,
                should_stop=should_stop,
            )
        return [one.contiguous() for one in whole.cpu()]

    def agreement(self, example: Example) -> float:
        with self._evaluating():
            told, data = stacked([example.text], [False]), example.codes[None]
            return stepwise_difference(self.module, self.scheduler, told, data, self._shift, [0])

    # --- the rest ---

    @property
    def _channels(self) -> int:
        return int(self.module.transformer.config.audio_acoustic_hidden_dim)

    def set_dropout(self, share: float) -> None:
        """Of the attention weights: the one dropout that the architecture has."""
        for name in ("transformer", "conditioner"):
            for module in self.components[name].modules():
                if isinstance(module, AceStepAttention):
                    module.dropout = share

    def pipeline(self) -> Any:
        """The base as it now is as diffusers' pipeline."""
        from diffusers import AceStepPipeline

        module = self.module
        with quiet():
            return AceStepPipeline(
                vae=self.codec,
                text_encoder=module.text_encoder,
                tokenizer=self.tokenizer,
                transformer=module.transformer,
                condition_encoder=module.conditioner,
                scheduler=type(self.scheduler).from_config(self.scheduler.config),
                **self._load_rest(),
            )

    def checkpoint_activations(self, enabled: bool) -> None:
        for part in (self.module.transformer, self.module.conditioner):
            if enabled:
                part.enable_gradient_checkpointing()
            else:
                part.disable_gradient_checkpointing()
