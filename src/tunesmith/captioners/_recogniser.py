"""Speech to text by a recogniser from a folder or hub id: transcripts, and word error rates.

Two kinds, by transformers' own lists: those that write (Whisper and others under
``AutoModelForSpeechSeq2Seq``) and those that spell frame by frame (wav2vec 2.0, HuBERT, WavLM and
others under ``AutoModelForCTC``). Float32, greedy, the same text each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from transformers import (
    MODEL_FOR_CTC_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    AutoConfig,
    AutoProcessor,
)
from transformers.utils import logging as transformers_logging

from tunesmith.captioners._model import broken, find, is_silent, load_weights, mono_at, place
from tunesmith.embeddings._embedder import exactly, label_of
from tunesmith.errors import UserError
from tunesmith.types import Audio

_WHAT = "recogniser"
_SUGGESTED = "openai/whisper-small"
_PIECE_S, _QUIET_S, _SEARCHED_S = 30.0, 0.2, 5.0
_LEAST_S = 0.5


class Transcriber:
    """A recogniser that has been opened.

    Args:
        name: a hub id, with or without ``@revision``, or a folder in the hub's layout.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` ...
        language: of the speech (``en``), for models that know several; None lets them guess.

    Attributes:
        label: checkpoint and version, to stand beside the numbers.

    Raises:
        UserError: there is no such model, it does not recognise speech, or it knows no languages.
    """

    def __init__(self, name: str, device: object = "auto", language: str | None = None) -> None:
        found = find(name, _WHAT, [_SUGGESTED])
        try:
            config = AutoConfig.from_pretrained(found.path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise _unsupported(name, found.model_type) from error
        named = list(getattr(config, "architectures", None) or ())
        spells = any(one.endswith("ForCTC") for one in named)
        mapping = MODEL_FOR_CTC_MAPPING if spells else MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
        if type(config) not in mapping:
            raise _unsupported(name, found.model_type)
        try:
            self._processor: Any = AutoProcessor.from_pretrained(found.path, local_files_only=True)
        except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
            raise broken(name, error, _WHAT) from error
        if not hasattr(self._processor, "tokenizer"):
            raise broken(name, "no tokenizer", _WHAT)
        self._where, precision = place(str(device), "float32", small=True)
        self._model = load_weights(mapping[type(config)], found, name, precision).to(self._where)
        self._spells, self.label = spells, label_of("asr", found)
        self._rate_hz = int(self._processor.feature_extractor.sampling_rate)
        self._piece = round(_PIECE_S * self._rate_hz)
        self._language: dict[str, Any] = {}
        settings: Any = getattr(self._model, "generation_config", None)
        if not spells:
            settings.update(do_sample=False, num_beams=1)
        if language is not None:
            if spells or not getattr(settings, "is_multilingual", False):
                raise UserError(
                    f"recogniser '{name}' cannot be told a language", "leave the language out"
                )
            self._language = {"language": language, "task": "transcribe"}

    def transcribe(self, audio: Audio) -> str:
        """What is said in a sound; empty for silence.

        More than thirty seconds are cut where it is quietest.

        Raises:
            UserError: no samples, NaN or infinity.
        """
        if audio.samples.size == 0 or not np.isfinite(audio.samples).all():
            raise UserError("no samples, or NaN or infinity among them", "leave this sound out")
        if is_silent(audio):
            return ""
        mono = mono_at(audio, self._rate_hz)
        least = round(_LEAST_S * self._rate_hz)
        mono = np.pad(mono, (0, max(0, least - len(mono))))
        with exactly(), _quietly():
            said = [self._piece_of(piece) for piece in pieces(mono, self._piece, self._rate_hz)]
        return " ".join(part.strip() for part in said if part.strip())

    def _piece_of(self, mono: np.ndarray) -> str:
        heard = self._processor.feature_extractor(
            mono, sampling_rate=self._rate_hz, return_tensors="pt"
        )
        values = next(
            iter(heard[key] for key in ("input_features", "input_values") if key in heard)
        )
        values = values.to(self._where)
        if self._spells:
            tokens = self._model(values).logits.argmax(dim=-1)
        else:
            tokens = self._model.generate(values, **self._language)
        return self._processor.tokenizer.decode(tokens[0].tolist(), skip_special_tokens=True)


def pieces(mono: np.ndarray, longest: int, sample_rate_hz: int) -> list[np.ndarray]:
    """``[T]`` in parts of at most ``longest`` samples, cut in the quietest 0.2 s of each part's end."""
    out = []
    quiet = round(_QUIET_S * sample_rate_hz)
    searched = min(round(_SEARCHED_S * sample_rate_hz), longest // 2)
    while len(mono) > longest:
        end = mono[longest - searched : longest].astype(np.float64)
        power = np.convolve(end**2, np.ones(quiet), mode="valid")
        at = longest - searched + int(power.argmin()) + quiet // 2
        out.append(mono[:at])
        mono = mono[at:]
    return [*out, mono]


@contextmanager
def _quietly() -> Iterator[None]:
    """Whisper's ``generate`` warns of what it passes to itself."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _unsupported(name: str, model_type: str) -> UserError:
    return UserError(
        f"recogniser '{name}' is a '{model_type}' model, which does not write down speech",
        f"take one such as {_SUGGESTED}",
    )
