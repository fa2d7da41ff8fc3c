"""The model card: what an adapter is, in the form that the hub shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.formats.adapter import read_card

# Licences that the hub knows by these names; others stand in the text alone.
_HUB_LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0")


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "not measured"


def front_matter(base: Mapping[str, Any], library: str, tags: list[str]) -> str:
    """The lines between ``---`` that the hub reads."""
    lines = [f"library_name: {library}"]
    if str(base["name"]).count("/") == 1 and not str(base["name"]).startswith((".", "/", "~")):
        lines.append(f"base_model: {base['name']}")
    if (licence := str(base.get("licence", "")).lower()) in _HUB_LICENCES:
        lines.append(f"license: {licence}")
    lines.append(f"tags: [{', '.join(['audio', 'text-to-audio', *tags])}]")
    return "---\n" + "\n".join(lines) + "\n---\n"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows]) + "\n"


def _recipe(recipe: Mapping[str, Any]) -> str:
    """The recipe's name, and each number that is not its own."""
    if not recipe["changes"]:
        return f"Recipe: `{recipe['name']}`, with its own numbers.\n"
    rows = [
        (f"`{one['key']}`", _said(one["recipe"]), _said(one["used"]), one["by"])
        for one in recipe["changes"]
    ]
    head = f"Recipe: `{recipe['name']}`, with these numbers of its own changed:\n\n"
    return head + _table(("setting", "recipe", "used", "changed by"), rows)


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return (
        "left open" if value is None else f"{value:g}" if isinstance(value, float) else f"{value}"
    )


def _origin(card: Mapping[str, Any]) -> str:
    """How the adapter came about."""
    if "blend_of" in card:
        parts = [
            (
                f"`{one['name']}`",
                f"{one['weight']:g}",
                f"`{one['hash'][:12]}`",
                one["rights"] or "not stated",
            )
            for one in card["blend_of"]
        ]
        error = card.get("relative_error")
        how = (
            "the exact weighted sum of their changes"
            if error is None
            else f"their weighted sum at a lower rank, relative error {error:.3g}"
        )
        table = _table(("adapter", "weight", "fingerprint", "rights in its recordings"), parts)
        return f"A blend, {how}:\n\n{table}"
    if "extracted_from" in card:
        told = card["extracted_from"]
        return (
            f"Extracted from the {told['method']} adapter `{told['name']}` (`{told['hash'][:12]}`): "
            f"the best approximation of this rank, relative error {card['relative_error']:.3g}.\n"
        )
    if "imported_from" in card:
        return "Made elsewhere with PEFT, and taken in.\n"
    if "steps" not in card:
        return ""
    return (
        f"Step {card['step']} of {card['steps']}"
        + (
            f", {card['trainable_parameters']:,} trained parameters"
            if "trainable_parameters" in card
            else ""
        )
        + ".\n"
    )


def model_card(folder: Path, name: str | None = None) -> str:
    """Markdown with the hub's front matter, from an adapter's ``adapter.json``.

    Args:
        folder: the adapter's.
        name: the title; the folder's name by default.
    """
    card = read_card(folder)
    base, method = card["base"], card["method"]
    tokens = ", ".join(f"`{token}`" for token in card.get("trigger_tokens", [])) or "none"
    library = "peft" if any((folder / "adapter").glob("*/adapter_config.json")) else "tunesmith"
    trained = f", trained on its {base['quantize']} form" if base.get("quantize") else ""
    parts = [
        front_matter(base, library, [base["family"], method["name"]])
        + f"# {name or folder.resolve().name}\n\n"
        f"A {method['name']} adapter for `{base['name']}` ({base['family']}{trained}), made with "
        "Tunesmith.\n"
        f"It belongs to the base with the fingerprint `{base['hash'][:16]}` and is refused on any "
        "other.\n",
        f"Trigger words: {tokens}.\n",
        _origin(card),
    ]
    losses = [
        (
            key.replace("_", " "),
            _number(pair["base"]),
            _number(pair.get("adapted", pair.get("last"))),
        )
        for key, pair in card.get("metrics", {}).items()
        if key != "judged"
    ]
    if heard := card.get("metrics", {}).get("judged"):
        losses += [
            (f"{key} of a voice", _number(heard["base"][key]), _number(heard["adapted"][key]))
            for key in ("similarity", "intelligibility")
            if heard.get("adapted")
        ]
    if losses:
        parts.append(_table(("", "base", "adapted"), losses))
    if data := card.get("data"):
        train = data["train"]
        parts.append(
            f"Training data: {train['clips']} clips, {train['seconds'] / 60:.1f} minutes, "
            f"{train['recordings']} recordings.\n"
        )
    if consent := card.get("consent"):
        parts.append(f"Consent of the voice's owner: {consent}\n")
    parts.append(
        f"Rights in the recordings: {card.get('rights') or 'not stated'}.\n"
        f"Licence of the base's weights: {base.get('licence') or 'unknown'}.\n"
    )
    if recipe := card.get("recipe"):
        parts.append(_recipe(recipe))
    if chosen := card.get("chosen"):
        sides = ", ".join(
            f"{chosen[side]['kept']} of {chosen[side]['of']} {name}"
            for side, name in (("train", "to train"), ("valid", "to validate"))
            if side in chosen
        )
        parts.append(f"The clips that sound best were used: {sides}.\n")
    settings = {key: value for key, value in method.items() if key != "paths"}
    if method.get("paths"):
        settings["linears"] = len(method["paths"])
    parts.append(
        _table(("setting", "value"), [(key, f"`{value}`") for key, value in settings.items()])
    )
    return "\n".join(part for part in parts if part)


__all__ = ["front_matter", "model_card"]
