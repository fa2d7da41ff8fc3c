"""The techniques of ``bench.methods``: settings, prompts, and rates on each base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.training.pitfalls.before import PROMPTS

LONG = 160
"""Steps where forgetting is provoked."""

SHORTER = {"pocket-diffusion": {"train.steps": 40, "train.eval_every": 20}}
"""What all runs on another base have: a step and a take cost it several times as much."""

FEWER = {"pocket-diffusion": 32}
"""Takes a model on another base."""

MORE: dict[str, dict[str, int]] = {
    "pocket-diffusion": {"qlora": 64, "prefix": 64, "prefix-input": 64},
}
"""Takes of techniques whose effect drowns in the chance of so few."""

NO_VALIDATION = -1
"""Training clips of a technique: all, with none set aside, so that the last weights are kept."""

ALL = ("q", "k", "v", "o", "up", "down")
TOKEN = "[steel_pan]"


@dataclass(frozen=True, slots=True)
class Technique:
    """One row.

    Attributes:
        name: key of its runs.
        says: what it is, in the table.
        settings: of its runs, over the common ones.
        prompt: how it is asked; ``{caption}`` is a held-out clip's.
        clips: training clips; 0 is all but those for validation.
        group: ``methods``, ``ranks``, ``amounts`` or ``prior``.
    """

    name: str
    says: str
    settings: Mapping[str, Any]
    prompt: str = "{caption}"
    clips: int = 0
    group: str = "methods"


def _lora(rank: int = 16, **more: Any) -> dict[str, Any]:
    return {"method": "lora", "method.rank": rank, "method.targets": ALL, "train.lr": 2e-3} | more


_TOKEN = {"token": TOKEN, "init": "bells", "vectors": 32}
_INVERSION = {"method": "textual_inversion", "train.lr": 0.6, "train.weight_decay": 0.0} | {
    f"method.{key}": value for key, value in _TOKEN.items()
}
_CONCEPT = {"concept.token": "zq", "concept.class_name": "steel drums"}

TECHNIQUES = (
    Technique("lora", "LoRA, r=16", _lora()),
    Technique("qlora", "QLoRA: LoRA r=16 on an NF4 base", _lora(**{"base.quantize": "nf4"})),
    Technique("full", "full fine-tuning", {"method": "full", "train.lr": 3e-4}),
    Technique("bottleneck", "bottleneck adapters, width 32", {"method": "bottleneck", "train.lr": 3e-3}),
    Technique("prefix", "prefix tuning, keys and values of each layer", {"method": "prefix", "train.lr": 3e-2}),
    Technique("prefix-input", "prefix tuning, at the conditioning",
              {"method": "prefix", "method.placement": "input", "train.lr": 5e-2}),
    Technique("textual_inversion", "textual inversion, 32 vectors",
              _INVERSION, f"{TOKEN}, {{caption}}"),
    Technique("dreambooth", "DreamBooth: full, rare token, prior (weight 1)",
              {"method": "full", "train.lr": 3e-4, "prior.weight": 1.0} | _CONCEPT, "zq steel drums, {caption}"),
    Technique("dreambooth-lora", "DreamBooth on LoRA r=16",
              _lora(**_CONCEPT, **{"prior.weight": 1.0}), "zq steel drums, {caption}"),
    Technique("lora-tokens", "LoRA r=16 and a trained token",
              _lora(**{f"tokens.{k}": v for k, v in (_TOKEN | {"rate": 100.0}).items()}), f"{TOKEN}, {{caption}}"),
    *(Technique(f"rank-{rank}", f"LoRA, r={rank}", _lora(rank), group="ranks") for rank in (4, 64, 128)),
    *(
        Technique(f"{kind}-{clips}", f"{says}, {clips} clips", settings, prompt, clips, "amounts")
        for kind, says, settings, prompt in (
            ("lora", "LoRA r=16", _lora(), "{caption}"),
            ("full", "full", {"method": "full", "train.lr": 3e-4}, "{caption}"),
            ("textual_inversion", "textual inversion",
             _INVERSION, f"{TOKEN}, {{caption}}"),
        )
        for clips in (4, 12)
    ),
    *(
        Technique(
            f"prior-{weight:g}", f"DreamBooth, too high a rate, last weights, prior weight {weight:g}",
            {"method": "full", "train.lr": 3e-3, "train.steps": LONG, "prior.weight": weight,
             "prior.prompts": PROMPTS, "prior.clips": 192} | _CONCEPT,
            "zq steel drums, {caption}", clips=NO_VALIDATION, group="prior",
        )
        for weight in (0.0, 1.0)
    ),
)  # fmt: skip
"""How the rates were chosen is said in the notes of the table."""


RATES: dict[str, dict[str, dict[str, Any]]] = {
    "pocket-diffusion": {
        "lora": {"train.lr": 4e-3},
        "qlora": {"train.lr": 4e-3, "train.steps": 80},
        "dreambooth-lora": {"train.lr": 4e-3},
        "lora-tokens": {"train.lr": 4e-3},
        "full": {"train.lr": 2e-4},
        "dreambooth": {"train.lr": 2e-4},
        "bottleneck": {"train.lr": 5e-3},
        "prefix": {
            "train.lr": 3e-2, "method.roles": ("cross_attention",),
            "train.steps": 80, "train.eval_every": 40,
        },
        "prefix-input": {"method.length": 64, "train.steps": 80, "train.eval_every": 40},
        "textual_inversion": {"train.lr": 0.3},
    },
}  # fmt: skip
"""What a technique has in the place of its own settings on another base."""

__all__ = ["FEWER", "LONG", "MORE", "NO_VALIDATION", "RATES", "SHORTER", "TECHNIQUES", "Technique"]
