"""A Stable Audio from a folder in the layout of diffusers' pipeline."""

from __future__ import annotations

import hashlib
from typing import Any

from transformers import AutoTokenizer, T5EncoderModel

from tunesmith.errors import UserError
from tunesmith.families._bases import Base, base_hash, folders_hash
from tunesmith.families._diffusers import load_part, words_hash
from tunesmith.families.stable_audio.bundle import StableAudioBundle


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> StableAudioBundle:
    """Load a Stable Audio base; see :func:`tunesmith.families.load`."""
    import diffusers
    from diffusers import AutoencoderOobleck, StableAudioDiTModel, StableAudioProjectionModel

    kinds = {
        "transformer": StableAudioDiTModel,
        "projection_model": StableAudioProjectionModel,
        "text_encoder": T5EncoderModel,
    }
    parts: dict[str, Any] = {
        part: load_part(base, part, kind, device, dtype) for part, kind in kinds.items()
    }
    if not any((base.path / "tokenizer" / n).is_file() for n in ("tokenizer.json", "spiece.model")):
        raise UserError(f"base '{base.name}' has no tokenizer", "download it again")
    parts["tokenizer"] = AutoTokenizer.from_pretrained(base.path / "tokenizer")
    scheduler: Any = getattr(diffusers, str(base.config["scheduler"][1]), None)
    if scheduler is None:
        raise UserError(
            f"base '{base.name}' wants the scheduler {base.config['scheduler'][1]}, which diffusers "
            f"{diffusers.__version__} does not have",
            "update diffusers",
        )
    parts["scheduler"] = scheduler.from_pretrained(base.path / "scheduler")
    hashes = {"base_hash": "", "codec_hash": "", "text_hash": ""}
    if str(device) != "meta":
        text = folders_hash(base.path, ["text_encoder"]) + words_hash(base.path / "tokenizer")
        hashes = {
            "base_hash": base_hash(base),
            "codec_hash": folders_hash(base.path, ["vae"]),
            "text_hash": hashlib.sha256(text.encode()).hexdigest(),
        }
    codec_config: Any = AutoencoderOobleck.load_config(base.path / "vae")
    where = "meta" if str(device) == "meta" else "cpu"
    return StableAudioBundle(
        parts,
        lambda: load_part(base, "vae", AutoencoderOobleck, where),
        codec_config,
        name=base.name,
        licence=base.licence,
        notes=base.notes,
        **hashes,
    )
