"""The public functions: thin, typed, the same ones that the command line calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.config import load_config
from tunesmith.data.check import check
from tunesmith.data.prepare import prepare
from tunesmith.families import base_limits, find_base
from tunesmith.families import load as load_base
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import card_hash, find_adapter, load_adapter, read_card
from tunesmith.formats.sound import write_sound as _write_sound
from tunesmith.methods._adapter import Adapter
from tunesmith.tasks.generate import Take, generate
from tunesmith.training.hardware import best_device
from tunesmith.training.run import Result
from tunesmith.training.run import train as run_training
from tunesmith.types import Audio, GenerationSettings


def limits(base: str) -> dict[str, Any]:
    """What :func:`prepare` has to know of a base: its rate, channels and longest clip."""
    sample_rate_hz, channels, max_s = base_limits(base)
    return {"sample_rate_hz": sample_rate_hz, "channels": channels, "base_max_s": max_s}


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


class Model:
    """A base with or without an adapter, ready to generate.

    Attributes:
        bundle: the loaded base.
        adapter: the attached adapter, or None.
    """

    def __init__(
        self, bundle: Bundle, adapter: Adapter | None = None, folder: Path | None = None
    ) -> None:
        self.bundle, self.adapter, self.folder = bundle, adapter, folder

    @property
    def origin(self) -> dict[str, Any]:
        """Where its sound comes from, for the comment of a file: names, hashes, licence, rights."""
        found = {
            "base": self.bundle.name,
            "base_hash": self.bundle.base_hash,
            "base_licence": self.bundle.licence,
        }
        if self.folder is not None:
            found |= {
                "adapter": self.folder.name,
                "adapter_hash": card_hash(self.folder),
                "data_rights": read_card(self.folder).get("rights", ""),
            }
        return found

    def set_strength(self, strength: float) -> None:
        """Scale the adapter: 0 is the base, 1 as trained."""
        if self.adapter is not None:
            self.adapter.set_strength(strength)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        duration_s: float,
        seed: int = 0,
        count: int = 1,
        settings: GenerationSettings | None = None,
        continued: Audio | None = None,
    ) -> Iterator[Take]:
        """New sound; see :func:`tunesmith.tasks.generate.generate`."""
        return generate(
            self.bundle,
            prompts,
            duration_s=duration_s,
            seed=seed,
            count=count,
            settings=settings,
            continued=continued,
        )


def open(base: str, adapter: str | Path | None = None, *, device: Any = None) -> Model:
    """Load a base, and an adapter onto it.

    Args:
        base: ``pocket``, a folder, or a hub id.
        adapter: a run's folder, a file in one, or a name under the adapters folder.
        device: where; the best there is by default.
    """
    bundle = load_base(find_base(base), device=device or best_device())
    if adapter is None:
        return Model(bundle)
    folder = find_adapter(str(adapter))
    return Model(bundle, load_adapter(folder, bundle), folder)


def write_sound(path: str | Path, audio: Audio, made_of: dict[str, Any] | None = None) -> None:
    """Write wav or flac; ``made_of`` goes into the file's comment."""
    _write_sound(Path(path), audio, made_of)


__all__ = ["Model", "check", "limits", "open", "prepare", "train", "write_sound"]
