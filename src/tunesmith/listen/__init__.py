"""Blind listening tests: A/B, ABX and MOS, from sounds to answers to statistics.

A test is a folder: :func:`create` makes it from sides (:func:`from_words` finds them), :func:`serve`
shows it to listeners in a browser, :func:`analyse` says what they heard.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.listen.analysis import Results, analyse
    from tunesmith.listen.design import Item, Side, Test, read_test
    from tunesmith.listen.export import write_csv, write_json
    from tunesmith.listen.gather import Sounds, Voice, from_words
    from tunesmith.listen.make import create
    from tunesmith.listen.results_page import write_results
    from tunesmith.listen.server import serve
    from tunesmith.listen.store import Store

_WHERE = {
    "analysis": ("Results", "analyse"),
    "make": ("create",),
    "design": ("Item", "Side", "Test", "read_test"),
    "export": ("write_csv", "write_json"),
    "gather": ("Sounds", "Voice", "from_words"),
    "results_page": ("write_results",),
    "server": ("serve",),
    "store": ("Store",),
}
_FROM = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Item",
    "Results",
    "Side",
    "Sounds",
    "Store",
    "Test",
    "Voice",
    "analyse",
    "create",
    "from_words",
    "read_test",
    "serve",
    "write_csv",
    "write_json",
    "write_results",
]


def __getattr__(name: str) -> Any:
    if name in _FROM:  # a server has no use for the models that made the sounds, nor for torch
        return getattr(import_module(f"tunesmith.listen.{_FROM[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
