"""The model card: what an adapter is, in the form that the hub shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.formats.adapter import read_card


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "not measured"


def model_card(folder: Path) -> str:
    """Markdown with the hub's front matter, from an adapter's ``adapter.json``."""
    card = read_card(folder)
    base, method, metrics, data = card["base"], card["method"], card["metrics"], card["data"]
    settings = "\n".join(f"| {key} | `{value}` |" for key, value in method.items())
    losses = "\n".join(
        f"| {name.replace('_', ' ')} | {_number(pair['base'])} | {_number(pair.get('adapted', pair.get('last')))} |"
        for name, pair in metrics.items()
    )
    tokens = ", ".join(f"`{token}`" for token in card["trigger_tokens"]) or "none"
    hub = f"base_model: {base['name']}\n" if base["name"].count("/") == 1 else ""
    return f"""---
library_name: peft
{hub}tags: [audio, text-to-audio, {base["family"]}, {method["name"]}]
---
# {folder.resolve().name}

A {method["name"]} adapter for `{base["name"]}` ({base["family"]}), trained with Tunesmith.
It belongs to the base with the fingerprint `{base["hash"][:16]}` and is refused on any other.

Trigger words: {tokens}. Step {card["step"]} of {card["steps"]}, {card["trainable_parameters"]:,} trained parameters.

| | base | adapted |
|---|---|---|
{losses}

Training data: {data["train"]["clips"]} clips, {data["train"]["seconds"] / 60:.1f} minutes,
{data["train"]["recordings"]} recordings. Rights in the recordings: {card["rights"] or "not stated"}.
Licence of the base's weights: {base["licence"]}.

| setting | value |
|---|---|
{settings}
"""
