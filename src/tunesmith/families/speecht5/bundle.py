"""A SpeechT5 and everything around it: mels, letters, the speaker, the vocoder, generation."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.models.speecht5.modeling_speecht5 import SpeechT5Attention
from transformers.models.speecht5.number_normalizer import EnglishNumberNormalizer

from tunesmith.errors import UserError
from tunesmith.families._parts import SequentialBundle, ends
from tunesmith.families._tokens import Vocabulary
from tunesmith.families._transformers import checkpoint_activations, quiet
from tunesmith.families.speecht5 import hearing, speaker
from tunesmith.families.speecht5.decode import speak, stepwise_difference
from tunesmith.families.speecht5.loss import AFTER, ATTENTION, BEFORE, STOP, VOCODER, SpeechT5Loss
from tunesmith.families.speecht5.sites import MODEL as MODEL_PART
from tunesmith.families.speecht5.sites import VOCODER as VOCODER_PART
from tunesmith.families.speecht5.sites import sites_of, without_effect
from tunesmith.families.speecht5.vocoder import with_wave
from tunesmith.types import Audio, Batch, Details, Example, GenerationSettings

_APART = 0.2  # of log10 mels, 4 dB: less than two takes of one sentence differ by
_TEXT_FILES = ("*.model", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json")


class SpeechT5Bundle(SequentialBundle):
    """A SpeechT5. Its vocoder can be trained, so it stays in memory.

    Args:
        model: ``SpeechT5ForTextToSpeech``.
        vocoder: ``SpeechT5HifiGan``.
        tokenizer: a fast one.
        sound: ``SpeechT5FeatureExtractor``.
        name, base_hash, codec_hash, text_hash, licence: identity, see :class:`Bundle`.
        max_s: longest clip.
        conditioning: of the base's own notes: ``speaker``, the vector that stands where none is said;
            zeros where there is none.
        spell_numbers: write numbers out as English words first, where the checkpoint's settings say so.
        source: folder that the base came from.
    """

    family = "speecht5"
    module: SpeechT5Loss
    settings = ()
    columns = (speaker.COLUMN,)
    free_length = True

    def __init__(
        self,
        model: Any,
        vocoder: Any,
        tokenizer: Any,
        sound: Any,
        *,
        name: str,
        base_hash: str,
        codec_hash: str,
        text_hash: str,
        licence: str,
        max_s: float,
        conditioning: Mapping[str, Any] | None = None,
        spell_numbers: bool = False,
        source: Path | None = None,
    ) -> None:
        config = model.config
        self.module = SpeechT5Loss(model, vocoder, sound)
        self.module.requires_grad_(False)
        self.tokenizer, self.sound = tokenizer, sound
        self._limit, self._pad = int(config.max_text_positions), int(config.pad_token_id or 0)
        self._words = Vocabulary(tokenizer, rows=int(config.vocab_size), limit=self._limit)
        self._spell = EnglishNumberNormalizer() if spell_numbers else str
        self.name, self.base_hash, self.licence = name, base_hash, licence
        self._codec_hash, self._text_hash = codec_hash, text_hash
        self.sample_rate_hz, self.channels = int(sound.sampling_rate), 1
        self.hop = int(sound.sample_stride)
        self.frame_rate_hz = self.sample_rate_hz / self.hop
        self.max_s = max_s
        self._voice_size = int(config.speaker_embedding_dim)
        self.voice = torch.zeros(self._voice_size)
        self.use_conditioning(conditioning or {})
        self.components: Mapping[str, nn.Module] = {MODEL_PART: model, VOCODER_PART: vocoder}
        self.sites = sites_of(model, vocoder)
        self.fixed = without_effect(model)
        self._source = source
        self._ear: Any = None  # opened when it is first asked

    @property
    def term_weights(self) -> Mapping[str, float]:  # type: ignore[override]
        """As the library adds them up; the vocoder's is there while the vocoder trains."""
        config = self.module.model.config
        weights = {BEFORE: 1.0, AFTER: 1.0, STOP: 1.0}
        if config.use_guided_attention_loss:
            weights[ATTENTION] = float(config.guided_attention_loss_scale)
        return weights | ({VOCODER: 1.0} if self.module.vocoder_trains else {})

    @property
    def codec_hash(self) -> str:
        return self._codec_hash + ("-wave" if self.module.vocoder_trains else "")

    @property
    def text_hash(self) -> str:
        own = super().text_hash
        # A row that says no speaker is encoded with this one.
        return f"{own}-{hash_of(self.voice)}" if bool(self.voice.any()) else own

    def release_codec(self) -> None:
        """Nothing: mels need no weights, and the vocoder is part of what trains."""

    # --- in ---

    @torch.no_grad()
    def encode_audio(self, audio: Audio) -> Tensor:
        """log10 mels ``[M, T]``, T a whole number of the decoder's steps; ``[M + hop, T]`` with the wave
        below them while the vocoder trains."""
        self._check_sound(audio)
        wave = np.ascontiguousarray(audio.samples[0], dtype=np.float32)
        # The library's recipe has one frame more than whole hops; it takes at least a step of them.
        wave = np.pad(wave, (0, max(0, (self.module.reduction - 1) * self.hop - len(wave))))
        mels = torch.from_numpy(self.sound._extract_mel_features(wave).astype(np.float32)).T
        mels = mels[:, : self._whole(mels.shape[1])].contiguous()
        if self.module.vocoder_trains:
            return with_wave(mels, torch.from_numpy(wave), self.hop)
        return mels

    def _whole(self, frames: int) -> int:
        return frames - frames % self.module.reduction

    def encode_text(
        self, captions: Sequence[str], details: Sequence[Details] | None = None
    ) -> list[Mapping[str, Tensor]]:
        """Ids and the speaker's vector; the encoder runs along with the decoder.

        Raises:
            UserError: a text that is too long to be spoken at once, or a speaker that is no vector.
        """
        found = []
        for caption, one in zip(captions, details or [None] * len(captions), strict=True):
            text = self._spell(caption)
            if (length := len(self._words.pieces(text)) + 1) > self._limit:
                raise UserError(
                    f"a text of {length} letters, of which '{self.name}' reads {self._limit} "
                    f"('{text[:40]} ...')",
                    "cut it into sentences",
                )
            vector = speaker.read(one, self._voice_size, self.voice)
            found.append({"ids": torch.tensor(self._words.ids(text)), "speaker": vector.clone()})
        return found

    def collate(
        self, examples: Sequence[Example], seeds: Sequence[int], drop: float = 0.0
    ) -> Batch:
        frames = torch.tensor([self._whole(example.frames) for example in examples])
        codes = torch.zeros(len(examples), examples[0].codes.shape[0], int(frames.max()))
        for row, (example, size) in enumerate(zip(examples, frames.tolist(), strict=True)):
            codes[row, :, :size] = example.codes[:, :size]
        dropped = [random.Random(f"drop-{seed}").random() < drop for seed in seeds]
        return Batch(codes, frames, self._stacked([e.text for e in examples], dropped), seeds)

    def _stacked(
        self, texts: Sequence[Mapping[str, Tensor]], dropped: Sequence[bool]
    ) -> dict[str, Tensor]:
        """``ids`` and ``mask`` ``[B, S]``, ``speaker`` ``[B, E]``; a dropped row has its end alone."""
        rows = [
            text["ids"][-1:] if lost else text["ids"]
            for text, lost in zip(texts, dropped, strict=True)
        ]
        return {
            "ids": pad_sequence(rows, batch_first=True, padding_value=self._pad),
            "mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
            "speaker": torch.stack([text["speaker"] for text in texts]),
        }

    # --- out ---

    @torch.inference_mode()
    def decode_audio(self, codes: Tensor) -> Audio:
        mels = codes[: self.module.bins].T.to(
            self.device, self.module.vocoder.conv_pre.weight.dtype
        )
        was_training = self.module.vocoder.training
        wave = self.module.vocoder.eval()(mels).float().clamp(-1, 1)
        self.module.vocoder.train(was_training)
        return Audio(wave[None].cpu().numpy(), self.sample_rate_hz)

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
        """Mels ``[M, T]``; ``duration_s`` is the most, for how long a text takes is the voice's own."""
        frames = max(1, round(duration_s * self.frame_rate_hz))
        given = None
        if audio_prompts is not None:
            given = ends([self.encode_audio(one)[: self.module.bins] for one in audio_prompts])
        text = self._stacked(self.encode_text(prompts, details), [False] * len(prompts))
        with self._evaluating():
            rows = speak(self.module, text, frames, seeds, given, should_stop)
        return [row.cpu() for row in rows]

    def agreement(self, example: Example) -> float:
        with self._evaluating():
            return stepwise_difference(self.module, self.collate([example], [0]).to(self.device))

    def mismatch(self, wanted: Tensor, given: Tensor) -> float:
        """Share of mel values that differ by more than 4 dB; of frames that only one has, all do."""
        wanted, given = (one[: self.module.bins].float().cpu() for one in (wanted, given))
        both, most = sorted((wanted.shape[1], given.shape[1]))
        apart = (wanted[:, :both] - given[:, :both]).abs() > _APART
        return 1 - float((~apart).sum()) / max(1, len(wanted) * most)

    # --- the speaker ---

    def conditioning(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        """The direction between the examples' speakers, if any is said: whom an adapter of them speaks as."""
        said = [one.text["speaker"] for one in examples]
        said = [one for one in said if bool(one.any())]
        return {speaker.COLUMN: speaker.mean(said).tolist()} if said else {}

    def use_conditioning(self, values: Mapping[str, Any]) -> None:
        """Speak with this vector where no speaker is said.

        Raises:
            UserError: it is not the vector of a speaker of this base.
        """
        if speaker.COLUMN in values:
            self.voice = speaker.vector(values[speaker.COLUMN], self._voice_size)

    def conditioning_kept(self) -> Callable[[], None]:
        voice = self.voice
        return lambda: setattr(self, "voice", voice)

    def hear_speaker(self, sounds: Sequence[Audio]) -> Tensor | None:
        """Whom recordings are of, as a vector ``[E]`` of length 1 (:func:`.hearing.heard`).

        Args:
            sounds: recordings of one voice, any rates.

        Returns:
            None where the base brings no speaker encoder of its own.

        Raises:
            UserError: no sounds, one that cannot be heard, or an encoder that does not load.
        """
        if self._ear is None and self._source is not None:
            self._ear = hearing.encoder(self._source, self._voice_size)
        return None if self._ear is None else hearing.heard(self._ear, sounds)

    # --- the rest ---

    def set_dropout(self, share: float) -> None:
        # The postnet's half is part of how it was made, and so is the prenet's, which is no module.
        for module in self.module.model.speecht5.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            elif isinstance(module, SpeechT5Attention):
                module.dropout = share

    def export(self, folder: Path) -> None:
        with quiet():
            self.module.model.save_pretrained(folder)
            self.module.vocoder.save_pretrained(folder / "vocoder")
        self.sound.save_pretrained(folder)
        files = (
            []
            if self._source is None
            else [file for pattern in _TEXT_FILES for file in self._source.glob(pattern)]
        )
        for file in files:  # the letters as they came: the library's own reader wants those
            shutil.copyfile(file, folder / file.name)
        if not files:
            self.tokenizer.save_pretrained(folder)
        if self._source is not None and (ear := self._source / hearing.FILE).is_file():
            (folder / hearing.FILE.parent).mkdir(exist_ok=True)
            shutil.copyfile(ear, folder / hearing.FILE)

    def checkpoint_activations(self, enabled: bool) -> None:
        checkpoint_activations(self.module.model, enabled)


def hash_of(vector: Tensor) -> str:
    """Hash of a speaker's vector."""
    return hashlib.sha256(vector.numpy().tobytes()).hexdigest()[:16]
