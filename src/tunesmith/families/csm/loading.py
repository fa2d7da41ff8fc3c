"""A CSM from a folder in the layout of transformers."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, CsmConfig, CsmForConditionalGeneration, MimiModel

from tunesmith.errors import UserError
from tunesmith.families._bases import Base, fingerprint
from tunesmith.families._transformers import quiet
from tunesmith.families.csm.bundle import CsmBundle


def _load(base: Base, kind: Any, what: str, **options: Any) -> Any:
    """A model of the folder, or of a part of it, with nothing missing.

    Raises:
        UserError: it does not load, or not as a whole.
    """
    try:
        with quiet():
            model, report = kind.from_pretrained(
                base.path, output_loading_info=True, use_safetensors=True, **options
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{what} does not load ({first})", "download it again") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{what} lacks {len(missing)} tensors ({missing[0]} ...)", "download it again"
        )
    return model


def _load_tokenizer(base: Base) -> Any:
    # Where there is none, the library makes up an empty one, to which every word is unknown.
    if not (base.path / "tokenizer.json").is_file():
        raise UserError(f"base '{base.name}' has no tokenizer.json", "download it again")
    return AutoTokenizer.from_pretrained(base.path)


def _share(base: Base) -> float:
    share = base.notes.get("depth_share", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise UserError(
            f"{base.path / 'tunesmith.json'}: depth_share {share!r} is not in 0..1",
            "1 learns from every frame, 0.0625 is what Sesame trained with",
        )
    return float(share)


def load(base: Base, *, device: Any = "cpu", dtype: Any = None) -> CsmBundle:
    """Load a CSM base; see :func:`tunesmith.families.load`."""
    with quiet():  # it takes ids of text for codes, and warns that they are none
        config: Any = CsmConfig.from_pretrained(base.path)
    if str(device) == "meta":
        with torch.device("meta"), quiet():
            model: Any = CsmForConditionalGeneration(config)
        # The library makes some parts in the precision that the folder is saved in.
        model.to(dtype or torch.float32)
        hashes = {"base_hash": "", "codec_hash": "", "text_hash": ""}
    else:
        what = f"base '{base.name}'"
        wanted = dtype or torch.float32
        model = _load(base, CsmForConditionalGeneration, what, dtype=wanted).to(device)
        words = b"".join(file.read_bytes() for file in sorted(base.path.glob("tokenizer*")))
        hashes = {
            "base_hash": fingerprint(base.path),
            "codec_hash": fingerprint(base.path, "codec_model."),
            "text_hash": hashlib.sha256(words).hexdigest(),
        }

    def load_codec() -> Any:
        codec = config.codec_config
        # Sesame's own copy names its weights here; beside them lie others, in another layout.
        if named := getattr(config, "transformers_weights", None):
            codec.transformers_weights = named
        return _load(
            base,
            MimiModel,
            f"the codec of base '{base.name}'",
            config=codec,
            dtype=torch.float32,
            key_mapping={r"^codec_model\.": ""},
        )

    return CsmBundle(
        model.requires_grad_(False),
        _load_tokenizer(base),
        load_codec,
        name=base.name,
        licence=base.licence,
        max_s=float(base.notes.get("max_s", base.family.spec["max_s"])),
        depth_share=_share(base),
        **hashes,
    )
