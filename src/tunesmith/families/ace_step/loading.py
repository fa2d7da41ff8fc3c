"""Loading an ACE-Step from a folder in the layout of diffusers' pipeline."""

from __future__ import annotations

import hashlib
from typing import Any

from transformers import AutoTokenizer, Qwen3Model

from tunesmith.errors import UserError
from tunesmith.families._bases import Base, base_hash, folders_hash
from tunesmith.families._diffusers import load_part, words_hash
from tunesmith.families.ace_step.bundle import AceStepBundle

_KNOWN = {"scheduler": "FlowMatchEulerDiscreteScheduler", "text_encoder": "Qwen3Model"}


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> AceStepBundle:
    """Load an ACE-Step base; see :func:`tunesmith.families.load`.

    Raises:
        UserError: a part does not load, or is of a kind that is not known here.
    """
    from diffusers import (
        AceStepTransformer1DModel,
        AutoencoderOobleck,
        FlowMatchEulerDiscreteScheduler,
    )
    from diffusers.pipelines.ace_step import (
        AceStepAudioTokenDetokenizer,
        AceStepAudioTokenizer,
        AceStepConditionEncoder,
    )

    for part, known in _KNOWN.items():
        said = str((base.config.get(part) or ["", "nothing"])[1])
        if said != known:
            raise UserError(
                f"base '{base.name}' has {said} for its {part}; ACE-Step 1.5 has {known}",
                "use another conversion of it",
            )
    kinds = {
        "transformer": AceStepTransformer1DModel,
        "condition_encoder": AceStepConditionEncoder,
        "text_encoder": Qwen3Model,
    }
    parts: dict[str, Any] = {
        part: load_part(base, part, kind, device, dtype) for part, kind in kinds.items()
    }
    words = [base.path / "tokenizer" / name for name in ("tokenizer.json", "vocab.json")]
    if not any(one.is_file() for one in words):
        raise UserError(f"base '{base.name}' has no tokenizer", "download it again")
    parts["tokenizer"] = AutoTokenizer.from_pretrained(base.path / "tokenizer")
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler.from_pretrained(base.path / "scheduler")
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
    # Parts for covers: nothing here calls them, but an exported checkpoint keeps them.
    rest = {
        "audio_tokenizer": AceStepAudioTokenizer,
        "audio_token_detokenizer": AceStepAudioTokenDetokenizer,
    }
    there = {part: kind for part, kind in rest.items() if (base.path / part).is_dir()}
    return AceStepBundle(
        parts,
        lambda: load_part(base, "vae", AutoencoderOobleck, where),
        codec_config,
        load_rest=lambda: {
            part: load_part(base, part, kind, where, dtype) for part, kind in there.items()
        },
        name=base.name,
        licence=base.licence,
        notes=base.notes,
        **hashes,
    )
