"""Captions written by a generative audio model, through transformers' Auto classes.

Checked with models of random weights in the hub's layout: Qwen2-Audio
(``Qwen2AudioForConditionalGeneration``), Audio Flamingo 3
(``AudioFlamingo3ForConditionalGeneration``) and Music Flamingo
(``MusicFlamingoForConditionalGeneration``). Any other model that transformers lists under
``AutoModelForMultimodalLM`` or ``AutoModelForSeq2SeqLM`` is taken too if its processor has a
feature extractor for sound and a chat template with a place for it, and if it answers a second of
noise when it is opened.

Mind the weights' licences: NVIDIA's Flamingos are for non-commercial research only, according to
their model cards.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoProcessor, LogitsProcessor, LogitsProcessorList

from tunesmith.captioners import Told
from tunesmith.captioners._clean import clean
from tunesmith.captioners._model import (
    Found,
    broken,
    fingerprint,
    is_silent,
    load_weights,
    mono_at,
    place,
)
from tunesmith.errors import UserError
from tunesmith.types import Audio

PROMPT = (
    "Describe this music in one sentence for a text-to-music model: "
    "genre, instruments, mood, tempo. Do not quote lyrics."
)
CHECKED = {
    "qwen2_audio": "Qwen2-Audio",
    "audioflamingo3": "Audio Flamingo 3",
    "musicflamingo": "Music Flamingo",
}
"""Model types that were tried, with their names."""
MAX_NEW_TOKENS = 96
_BATCH = 8
_CLEANING = 1  # raise it whenever clean() changes what it returns
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class _Likelihood(LogitsProcessor):
    """Keeps the log-probability of the likeliest token, which is the one that greedy search takes.

    Keeping the logits themselves would take gigabytes for a large vocabulary.
    """

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores


class AudioLlm:
    """A model that listens and writes.

    Greedy search. Confidence is exp(mean log-probability of the tokens it wrote, the end token
    included), the geometric mean of their probabilities: 1 where it never hesitated, 1 / vocabulary
    where it guessed. It says how sure the model is of its words, not whether they are right.

    Args:
        found: the model's folder.
        name: what the user called it.
        device, dtype: as in :func:`tunesmith.captioners.open_captioner`.
        prompt: what the model is asked about each clip.
        max_new_tokens: where it is stopped; an unfinished sentence is dropped.

    Attributes:
        sample_rate_hz: what the model hears.
        longest_s: how much of a clip it hears, from the start.

    Errors: :class:`UserError` for a model that cannot listen and write.
    """

    source = "model"

    def __init__(
        self,
        found: Found,
        *,
        name: str,
        device: str = "auto",
        dtype: str = "auto",
        prompt: str = PROMPT,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self.name = name
        self._device, self._dtype = place(device, dtype, small=False)
        model_class = _model_class(found, name)
        self._processor = _processor(found, name)
        extractor = self._processor.feature_extractor
        self.sample_rate_hz = int(extractor.sampling_rate)
        self.longest_s = float(
            getattr(self._processor, "max_audio_len", None)
            or getattr(extractor, "chunk_length", None)
            or 30.0
        )
        self._prompt = _render(self._processor, prompt, name)
        # Answers are appended at the right, so what fills up a batch has to stand at the left.
        self._processor.tokenizer.padding_side = "left"
        model = load_weights(model_class, found, name, self._dtype)
        self._model = model.to(self._device)
        settings = copy.deepcopy(model.generation_config)
        settings.update(do_sample=False, num_beams=1, max_new_tokens=max_new_tokens)
        settings.update(temperature=None, top_p=None, top_k=None, max_length=None)
        if settings.eos_token_id is None:
            settings.eos_token_id = self._processor.tokenizer.eos_token_id
        ends = settings.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends]) - {None}
        if settings.pad_token_id is None:
            settings.pad_token_id = self._processor.tokenizer.pad_token_id
        if settings.pad_token_id is None:
            settings.pad_token_id = min(self._ends, default=0)
        self._settings = settings
        self.fingerprint = fingerprint(found, prompt, max_new_tokens, self._dtype, _CLEANING)
        if found.model_type not in CHECKED:
            self._try_out(found.model_type)

    def _try_out(self, model_type: str) -> None:
        """A model nobody tried may want other inputs: better refused here than amid a data set."""
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, (1, self.sample_rate_hz))
        try:
            self._answer([Audio(noise.astype(np.float32), self.sample_rate_hz)] * 2)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever it is, this model is not for us
            raise _unsupported(model_type, self.name) from error

    def caption(self, clips: Sequence[Audio]) -> list[Told]:
        """One caption per clip; digital silence gets none."""
        told = [Told("", 0.0)] * len(clips)
        heard = [index for index, clip in enumerate(clips) if not is_silent(clip)]
        for start in range(0, len(heard), _BATCH):
            batch = heard[start : start + _BATCH]
            for index, answer in zip(batch, self._answer([clips[i] for i in batch]), strict=True):
                told[index] = answer
        return told

    @torch.inference_mode()
    def _answer(self, clips: Sequence[Audio]) -> list[Told]:
        inputs = self._processor(
            text=[self._prompt] * len(clips),
            audio=[mono_at(clip, self.sample_rate_hz, self.longest_s) for clip in clips],
            # Padding for the text alone: sounds keep their extractor's own, whole windows.
            text_kwargs={"padding": True},
            audio_kwargs={"sampling_rate": self.sample_rate_hz},
            return_tensors="pt",
        ).to(self._device, self._dtype)
        likelihood = _Likelihood()
        written = self._model.generate(
            **inputs,
            generation_config=self._settings,
            logits_processor=LogitsProcessorList([likelihood]),
        )
        answers = written[:, inputs["input_ids"].shape[1] :].tolist()
        steps = torch.stack(likelihood.steps, dim=1).tolist()  # [B, steps]
        return [self._told(answer, logs) for answer, logs in zip(answers, steps, strict=True)]

    def _told(self, tokens: list[int], logs: list[float]) -> Told:
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        raw = self._processor.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        text = clean(raw, finished=end is not None)
        if not text:
            return Told("", 0.0)
        counted = logs[: len(tokens) if end is None else end + 1]
        return Told(text, min(1.0, math.exp(sum(counted) / len(counted))))


def _model_class(found: Found, name: str) -> Any:
    """The class that transformers has for such a model, if it can listen and write."""
    from transformers import MODEL_FOR_MULTIMODAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(found.path, **_LOCAL)
    except (OSError, ValueError, KeyError) as error:
        raise _unsupported(found.model_type, name) from error
    if hasattr(config, "thinker_config"):
        # Qwen's Omni models speak, too: their generate() takes and returns other things.
        raise _unsupported(found.model_type, name)
    for mapping in (MODEL_FOR_MULTIMODAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise _unsupported(found.model_type, name)


def _processor(found: Found, name: str) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(found.path, **_LOCAL)
    except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
        raise broken(name, error) from error
    hears = hasattr(getattr(processor, "feature_extractor", None), "sampling_rate")
    if not hears or not hasattr(processor, "tokenizer"):
        raise _unsupported(found.model_type, name)
    return processor


def _render(processor: Any, prompt: str, name: str) -> str:
    """The question in the model's own chat format, with its one place for the sound."""
    # Templates of different years look for the sound under different keys.
    sound = {"type": "audio", "audio": "clip.wav", "audio_url": "clip.wav"}
    message = {"role": "user", "content": [sound, {"type": "text", "text": prompt}]}
    try:
        text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"captioner '{name}' has no chat template that can be used",
            f"checked: {', '.join(CHECKED.values())}",
        ) from error
    if text.count(str(getattr(processor, "audio_token", None))) != 1:
        raise UserError(
            f"the chat template of captioner '{name}' has no place for one sound",
            f"checked: {', '.join(CHECKED.values())}",
        )
    return text


def _unsupported(model_type: str, name: str) -> UserError:
    return UserError(
        f"captioner '{name}' is a '{model_type}' model, which cannot listen and write",
        f"checked: {', '.join(CHECKED.values())}; or 'clap' for tags",
    )
