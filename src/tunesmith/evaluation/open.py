"""A base, with or without a run's adapter, and how that run was taught to be asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import ConceptConfig
from tunesmith.errors import UserError
from tunesmith.families import find_base, load
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import load_adapter, read_card
from tunesmith.training.hardware import best_device, choose_dtype
from tunesmith.training.rehearsal import with_concept


@dataclass(frozen=True, slots=True)
class BaseName:
    """What it takes to open a base again.

    Attributes:
        name: ``pocket``, a folder, or a hub id.
        revision: on the hub.
        quantize: ``nf4`` or empty.
        voice_of: folder of a run whose speaker it speaks as where none is said: what the run is compared
            with is the base that was told the same voice, not some other. Empty for its own.
    """

    name: str
    revision: str | None = None
    quantize: str = ""
    voice_of: str = ""

    def plain(self) -> dict[str, Any]:
        """As a job's argument."""
        return asdict(self)


def base_of(run: Path) -> BaseName:
    """The base that a run stands on, in the precision that it was trained on."""
    card, config = read_card(run), settings_of(run)
    base = card["base"]
    told = config.get("base") or {}
    name = told.get("name") or base["name"]
    voice_of = str(run.resolve()) if card.get("conditioning") else ""
    return BaseName(name, told.get("revision"), base.get("quantize", ""), voice_of)


def voice_of(base: BaseName) -> Mapping[str, Any]:
    """What a base is told of the speaker, beside what prompts say; empty where it is nothing."""
    if not base.voice_of:
        return {}
    return read_card(Path(base.voice_of)).get("conditioning") or {}


def settings_of(run: Path) -> dict[str, Any]:
    """The resolved configuration of a run; empty for an adapter that came without."""
    try:
        return dict(json.loads((run / "run.json").read_text(encoding="utf-8"))["config"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def opened(
    base: Mapping[str, Any], run: str | Path | None, device: Any = None
) -> tuple[Bundle, Callable[[str], str]]:
    """The model, and a function that words a prompt as the run was taught.

    Args:
        base: a :class:`BaseName` as a mapping.
        run: a finished run, or None for the base itself, which is asked in plain words.
        device: where; the best there is by default.

    Raises:
        UserError: there is no such base, or the adapter is another base's.
    """
    where = torch.device(device or best_device())
    quantize = str(base.get("quantize") or "")
    bundle = load(
        find_base(base["name"], base.get("revision")),
        device=where,
        quantize=quantize,
        compute=choose_dtype("auto", where) if quantize else None,
    )
    bundle.use_conditioning(voice_of(BaseName(**{**base, "quantize": quantize})))
    return bundle, (lambda text: text) if run is None else attached(bundle, Path(run))


def attached(bundle: Bundle, run: Path) -> Callable[[str], str]:
    """Put a run's adapter on its base; gives how to word a prompt for it."""
    adapter = load_adapter(run, bundle)
    # One that was taught to fill holes is measured on whole sounds, as its base is.
    bundle.module.holes = None
    concept = ConceptConfig(**(settings_of(run).get("concept") or {}))

    def wording(text: str) -> str:
        named = with_concept(text, concept)
        try:
            return adapter.caption(named)
        except UserError:  # several words were taught, and the prompt is about none of them
            return named

    return wording
