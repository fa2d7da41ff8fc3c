"""How a sound was made, for the comment of its file: the same seed and the rest make it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.formats.adapter import card_hash, read_card
from tunesmith.serve.request import Engine, Request


def recipe(request: Request, engine: Engine) -> dict[str, Any]:
    """What a file says of itself.

    Args:
        request: what was asked.
        engine: that answered it.
    """
    bundle = engine.bundle
    settings = request.settings or bundle.sampling
    found: dict[str, Any] = {
        "prompt": request.prompt,
        "seed": request.seed,
        "seconds": request.duration_s,
        "base": bundle.name,
        "base_hash": bundle.base_hash,
        "base_licence": bundle.licence,
        **{name: getattr(settings, name) for name in bundle.settings},
        **dict(request.details or {}),
    }
    if (made_from := request.made_from) is not None:
        found["task"], found["recording"] = made_from.task, made_from.sha256
        if made_from.task == "inpaint":
            found["spans"] = made_from.spans
        elif made_from.task == "edit":
            found["strength"] = made_from.strength
    if request.adapters:
        folders = engine.adapters()
        found["adapter"] = dict(request.adapters)
        known = {name: folders[name] for name in request.adapters if name in folders}
        cards = {name: card for name, folder in known.items() if (card := _said(folder))}
        found["adapter_hash"] = {name: card[0] for name, card in cards.items()}
        rights = [card[1] for card in cards.values()]
        whole = len(rights) == len(request.adapters) and all(rights)
        found["data_rights"] = "; ".join(dict.fromkeys(rights)) if whole else ""
    return found


def _said(folder: Path) -> tuple[str, str] | None:
    """``(hash, rights)`` on an adapter's card; None if it has been taken away meanwhile."""
    try:
        return card_hash(folder), str(read_card(folder).get("rights") or "")
    except UserError:
        return None


__all__ = ["recipe"]
