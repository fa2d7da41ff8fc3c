"""Adapters on the disk for the tests of what happens to them after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.families import find_base, load
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import load_adapter, save_adapter
from tunesmith.registry import plugins


def open_base(base: Path) -> Bundle:
    return load(find_base(str(base)))


def saved(
    folder: Path,
    base: Path,
    method: str = "lora",
    seed: int = 0,
    size: float = 0.05,
    **options: Any,
) -> Path:
    """An adapter that is away from its start; ``details`` goes onto its card."""
    details = options.pop("details", {})
    bundle = open_base(base)
    module = plugins("methods")[method].load()
    adapter = module.attach(bundle, module.Config(**options), seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    save_adapter(folder, adapter, bundle, details)
    return folder


def inputs(model: Any) -> dict[str, Tensor]:
    """Random codes and text states for a plain MusicGen decoder."""
    config = model.config
    draw = torch.Generator().manual_seed(9)
    return {
        "input_ids": torch.randint(
            config.vocab_size, (2 * config.num_codebooks, 20), generator=draw
        ),
        "encoder_hidden_states": torch.randn(2, 6, config.hidden_size, generator=draw),
    }


@torch.no_grad()
def logits(decoder: Any) -> Tensor:
    decoder.eval()
    return decoder(**inputs(decoder)).logits


def live(folder: Path | None, base: Path, strength: float = 1.0) -> Tensor:
    """The decoder's logits with a saved adapter attached."""
    bundle = open_base(base)
    if folder is not None:
        load_adapter(folder, bundle).set_strength(strength)
    return logits(bundle.components["decoder"])


def apart(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())
