"""Bases in the layout of a diffusers pipeline: a folder a component, each with a config of its own."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from tunesmith.errors import UserError
from tunesmith.families._bases import Base


@contextmanager
def quiet() -> Iterator[None]:
    """Both libraries report each load at length; what matters of it is checked here instead."""
    before = [module.get_verbosity() for module in (diffusers_logging, transformers_logging)]
    for module in (diffusers_logging, transformers_logging):
        module.set_verbosity(logging.ERROR)
        module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # diffusers 0.42 builds its autoencoders with an older function of torch.
            warnings.filterwarnings("ignore", message=".*weight_norm.*", category=FutureWarning)
            yield
    finally:
        for module, level in zip((diffusers_logging, transformers_logging), before, strict=True):
            module.set_verbosity(level)


def words_hash(path: Path) -> str:
    """Hash of a tokenizer's files."""
    words = b"".join(file.read_bytes() for file in sorted(path.iterdir()) if file.is_file())
    return hashlib.sha256(words).hexdigest()


def load_part(base: Base, part: str, kind: Any, device: Any, dtype: Any = None) -> Any:
    """One component, of a class of diffusers or transformers; on ``meta`` without its weights.

    Args:
        base: whose.
        part: its folder.
        kind: its class.
        device: where it goes.
        dtype: of its weights; float32 by default.

    Raises:
        UserError: it does not load, or lacks tensors.
    """
    folder = base.path / part
    theirs = PreTrainedModel in kind.__mro__
    with quiet():
        try:
            if str(device) == "meta":
                with torch.device("meta"):
                    if theirs:
                        return kind(kind.config_class.from_pretrained(folder))
                    return kind.from_config(kind.load_config(folder))
            name = "dtype" if theirs else "torch_dtype"
            precision: dict[str, Any] = {name: dtype or torch.float32}
            model, report = kind.from_pretrained(
                folder, output_loading_info=True, use_safetensors=True, **precision
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"base '{base.name}': its {part} does not load ({first})", "download it again"
            ) from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"base '{base.name}': its {part} lacks {len(missing)} tensors ({missing[0]} ...)",
            "download it again",
        )
    return model.to(device)
