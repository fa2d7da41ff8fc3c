"""A SpeechT5 from a folder in the layout of transformers, and its vocoder from wherever that lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    SpeechT5Config,
    SpeechT5FeatureExtractor,
    SpeechT5ForTextToSpeech,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from tunesmith.errors import UserError
from tunesmith.families._bases import Base, fetch, fingerprint, looks_like_id
from tunesmith.families._transformers import quiet
from tunesmith.families.speecht5.bundle import SpeechT5Bundle
from tunesmith.families.speecht5.words import load_tokenizer

VOCODER = "microsoft/speecht5_hifigan"
_ARCHITECTURE = "SpeechT5ForTextToSpeech"
_FILES: Sequence[str] = ("config.json", "*.safetensors")


def limits(base: Base) -> tuple[int, int, float]:
    """``(sample_rate_hz, channels, max_s)`` from the config files alone."""
    sound = _sound(base)
    steps = int(base.config.get("max_speech_positions", 4000))
    frames = steps * int(base.config.get("reduction_factor", 2))
    most = float(base.notes.get("max_s", base.family.spec["max_s"]))
    return sound.sampling_rate, 1, min(most, frames * sound.sample_stride / sound.sampling_rate)


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> SpeechT5Bundle:
    """Load a SpeechT5 base; see :func:`tunesmith.families.load`."""
    _check_kind(base)
    tokenizer, bare = load_tokenizer(base.path), str(device) == "meta"
    hashes = {"base_hash": "", "codec_hash": "", "text_hash": ""}
    model = _load(base.name, base.path, SpeechT5ForTextToSpeech, SpeechT5Config, device, dtype)
    where = find_vocoder(base, weights=not bare)
    vocoder = _load(
        f"the vocoder of {base.name}",
        where,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
        device,
        dtype,
    )
    sound = _sound(base)
    if int(vocoder.config.model_in_dim) != int(model.config.num_mel_bins):
        raise UserError(
            f"the vocoder in {where} takes {vocoder.config.model_in_dim} mels, "
            f"'{base.name}' makes {model.config.num_mel_bins}",
            f"give the base its own vocoder: a folder {base.path / 'vocoder'}",
        )
    if not bare:
        letters = json.dumps(sorted(tokenizer.get_vocab().items()))
        hashes = {
            "base_hash": fingerprint(base.path),
            "codec_hash": _hash(sound.to_json_string(), str(model.config.reduction_factor)),
            "text_hash": _hash(letters),  # no state of the encoder is kept
        }
    return SpeechT5Bundle(
        model.requires_grad_(False),
        vocoder.requires_grad_(False),
        tokenizer,
        sound,
        name=base.name,
        licence=base.licence,
        max_s=limits(base)[2],
        conditioning=base.notes.get("conditioning"),
        spell_numbers=_spells_numbers(base.path),
        source=base.path,
        **hashes,
    )


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _check_kind(base: Base) -> None:
    kinds = base.config.get("architectures") or [_ARCHITECTURE]
    if _ARCHITECTURE not in kinds:
        raise UserError(
            f"base '{base.name}' is a {kinds[0]}, which does not speak a text",
            "give a text-to-speech checkpoint, such as microsoft/speecht5_tts",
        )


def _sound(base: Base) -> SpeechT5FeatureExtractor:
    if (base.path / "preprocessor_config.json").is_file():
        return SpeechT5FeatureExtractor.from_pretrained(base.path)
    return SpeechT5FeatureExtractor()


def _spells_numbers(path: Path) -> bool:
    file = path / "tokenizer_config.json"
    return file.is_file() and bool(json.loads(file.read_text("utf-8")).get("normalize", False))


def find_vocoder(base: Base, *, weights: bool = True) -> Path:
    """The folder of a base's ``SpeechT5HifiGan``.

    Looked for in this order: a folder ``vocoder`` in the base's, what its ``tunesmith.json`` calls
    ``vocoder`` (a folder or hub id), a folder ``speecht5_hifigan`` beside it, the hub.

    Raises:
        UserError: there is none.
    """
    said = base.notes.get("vocoder", "")
    for path in (base.path / "vocoder", Path(said), base.path.parent / "speecht5_hifigan"):
        if str(path) != "." and (path / "config.json").is_file():
            return path
    name = str(said) if looks_like_id(str(said)) else VOCODER
    patterns = list(_FILES if weights else _FILES[:1])
    try:
        path = fetch(name, f"the vocoder '{name}'", patterns)
        if (path / "config.json").is_file():
            return path
    except UserError as error:
        cause = error.message
    else:
        cause = "it has no config.json"
    raise UserError(
        f"base '{base.name}' has no vocoder: no folder {base.path / 'vocoder'}, and {cause}",
        f"put the files of {VOCODER} into {base.path / 'vocoder'}",
    )


def _load(name: str, path: Path, kind: Any, config: Any, device: Any, dtype: Any) -> Any:
    """A model of the library; on ``meta`` without its weights.

    Raises:
        UserError: it does not load, or lacks tensors.
    """
    try:
        if str(device) == "meta":
            with torch.device("meta"), quiet():
                return kind(config.from_pretrained(path))
        with quiet():
            loaded: Any = kind.from_pretrained(
                path, dtype=dtype or torch.float32, output_loading_info=True, use_safetensors=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"base '{name}' does not load ({first})", "download it again") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"base '{name}' lacks {len(missing)} tensors ({missing[0]} ...)", "download it again"
        )
    return model.to(device)
