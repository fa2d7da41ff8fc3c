"""A MusicGen and everything around it: codec, text side, generation."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
)
from transformers.models.musicgen.modeling_musicgen import MusicgenDecoder, MusicgenDecoderLayer

from tunesmith.families._attention import make_joinable
from tunesmith.families._parts import SequentialBundle, ends
from tunesmith.families._tokens import Vocabulary
from tunesmith.families._transformers import checkpoint_activations, encodec_sound, save_with_codec
from tunesmith.families.musicgen.decode import sample_codes, stepwise_difference
from tunesmith.families.musicgen.loss import MusicgenLoss
from tunesmith.families.musicgen.sites import sites_of
from tunesmith.types import Audio, Batch, Details, Example, GenerationSettings


class MusicgenBundle(SequentialBundle):
    """A MusicGen. ``codec`` comes and goes; ``module`` stays.

    Args:
        model: the plain model; its audio encoder is taken out and held apart.
        tokenizer: the text encoder's tokenizer.
        load_codec: brings the codec back after it was released; None if it cannot be.
        name, base_hash, codec_hash, text_hash, licence: identity, see :class:`Bundle`.
        max_s: longest clip that the base was trained on.
    """

    family = "musicgen"
    module: MusicgenLoss

    def __init__(
        self,
        model: MusicgenForConditionalGeneration,
        tokenizer: Any,
        load_codec: Callable[[], Any],
        *,
        name: str,
        base_hash: str,
        codec_hash: str,
        text_hash: str,
        licence: str,
        max_s: float,
    ) -> None:
        self._codec: Any = model.audio_encoder
        self._load_codec = load_codec
        self._codec_config: Any = model.config.audio_encoder
        model.audio_encoder = None  # type: ignore[assignment]
        make_joinable(model.decoder)
        self.module = MusicgenLoss(model)
        self.tokenizer = tokenizer
        text: Any = model.text_encoder
        self._words = Vocabulary(tokenizer, rows=int(text.config.vocab_size))
        self.name, self.base_hash, self.licence = name, base_hash, licence
        self._codec_hash, self._text_hash = codec_hash, text_hash
        self.channels = int(model.decoder.config.audio_channels)
        self.sample_rate_hz = int(self._codec_config.sampling_rate)
        self.frame_rate_hz = self.sample_rate_hz / float(
            np.prod(self._codec_config.upsampling_ratios)
        )
        self.max_s = max_s
        self.sampling = _sampling(model.generation_config)
        codebooks = int(model.decoder.config.num_codebooks)
        self.term_weights = {f"codebook_{k}": 1 / codebooks for k in range(codebooks)}
        self.components: Mapping[str, nn.Module] = {
            "decoder": model.decoder,
            "text_encoder": model.text_encoder,
        } | ({"conditioner": model.enc_to_dec_proj} if hasattr(model, "enc_to_dec_proj") else {})
        self.sites = sites_of(model)

    @torch.no_grad()  # not inference mode: autograd refuses tensors that were made in it
    def encode_audio(self, audio: Audio) -> Tensor:
        self._check_sound(audio)
        wave = torch.from_numpy(np.ascontiguousarray(audio.samples, dtype=np.float32)).to(
            self.device
        )
        wave = wave.expand(self.channels, -1)
        # The codec is mono: each channel is a row, and stereo interleaves their codebooks.
        codes = self.codec.encode(wave[:, None]).audio_codes[0]  # [C, K/C, T]
        return codes.transpose(0, 1).flatten(0, 1).to("cpu", torch.int16)

    def decode_audio(self, codes: Tensor) -> Audio:
        return self.decode_together([codes])[0]

    @torch.inference_mode()
    def decode_together(self, codes: Sequence[Tensor]) -> list[Audio]:
        """Sounds of codes ``[K, T]`` of one length in one pass; its rounding depends on how many they are."""
        stacked = torch.stack(list(codes)).to(self.device, torch.long)
        rows = stacked.unflatten(1, (-1, self.channels)).transpose(1, 2).flatten(0, 1)
        wave = self.codec.decode(rows[None], [None]).audio_values[:, 0]
        samples = wave.float().clamp(-1, 1).unflatten(0, (-1, self.channels)).cpu().numpy()
        return [Audio(one, self.sample_rate_hz) for one in samples]

    @torch.no_grad()
    def encode_text(
        self, captions: Sequence[str], details: Sequence[Details] | None = None
    ) -> list[Mapping[str, Tensor]]:
        # One at a time: a state computed among padding would differ in its last bits, and the
        # cache must hold the same thing whatever was encoded beside it.
        states = []
        encoder = self.module.model.text_encoder
        was_training = encoder.training
        encoder.eval()
        for caption in captions:
            ids = torch.tensor([self._words.ids(caption)])
            state = encoder(input_ids=ids.to(self.device)).last_hidden_state[0]
            states.append({"ids": ids[0], "states": state.float().cpu()})
        encoder.train(was_training)
        return states

    @torch.no_grad()
    def encode_text_together(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States ``[B, S, D]`` of captions in one pass, where they are, and which are seen, ``[B, S]``.

        The last bits of a state depend on what is encoded beside it, as those of no :meth:`encode_text` do.
        An empty caption is not seen at all.
        """
        ids = [torch.tensor(self._words.ids(caption)) for caption in captions]
        padded = nn.utils.rnn.pad_sequence(ids, True, self.tokenizer.pad_token_id or 0)
        lengths = torch.tensor([len(one) for one in ids])
        present = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        mask = present * torch.tensor([[int(caption != "")] for caption in captions])
        encoder = self.module.model.text_encoder
        was_training = encoder.training
        encoder.eval()
        found = encoder(input_ids=padded.to(self.device), attention_mask=present.to(self.device))
        encoder.train(was_training)
        return found.last_hidden_state, mask.to(self.device)

    def collate(
        self, examples: Sequence[Example], seeds: Sequence[int], drop: float = 0.0
    ) -> Batch:
        longest = max(example.frames for example in examples)
        codes = torch.zeros((len(examples), examples[0].codes.shape[0], longest), dtype=torch.long)
        for row, example in enumerate(examples):
            codes[row, :, : example.frames] = example.codes
        dropped = [random.Random(f"drop-{seed}").random() < drop for seed in seeds]
        frames = torch.tensor([example.frames for example in examples])
        return Batch(codes, frames, self._pad_text([e.text for e in examples], dropped), seeds)

    def _pad_text(
        self, texts: Sequence[Mapping[str, Tensor]], dropped: Sequence[bool]
    ) -> dict[str, Tensor]:
        length = max(int(text["ids"].shape[0]) for text in texts)
        width = texts[0]["states"].shape[-1]
        ids = torch.full((len(texts), length), self.tokenizer.pad_token_id or 0)
        states = torch.zeros((len(texts), length, width))
        present = torch.zeros((len(texts), length), dtype=torch.long)
        mask = torch.zeros((len(texts), length), dtype=torch.long)
        for row, text in enumerate(texts):
            size = int(text["ids"].shape[0])
            ids[row, :size] = text["ids"]
            states[row, :size] = text["states"]
            present[row, :size] = 1
            mask[row, :size] = 0 if dropped[row] else 1
        return {"ids": ids, "states": states, "present": present, "mask": mask}

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
        given = None
        if audio_prompts is not None:
            given = ends([self.encode_audio(audio) for audio in audio_prompts]).long()
        text = self._pad_text(self.encode_text(prompts), [prompt == "" for prompt in prompts])
        with self._evaluating():
            codes = sample_codes(self.module, text, frames, seeds, settings, given, should_stop)
        return list(codes.to("cpu", torch.int16))

    def agreement(self, example: Example) -> float:
        with self._evaluating():
            text = self._pad_text([example.text], [False])
            return stepwise_difference(self.module, text, example.codes[None])

    def mismatch(self, wanted: Tensor, given: Tensor) -> float:
        return float((wanted.long() != given.long()).double().mean())

    def set_dropout(self, share: float) -> None:
        for part in (self.module.model.decoder, self.module.model.text_encoder):
            for module in part.modules():
                if isinstance(module, nn.Dropout):
                    module.p = share
                # The decoder's blocks keep theirs as a number. That of attention stays as it is: with
                # one, the memory-saving kernels cannot be used.
                elif isinstance(module, MusicgenDecoder | MusicgenDecoderLayer):
                    module.dropout = share

    def export(self, folder: Path) -> None:
        model = self.module.model
        save_with_codec(model, "audio_encoder", self.codec, folder)
        sound = encodec_sound(model, self.channels, self.sample_rate_hz, padding_side="left")
        MusicgenProcessor(sound, self.tokenizer).save_pretrained(folder)
        sound.save_pretrained(folder)  # where older releases of the library look for it

    def checkpoint_activations(self, enabled: bool) -> None:
        checkpoint_activations(self.module.model.decoder, enabled)


def _sampling(config: Any) -> GenerationSettings:
    """What a checkpoint's ``generation_config.json`` says of sampling; ours where it says nothing."""
    names = {"guidance_scale": "guidance", "temperature": "temperature"}
    names |= {"top_k": "top_k", "top_p": "top_p"}
    said = {ours: getattr(config, theirs, None) for theirs, ours in names.items()}
    return replace(GenerationSettings(), **{k: v for k, v in said.items() if v is not None})
