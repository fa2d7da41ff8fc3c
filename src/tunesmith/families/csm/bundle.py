"""A CSM and everything around it: codec, text side, generation."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CsmForConditionalGeneration, CsmProcessor
from transformers.models.csm.modeling_csm import CsmAttention

from tunesmith.errors import UserError
from tunesmith.families._attention import make_joinable
from tunesmith.families._parts import SequentialBundle
from tunesmith.families._tokens import Vocabulary
from tunesmith.families._transformers import checkpoint_activations, encodec_sound, save_with_codec
from tunesmith.families.csm.decode import sample_codes, stepwise_difference
from tunesmith.families.csm.loss import CsmLoss, deep_places
from tunesmith.families.csm.sites import COMPONENT, sites_of
from tunesmith.families.csm.turns import LONGEST, Scribe, padded
from tunesmith.types import Audio, Batch, Details, Example, GenerationSettings

TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- bos_token + '[' + message['role'] + ']' + message['content'][0]['text'] + eos_token -}}"
    "{%- if message['content']|length > 1 -%}{{- '<|AUDIO|><|audio_eos|>' -}}{%- endif -%}"
    "{%- endfor -%}"
)
"""Chat template of an exported base that had none: a turn's text, then its sound."""


class CsmBundle(SequentialBundle):
    """A CSM. ``codec`` comes and goes; ``module`` stays.

    The caption is what is spoken; ``speaker`` is the number of who speaks. A prompt may also be given a
    ``context``, which is no column: :class:`tunesmith.families.csm.turns.Turn` s that were said before, in
    the voice that is wanted.

    Args:
        model: the plain model; its codec is taken out and held apart.
        tokenizer: of the text.
        load_codec: brings the codec back after it was released, in float32.
        name, base_hash, codec_hash, text_hash, licence: identity, see :class:`Bundle`.
        max_s: longest clip that it is asked for.
        depth_share: share of an example's frames that the depth decoder learns from, drawn from the
            example's seed.

    Attributes:
        depth_share: as given.
        free_length: the text decides how long a take is; the length that is asked for is the most.
    """

    family = "csm"
    channels = 1
    columns = ("speaker",)
    settings = ("temperature", "top_k", "top_p")
    free_length = True
    module: CsmLoss

    def __init__(
        self,
        model: CsmForConditionalGeneration,
        tokenizer: Any,
        load_codec: Callable[[], Any],
        *,
        name: str,
        base_hash: str,
        codec_hash: str,
        text_hash: str,
        licence: str,
        max_s: float,
        depth_share: float = 1.0,
    ) -> None:
        config: Any = model.config
        codec: Any = model.codec_model
        # In a lower precision it would hear other codes.
        self._codec: Any = codec if next(codec.parameters()).dtype == torch.float32 else None
        self._load_codec = load_codec
        self._codec_config: Any = config.codec_config
        model.codec_model = None  # type: ignore[assignment]
        # Heads stand above all layers; rates that fall layer by layer go by this order.
        model._modules["lm_head"] = model._modules.pop("lm_head")
        make_joinable(model)
        self.module = CsmLoss(model)
        self.tokenizer = tokenizer
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer of base '{name}' does not say how a text begins and ends",
                "download it again",
            )
        self._words = Vocabulary(tokenizer, rows=int(config.text_vocab_size), limit=LONGEST)
        reserved = (int(config.audio_token_id), int(config.audio_eos_token_id))
        self._scribe = Scribe(self._words, tokenizer.bos_token_id, tokenizer.eos_token_id, reserved)
        self._pad = int(tokenizer.pad_token_id or 0)
        self.name, self.base_hash, self.licence = name, base_hash, licence
        self._codec_hash, self._text_hash = codec_hash, text_hash
        self.sample_rate_hz = int(self._codec_config.sampling_rate)
        self.frame_rate_hz = float(self._codec_config.frame_rate)
        self.max_s = max_s
        self.depth_share = depth_share
        self.draws_noise = depth_share < 1
        self.sampling = _sampling(model.generation_config)
        # Half of what the library adds up: nats a code, as of the other families.
        self.term_weights = {"backbone": 0.5, "depth": 0.5}
        self.components: Mapping[str, nn.Module] = {COMPONENT: model}
        self.sites = sites_of(model)

    @torch.no_grad()  # not inference mode: autograd refuses tensors that were made in it
    def encode_audio(self, audio: Audio) -> Tensor:
        self._check_sound(audio)
        samples = np.ascontiguousarray(audio.samples, dtype=np.float32)
        wave = torch.from_numpy(samples).to(self.device)
        codes = self.codec.encode(wave[None], num_quantizers=self.module.codebooks).audio_codes
        return codes[0].to("cpu", torch.int16)

    @torch.no_grad()  # a plan acts it out without values, which inference mode does not let it
    def decode_audio(self, codes: Tensor) -> Audio:
        wave = self.codec.decode(codes.to(self.device, torch.long)[None]).audio_values[0]
        return Audio(wave.float().clamp(-1, 1).cpu().numpy(), self.sample_rate_hz)

    def encode_text(
        self, captions: Sequence[str], details: Sequence[Details] | None = None
    ) -> list[Mapping[str, Tensor]]:
        told = details or [{}] * len(captions)
        return [
            self._scribe.prompt(caption, said, self.encode_audio, self.module.eos)
            for caption, said in zip(captions, told, strict=True)
        ]

    def collate(
        self, examples: Sequence[Example], seeds: Sequence[int], drop: float = 0.0
    ) -> Batch:
        longest = max(example.frames for example in examples)
        codes = torch.zeros((len(examples), examples[0].codes.shape[0], longest), dtype=torch.long)
        for row, example in enumerate(examples):
            codes[row, :, : example.frames] = example.codes
        dropped = [random.Random(f"drop-{seed}").random() < drop for seed in seeds]
        frames = torch.tensor([example.frames for example in examples])
        text = padded([example.text for example in examples], dropped, self._pad)
        # Longer clips are used up to the longest that is allowed: what fills that has no end of its own.
        most = int(self.max_s * self.frame_rate_hz)
        text["ends"] = (frames < most).long()[:, None]
        learned = (frames + text["ends"][:, 0]).tolist()
        text["deep"] = deep_places(learned, seeds, self.depth_share)
        return Batch(codes, frames, text, seeds)

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
        """See :meth:`Bundle.generate_codes`; a take ends where its text does, at ``duration_s`` at last.

        Args:
            prompts: what is spoken; with an audio prompt its words as well, in front.
            duration_s: of each result at most, an audio prompt's length included.
            seeds, settings, should_stop: as there.
            audio_prompts: the sound that each take begins with.
            details: ``speaker``, and ``context``: turns that were said before.
        """
        most = max(1, round(duration_s * self.frame_rate_hz))
        given = None
        if audio_prompts is not None:
            given = [self.encode_audio(audio) for audio in audio_prompts]
        text = padded(self.encode_text(prompts, details), [False] * len(prompts), self._pad)
        known = int(self._codec_config.codebook_size)
        with self._evaluating():
            codes = sample_codes(
                self.module, text, most, known, seeds, settings, given, should_stop
            )
        return [one.to(torch.int16) for one in codes]

    def agreement(self, example: Example) -> float:
        with self._evaluating():
            text = padded([example.text], [False], self._pad)
            return stepwise_difference(self.module, text, example.codes[None])

    def mismatch(self, wanted: Tensor, given: Tensor) -> float:
        # Where one ends before the other, what is missing differs.
        longest = max(wanted.shape[-1], given.shape[-1])
        both = min(wanted.shape[-1], given.shape[-1])
        different = (wanted[:, :both].long() != given[:, :both].long()).double().sum()
        return float(different / wanted.shape[0] + longest - both) / max(longest, 1)

    def set_dropout(self, share: float) -> None:
        # The model has no other place for it than its attentions.
        for module in self.module.model.modules():
            if isinstance(module, CsmAttention):
                module.attention_dropout = share

    def export(self, folder: Path) -> None:
        model = self.module.model
        save_with_codec(model, "codec_model", self.codec, folder)
        sound = encodec_sound(model, 1, self.sample_rate_hz)
        template = self._template(Path(model.name_or_path)) if model.name_or_path else TEMPLATE
        words = copy.deepcopy(self.tokenizer)
        words.backend_tokenizer.no_truncation()  # it remembers how it was last asked
        CsmProcessor(sound, words, template).save_pretrained(folder)
        sound.save_pretrained(folder)  # where older releases of the library look for it

    def _template(self, source: Path) -> str:
        file = source / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        return getattr(self.tokenizer, "chat_template", None) or TEMPLATE

    def checkpoint_activations(self, enabled: bool) -> None:
        checkpoint_activations(self.module.model, enabled)


def _sampling(config: Any) -> GenerationSettings:
    """What a checkpoint's ``generation_config.json`` says of sampling; Sesame's own where it is silent."""
    usual = GenerationSettings(guidance=1.0, temperature=0.9, top_k=50)
    said = {name: getattr(config, name, None) for name in ("temperature", "top_k", "top_p")}
    return replace(usual, **{name: value for name, value in said.items() if value is not None})
