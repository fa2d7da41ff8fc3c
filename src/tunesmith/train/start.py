"""``tunesmith.train``: settings in, trained adapter out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.config import load_config
from tunesmith.train.run import Result
from tunesmith.train.run import train as run_training


def train(
    config: str | Path | None = None,
    *,
    base: str | None = None,
    method: str | dict[str, Any] | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    resume: bool = False,
) -> Result:
    """Train an adapter.

    Args:
        config: a YAML file; what is given beside it wins.
        base: the base's name.
        method: a method's name, or ``{"name": "lora", "rank": 32}``.
        data: a prepared folder.
        out: the run's folder.
        settings: further settings by dotted key: ``{"train.lr": 5e-5}``.
        resume: go on with the run in ``out``.

    Raises:
        tunesmith.errors.UserError: with what is wrong and how to mend it.
    """
    given = dict(settings or {}) | {
        "base": base,
        "method": method,
        "data": str(data) if data is not None else None,
        "out": str(out) if out is not None else None,
    }
    loaded = load_config(Path(config) if config is not None else None, given)
    return run_training(loaded, resume=resume)


__all__ = ["train"]
