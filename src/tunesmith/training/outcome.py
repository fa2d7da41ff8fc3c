"""What a run leaves behind: the facts that it stood on, the adapter, the model card."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tunesmith.atomic import write_bytes
from tunesmith.config import Loaded, dump
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import save_adapter
from tunesmith.formats.card import model_card
from tunesmith.training.consent import consent_of
from tunesmith.training.hardware import device_name
from tunesmith.training.loop import Loop
from tunesmith.types import Clip

_PACKAGES = (
    "tunesmith",
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "soundfile",
    "soxr",
    "numpy",
)


def run_facts(
    loaded: Loaded,
    bundle: Bundle,
    sides: Mapping[str, Sequence[Clip]],
    device: torch.device,
    dtype: torch.dtype,
    trainable_parameters: int,
    chosen: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the run stood on: settings, versions, hashes of base and data, hardware.

    ``chosen`` is what :func:`tunesmith.data.quality.best` told of the choice of clips.
    """
    description = Path(loaded.config.data.path).expanduser() / "dataset.json"
    told = json.loads(description.read_text(encoding="utf-8")) if description.is_file() else {}
    return {
        "config": dump(loaded),
        "base": {
            "name": bundle.name,
            "hash": bundle.base_hash,
            "family": bundle.family,
            "licence": bundle.licence,
        },
        "data": {
            side: {
                "clips": len(clips),
                "seconds": round(sum(clip.duration_s for clip in clips), 3),
                "recordings": len({clip.recording for clip in clips}),
                "sha256": [clip.sha256 for clip in clips],
            }
            for side, clips in sides.items()
        },
        "recipe": loaded.recipe.plain() if loaded.recipe else None,
        "chosen": dict(chosen) if chosen else None,
        "rights": told.get("rights", ""),
        "consent": consent_of(loaded, told),
        "triggers": _triggers(loaded, told),
        "trainable_parameters": trainable_parameters,
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
    }


def _triggers(loaded: Loaded, told: Mapping[str, Any]) -> list[str]:
    """Words that ask for what was learned: of the data set, and of the concept."""
    words = [(told.get("settings") or {}).get("trigger"), loaded.config.concept.token]
    return [word for word in dict.fromkeys(words) if word]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def finish(loop: Loop, folder: Path, facts: Mapping[str, Any]) -> int:
    """Save the weights that were chosen (lowest validation loss or best score; else the last) as the run's adapter.

    Returns:
        The step that they are from.
    """
    with loop.weights_in_use(), loop.parallel.whole():
        return loop.parallel.lead(lambda: _finish(loop, folder, facts))


def _finish(loop: Loop, folder: Path, facts: Mapping[str, Any]) -> int:
    state = loop.state
    used = state.step
    # Should the best be torn or gone, the last are better than none. The best may bear the number of the
    # last step and still be others: of steps that were taken back.
    snapshot = loop.best.at(state.best_step) if state.best_step != -1 else None
    if snapshot is not None:
        used = state.best_step
        with torch.no_grad():
            for name, parameter in loop.adapter.parameters().items():
                parameter.copy_(snapshot.weights[name])
        loss = state.best_loss if math.isfinite(state.best_loss) else None
        _save(loop, folder, facts, used, loss)
    else:
        _save(loop, folder, facts, used, state.last_loss)
    write_facts(folder, {**facts, "pitfalls": state.pitfalls})
    return used


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``run.json``, whole or not at all."""
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    write_bytes(folder / "run.json", text.encode())


def _save(
    loop: Loop, folder: Path, facts: Mapping[str, Any], used: int, loss: float | None
) -> None:
    state = loop.state
    details = {
        "step": used,
        "steps": state.step,
        "metrics": {
            "validation_loss": {
                "base": state.first_loss,
                "adapted": loss,
            },
            "general_loss": {"base": state.first_general, "last": state.last_general},
            **(
                {
                    "judged": {
                        "base": state.first_judged,
                        "adapted": state.best_judged,
                        **(facts.get("judge") or {}),
                    }
                }
                if state.first_judged is not None
                else {}
            ),
            **(
                {"anchor_loss": {"base": state.first_anchor, "last": state.last_anchor}}
                if state.first_anchor is not None
                else {}
            ),
        },
        "pitfalls": state.pitfalls,
        "trainable_parameters": facts["trainable_parameters"],
        "trigger_tokens": [*facts["triggers"], *loop.adapter.state().get("tokens", {})],
        **{
            name: facts[name]
            for name in ("recipe", "chosen", "conditioning", "consent")
            if facts.get(name)
        },
        "rights": facts["rights"],
        "data": {
            side: {k: v for k, v in told.items() if k != "sha256"}
            for side, told in facts["data"].items()
        },
        "versions": facts["versions"],
    }
    save_adapter(folder, loop.adapter, loop.bundle, details)
    (folder / "README.md").write_text(model_card(folder), encoding="utf-8")


__all__ = ["finish", "run_facts", "write_facts"]
