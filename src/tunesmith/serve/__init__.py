"""Serving: many adapters on one base, a queue, an HTTP server.

:func:`run` does what ``tunesmith serve`` does. :func:`open_engine` and :class:`Jobs` are its parts, for who
has a server already; :func:`application` is the web application around them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.serve.app import Access, application
    from tunesmith.serve.engine import open_engine
    from tunesmith.serve.jobs import Jobs
    from tunesmith.serve.limits import Limits
    from tunesmith.serve.request import Engine, Request
    from tunesmith.serve.server import Ready, run
    from tunesmith.serve.shelf import Shelf

_WHERE = {
    "app": ("Access", "application"),
    "engine": ("open_engine",),
    "jobs": ("Jobs",),
    "limits": ("Limits",),
    "request": ("Engine", "Request"),
    "server": ("Ready", "run"),
    "shelf": ("Shelf",),
}
_FROM = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Access",
    "Engine",
    "Jobs",
    "Limits",
    "Ready",
    "Request",
    "Shelf",
    "application",
    "open_engine",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _FROM:  # the mixer alone needs no web server, and the command line no torch
        return getattr(import_module(f"tunesmith.serve.{_FROM[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
