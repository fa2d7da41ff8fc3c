"""Adapters on tiny bases of any family, and what rows become with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import attach_saved, save_adapter
from tunesmith.formats.blend import Part, blended
from tunesmith.registry import plugin
from tunesmith.types import GenerationSettings

FAMILIES = ("musicgen", "stable_audio", "stable_audio_3", "ace_step", "speecht5", "csm")
PROMPTS = ["slow blues", "a waltz", "two guitars, no drums"]
SETTINGS = GenerationSettings(temperature=0.0, steps=3)
EQUAL = 1e-4


def tiny(family: str) -> Bundle:
    return plugin("families", family).load().tiny(0)


def saved(
    folder: Path,
    family: str,
    method: str = "lora",
    seed: int = 0,
    size: float = 0.1,
    **options: Any,
) -> Path:
    """An adapter of a tiny base, away from its start; ``details`` goes onto its card."""
    details = options.pop("details", {})
    bundle, module = tiny(family), plugin("methods", method).load()
    adapter = module.attach(bundle, module.Config(**options), seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            scale = max(float(parameter.square().mean().sqrt()), 0.1)
            parameter.add_(10 * size * scale * torch.randn(parameter.shape, generator=draw))
    save_adapter(folder, adapter, bundle, details)
    return folder


def takes(bundle: Bundle, prompts: Sequence[str] = PROMPTS, first: int = 0) -> list[Tensor]:
    """Latents, mels or codes of the prompts, as floats."""
    seeds = range(first, first + len(prompts))
    made = bundle.generate_codes(prompts, 0.3, list(seeds), SETTINGS)
    return [one.float() for one in made]


def merged(folders: Mapping[str, Path], row: Mapping[str, float], family: str) -> Bundle:
    """The base with a row's blend folded into its weights."""
    bundle = tiny(family)
    if row:
        made = blended([Part(name, folders[name], weight) for name, weight in row.items()])
        attach_saved(bundle, made.card, made.state, Path("the blend")).merge()
    return bundle


def apart(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3))


def bits(bundle: Bundle) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in bundle.module.state_dict().items()}
