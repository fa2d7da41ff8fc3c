"""A MusicGen from a folder in the layout of transformers."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    EncodecModel,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
)

from tunesmith.errors import UserError
from tunesmith.families._bases import Base, fingerprint
from tunesmith.families._transformers import quiet
from tunesmith.families.musicgen.bundle import MusicgenBundle


def _load_model(base: Base, device: Any, dtype: Any) -> MusicgenForConditionalGeneration:
    try:
        with quiet():
            loaded: Any = MusicgenForConditionalGeneration.from_pretrained(
                base.path,
                dtype=dtype or torch.float32,
                output_loading_info=True,
                use_safetensors=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"base '{base.name}' does not load ({first})", "download it again"
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"base '{base.name}' lacks {len(missing)} tensors ({missing[0]} ...)",
            "download it again",
        )
    return model.to(device)


def _load_tokenizer(base: Base) -> Any:
    # Where there is none, the library makes up an empty one, to which every word is unknown.
    if not any((base.path / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        raise UserError(f"base '{base.name}' has no tokenizer.json", "download it again")
    return AutoTokenizer.from_pretrained(base.path)


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> MusicgenBundle:
    """Load a MusicGen base; see :func:`tunesmith.families.load`."""
    if str(device) == "meta":
        with torch.device("meta"), quiet():
            model = MusicgenForConditionalGeneration(MusicgenConfig.from_pretrained(base.path))
        hashes = {"base_hash": "", "codec_hash": "", "text_hash": ""}
    else:
        model = _load_model(base, device, dtype)
        words = b"".join(file.read_bytes() for file in sorted(base.path.glob("tokenizer*")))
        text = fingerprint(base.path, "text_encoder.") + hashlib.sha256(words).hexdigest()
        hashes = {
            "base_hash": fingerprint(base.path),
            "codec_hash": fingerprint(base.path, "audio_encoder."),
            "text_hash": hashlib.sha256(text.encode()).hexdigest(),
        }

    def load_codec() -> Any:
        with quiet():
            config: Any = MusicgenConfig.from_pretrained(base.path)
            return EncodecModel.from_pretrained(
                base.path,
                config=config.audio_encoder,
                dtype=torch.float32,
                key_mapping={r"^audio_encoder\.": ""},
            )

    return MusicgenBundle(
        model.requires_grad_(False),
        _load_tokenizer(base),
        load_codec,
        name=base.name,
        licence=base.licence,
        max_s=float(base.notes.get("max_s", base.family.spec["max_s"])),
        **hashes,
    )
