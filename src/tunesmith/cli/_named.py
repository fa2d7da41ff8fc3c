"""NAME=WEIGHT words, and saying what a name resolved to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from tunesmith.errors import UserError


def name_and_weight(word: str) -> tuple[str, float | None]:
    """``jazz=0.3`` as ``("jazz", 0.3)``; without a weight None. A name may itself hold ``=``."""
    name, equals, text = word.rpartition("=")
    if not equals:
        return word, None
    try:
        return name, float(text)
    except ValueError:
        return word, None


def weighted(words: Sequence[str]) -> list[tuple[str, float]]:
    """``NAME=WEIGHT`` words.

    Raises:
        UserError: a word without a weight.
    """
    found = []
    for word in words:
        name, weight = name_and_weight(word)
        if weight is None or not name:
            raise UserError(f"'{word}' is not NAME=WEIGHT", "give e.g. jazz=0.3 classical=0.7")
        found.append((name, weight))
    return found


def resolve(name: str) -> Path:
    """The folder of an adapter; says which it is."""
    from tunesmith.formats.adapter import card_hash, find_adapter

    folder = find_adapter(name)
    typer.echo(f"adapter {folder} ({card_hash(folder)[:12]})", err=True)
    return folder
