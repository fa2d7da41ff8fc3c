"""A Stable Audio 3 from a folder in the layout of diffusers' pipeline."""

from __future__ import annotations

import hashlib
from typing import Any

from transformers import AutoTokenizer, T5GemmaEncoderModel

from tunesmith.errors import UserError
from tunesmith.families._bases import Base, base_hash, folders_hash
from tunesmith.families._diffusers import load_part, words_hash
from tunesmith.families.stable_audio_3.bundle import StableAudio3Bundle


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> StableAudio3Bundle:
    """Load a Stable Audio 3 base; see :func:`tunesmith.families.load`.

    Raises:
        UserError: a part does not load, or is of a kind that is not known here.
    """
    import diffusers
    from diffusers import (
        AutoencoderSAME,
        FlowMatchEulerDiscreteScheduler,
        StableAudio3DiTModel,
        StableAudio3DurationEmbedder,
    )

    said = str(base.config["scheduler"][1])
    if said != FlowMatchEulerDiscreteScheduler.__name__:
        raise UserError(
            f"base '{base.name}' wants the scheduler {said}; Stable Audio 3 is sampled with "
            f"{FlowMatchEulerDiscreteScheduler.__name__} since diffusers 0.40",
            f"convert it again with the script of diffusers {diffusers.__version__}",
        )
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(base.path / "scheduler")
    kinds = {
        "transformer": StableAudio3DiTModel,
        "duration_embedder": StableAudio3DurationEmbedder,
        "text_encoder": T5GemmaEncoderModel,
    }
    # Moved once more: after transformers 5 has loaded anything, ``linspace`` no longer heeds
    # ``torch.device("meta")``, and the embedder's frequencies would be elsewhere than all else.
    parts: dict[str, Any] = {
        part: load_part(base, part, kind, device, dtype).to(device) for part, kind in kinds.items()
    }
    if int(parts["transformer"].config.patch_size) != 1:
        raise UserError(
            f"base '{base.name}' joins {parts['transformer'].config.patch_size} latents to one, which "
            "no published Stable Audio 3 does",
            "use another base",
        )
    if not (base.path / "tokenizer" / "tokenizer.json").is_file():
        raise UserError(f"base '{base.name}' has no tokenizer", "download it again")
    parts["tokenizer"] = AutoTokenizer.from_pretrained(base.path / "tokenizer")
    parts["scheduler"] = scheduler
    hashes = {"base_hash": "", "codec_hash": "", "text_hash": ""}
    if str(device) != "meta":
        text = folders_hash(base.path, ["text_encoder"]) + words_hash(base.path / "tokenizer")
        hashes = {
            "base_hash": base_hash(base),
            "codec_hash": folders_hash(base.path, ["vae"]),
            "text_hash": hashlib.sha256(text.encode()).hexdigest(),
        }
    codec_config: Any = AutoencoderSAME.load_config(base.path / "vae")
    where = "meta" if str(device) == "meta" else "cpu"
    return StableAudio3Bundle(
        parts,
        lambda: load_part(base, "vae", AutoencoderSAME, where),
        codec_config,
        name=base.name,
        licence=base.licence,
        notes=base.notes,
        **hashes,
    )
