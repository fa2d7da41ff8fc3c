"""What hears sound for the metrics: one file each, with a literal ``SPEC`` and a ``load``.

``open_embedder("clap")`` opens one by name, ``open_embedder("clap:owner/model")`` with other
weights. Listing and importing this package need neither torch nor transformers.

A plug-in's ``SPEC`` says ``name``, ``summary``, ``default`` (the model that it hears with unless
told otherwise; None where there is none), ``licence`` of those weights, ``hears`` (what they were
made for: ``music``, ``sound`` or ``speech``), ``text`` (whether it has ``embed_text``), ``needs``
(extras to install) and ``matches`` (fields of a ``config.json`` that it recognises). Its
``load(name, device)`` returns an :class:`Embedder`.
"""

from __future__ import annotations

from pathlib import Path

from tunesmith.embeddings._embedder import Embedder, TextEmbedder
from tunesmith.errors import UserError
from tunesmith.registry import Plugin, plugin, plugins


def open_embedder(name: str, device: object = "auto") -> Embedder:
    """Find and load what hears.

    Args:
        name: a plug-in (``pocket``, ``clap``), a plug-in and a model (``clap:owner/model``,
            ``clap:owner/model@revision``, ``encodec:folder``), a plug-in's file (``./mine.py``,
            ``./mine.py:owner/model``), or a hub id or folder alone, whose ``config.json`` then says
            which plug-in it is for.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` ...; a name or torch's own.

    Raises:
        UserError: nothing of that name, no safetensors weights, or a model that cannot be used.
    """
    kind, _, rest = name.partition(":")
    if kind in plugins("embeddings") or kind.endswith(".py"):
        found, model = plugin("embeddings", kind), rest or None
    elif not rest and (Path(name).expanduser().is_dir() or _looks_like_id(name)):
        found, model = _recognise(name), name
    else:
        found, model = plugin("embeddings", kind), rest or None  # which says what is wrong
    return found.load().load(model, str(device))


def _looks_like_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and name[-1] != "/"


def _recognise(name: str) -> Plugin:
    """The plug-in whose ``matches`` fit a model's ``config.json``; the most particular one."""
    from tunesmith.captioners._model import find
    from tunesmith.embeddings._embedder import config_of

    config = config_of(find(name, "embedding", tuple(plugins("embeddings"))).path)
    fitting = [
        one
        for one in plugins("embeddings").values()
        if (fields := one.spec.get("matches"))
        and all(config.get(key) == value for key, value in fields.items())
    ]
    if not fitting:
        raise UserError(
            f"embedding '{name}' is a '{config.get('model_type')}' model, which none here hears with",
            f"embeddings: {', '.join(plugins('embeddings'))}",
        )
    return max(fitting, key=lambda one: len(one.spec["matches"]))


__all__ = ["Embedder", "TextEmbedder", "open_embedder"]
