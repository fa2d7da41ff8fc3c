"""The public functions: thin, typed, the same ones that the command line calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import load_config
from tunesmith.data.check import check
from tunesmith.data.encode import read_audio
from tunesmith.data.prepare import prepare
from tunesmith.evaluation.evaluate import Wishes
from tunesmith.evaluation.evaluate import evaluate as _evaluate
from tunesmith.evaluation.findings import Evaluation
from tunesmith.families import base_limits, find_base
from tunesmith.families import load as load_base
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import card_hash, find_adapter, load_adapter, read_card
from tunesmith.formats.blend import Blended, Part
from tunesmith.formats.blend import blend as _blend
from tunesmith.formats.extract import Extracted
from tunesmith.formats.extract import extract as _extract
from tunesmith.formats.merged import Merged
from tunesmith.formats.merged import merge as _merge
from tunesmith.formats.sound import write_sound as _write_sound
from tunesmith.formats.switch import Switch
from tunesmith.methods._adapter import Adapter
from tunesmith.sweep import Table, trials_of
from tunesmith.sweep import Wishes as SweepWishes
from tunesmith.sweep import sweep as _sweep
from tunesmith.tasks.edit import edit
from tunesmith.tasks.generate import Take, generate
from tunesmith.tasks.inpaint import inpaint
from tunesmith.training.hardware import best_device, choose_dtype
from tunesmith.training.recipe import with_data
from tunesmith.training.run import Result
from tunesmith.training.run import train as run_training
from tunesmith.types import Audio, Details, GenerationSettings


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
    recipe: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    resume: bool = False,
) -> Result:
    """Train an adapter.

    Args:
        config: a YAML file; what is given beside it wins.
        base: the base's name.
        method: a method's name, or ``{"name": "lora", "rank": 32}``.
        data: a prepared folder; with a recipe also one of plain recordings.
        out: the run's folder.
        recipe: a recipe by name, or its YAML file: settings under all that is given here.
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
    loaded = load_config(Path(config) if config is not None else None, given, recipe=recipe)
    if not resume:
        loaded = with_data(loaded)
    return run_training(loaded, resume=resume)


def sweep(
    words: Sequence[str],
    *,
    out: str | Path,
    config: str | Path | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    draw: int | None = None,
    **wishes: Any,
) -> Table:
    """Train every combination of some settings and compare them by KAD to held-out clips.

    Args:
        words: settings with several values: ``["method.rank=4,16", "train.lr=1e-4,3e-4"]``.
        out: the sweep's folder.
        config, recipe: as for :func:`train`.
        settings: dotted keys to values that are the same in all.
        draw: try so many combinations at random.
        wishes: those of :class:`tunesmith.sweep.Wishes`: ``takes=32``, ``engine="ray"`` ...

    Raises:
        tunesmith.errors.ConfigError: every fault of every combination, before anything trains.
    """
    file, told = Path(config) if config is not None else None, SweepWishes(**wishes)
    trials = trials_of(
        file, words, settings or {}, Path(out), recipe=recipe, draw=draw, seed=told.seed
    )
    return _sweep(trials, Path(out), wishes=told)


def evaluate(
    names: Sequence[str | Path],
    *,
    out: str | Path,
    reference: str | Path | None = None,
    general: str | Path | None = None,
    **wishes: Any,
) -> Evaluation:
    """Measure runs, bases and folders; see :func:`tunesmith.evaluation.evaluate.evaluate`.

    ``wishes`` are those of :class:`tunesmith.evaluation.evaluate.Wishes`: ``takes=32``, ``seed=1`` ...
    """
    return _evaluate(names, out=out, reference=reference, general=general, wishes=Wishes(**wishes))


class Model:
    """A base with or without adapters, ready to generate; the base is loaded once.

    Attributes:
        bundle: the loaded base.
        switch: the adapters that were added, and which of them are attached.
    """

    def __init__(
        self, bundle: Bundle, adapter: Adapter | None = None, folder: Path | None = None
    ) -> None:
        self.bundle, self.switch = bundle, Switch(bundle)
        if adapter is not None:
            name = folder.name if folder is not None else "adapter"
            self.switch.adopt(name, folder, adapter)

    @property
    def adapter(self) -> Adapter | None:
        """What is attached: the selected adapter, or the blend of those."""
        return self.switch.adapter

    @property
    def folder(self) -> Path | None:
        """Folder of the selected adapter, if it is one."""
        folders = [self.switch.folders.get(name) for name in self.switch.selected]
        return folders[0] if len(folders) == 1 else None

    def add(self, name: str, folder: str | Path | None = None) -> Path:
        """Make an adapter selectable; see :meth:`tunesmith.formats.switch.Switch.add`."""
        return self.switch.add(name, folder)

    def select(self, weights: Mapping[str, float] | str | None = None) -> None:
        """Attach adapters by name and weight: ``{"jazz": 0.3, "classical": 0.7}``.

        One name alone is that adapter as trained; None is the base.
        """
        chosen = {weights: 1.0} if isinstance(weights, str) else dict(weights or {})
        self.switch.select(chosen)

    def remove(self, name: str) -> None:
        """Forget an adapter; see :meth:`tunesmith.formats.switch.Switch.remove`."""
        self.switch.remove(name)

    @property
    def origin(self) -> dict[str, Any]:
        """Where its sound comes from, for the comment of a file: names, hashes, licence, rights."""
        found: dict[str, Any] = {
            "base": self.bundle.name,
            "base_hash": self.bundle.base_hash,
            "base_licence": self.bundle.licence,
        } | ({"quantize": self.bundle.quantized} if self.bundle.quantized else {})
        if self.folder is not None:
            return found | {
                "adapter": self.folder.name,
                "adapter_hash": card_hash(self.folder),
                "data_rights": read_card(self.folder).get("rights", ""),
            }
        parts = {
            name: (self.switch.folders[name], weight)
            for name, weight in self.switch.selected.items()
            if name in self.switch.folders
        }
        if parts:
            rights = [read_card(folder).get("rights", "") for folder, _ in parts.values()]
            found |= {
                "adapter": {name: weight for name, (_, weight) in parts.items()},
                "adapter_hash": {name: card_hash(folder) for name, (folder, _) in parts.items()},
                "data_rights": "; ".join(dict.fromkeys(rights)) if all(rights) else "",
            }
        return found

    def set_strength(self, strength: float) -> None:
        """Scale what is attached: 0 is the base, 1 the adapter as trained, or the blend as weighed."""
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
        details: Details | None = None,
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
            details=details,
        )

    def inpaint(
        self,
        prompt: str,
        audio: Audio,
        spans: Sequence[tuple[float, float]],
        *,
        seed: int = 0,
        count: int = 1,
        settings: GenerationSettings | None = None,
        details: Details | None = None,
    ) -> Iterator[Take]:
        """Spans of a recording made anew; see :func:`tunesmith.tasks.inpaint.inpaint`."""
        return inpaint(
            self.bundle,
            prompt,
            audio,
            spans,
            seed=seed,
            count=count,
            settings=settings,
            details=details,
        )

    def edit(
        self,
        prompts: Sequence[str],
        audio: Audio,
        change: float = 0.6,
        *,
        seed: int = 0,
        count: int = 1,
        settings: GenerationSettings | None = None,
        details: Details | None = None,
    ) -> Iterator[Take]:
        """A recording made anew by degrees; see :func:`tunesmith.tasks.edit.edit`."""
        return edit(
            self.bundle,
            prompts,
            audio,
            change,
            seed=seed,
            count=count,
            settings=settings,
            details=details,
        )


def open(
    base: str,
    adapter: str | Path | None = None,
    *,
    device: Any = None,
    quantize: str = "",
) -> Model:
    """Load a base, and an adapter onto it.

    Args:
        base: ``pocket``, a folder, or a hub id.
        adapter: a run's folder, a file in one, or a name under the adapters folder.
        device: where; the best there is by default.
        quantize: ``nf4`` holds the base's linears in 4 bits, as QLoRA trains on them.
    """
    where = device or best_device()
    bundle = load_base(
        find_base(base),
        device=where,
        quantize=quantize,
        compute=choose_dtype("auto", torch.device(where)) if quantize else None,
    )
    if adapter is None:
        return Model(bundle)
    folder = find_adapter(str(adapter))
    return Model(bundle, load_adapter(folder, bundle), folder)


def merge(
    adapter: str | Path, out: str | Path, *, strength: float = 1.0, base: str | None = None
) -> Merged:
    """Fold an adapter into its base; see :func:`tunesmith.formats.merged.merge`."""
    return _merge(find_adapter(str(adapter)), Path(out), strength, base)


def blend(
    adapters: Mapping[str, float] | Sequence[tuple[str, str | Path, float]],
    out: str | Path,
    *,
    rank: int | None = None,
) -> Blended:
    """Make one adapter of several; see :func:`tunesmith.formats.blend.blend`.

    Args:
        adapters: ``{"jazz": 0.3, "classical": 0.7}``, or ``(name, where it is, weight)`` of each.
        out: a new folder.
        rank: the best approximation of this rank; exact without it.
    """
    if isinstance(adapters, Mapping):
        adapters = [(name, name, weight) for name, weight in adapters.items()]
    parts = [Part(name, find_adapter(str(place)), weight) for name, place, weight in adapters]
    return _blend(parts, Path(out), rank)


def extract(
    adapter: str | Path, out: str | Path, *, rank: int, base: str | None = None
) -> Extracted:
    """Make a LoRA of a larger change; see :func:`tunesmith.formats.extract.extract`."""
    return _extract(find_adapter(str(adapter)), Path(out), rank, base)


def read_sound(path: str | Path, base: Model | None = None) -> Audio:
    """A recording as it is, or at the rate and in the channels that a model hears."""
    bundle = base.bundle if base is not None else None
    rate_hz, channels = (bundle.sample_rate_hz, bundle.channels) if bundle else (None, None)
    return read_audio(Path(path), rate_hz, channels, 3600.0)


def write_sound(path: str | Path, audio: Audio, made_of: dict[str, Any] | None = None) -> None:
    """Write wav or flac; ``made_of`` goes into the file's comment."""
    _write_sound(Path(path), audio, made_of)


__all__ = [
    "Model",
    "blend",
    "check",
    "evaluate",
    "extract",
    "limits",
    "merge",
    "open",
    "prepare",
    "read_sound",
    "sweep",
    "train",
    "write_sound",
]
