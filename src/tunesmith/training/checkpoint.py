"""Checkpoints that are whole or not there.

A checkpoint is written to a temporary folder, flushed, and renamed; its manifest holds the hash of
every file. Reading takes the newest one whose hashes agree. Safetensors and JSON only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.errors import ResourceError, UserError
from tunesmith.methods._adapter import placed

_MANIFEST = "manifest.json"
_PREFIX = "step-"
PARTS = ("weights", "optimizer", "averaged")
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the rest of a run depends on.

    Attributes:
        weights: trainable parameters by name.
        optimizer: optimizer tensors, ``{parameter name}/{state name}``.
        averaged: the moving average of the weights; empty if off.
        state: plain data: step, best loss, what has been done at this step ...
    """

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor]
    state: Mapping[str, Any]


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, however wrapped, says that there is no space or no quota left."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors and libsndfile report it as errors of their own, with the reason in words.
    text = str(error).lower()
    return "no space left" in text or "disk quota" in text


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Force a file or folder onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they live.
        keep: how many of the newest are kept.
        budget_bytes: most that they may take together; the newest stays in any case.
    """

    def __init__(self, folder: Path, keep: int = 2, budget_bytes: int | None = None) -> None:
        self.folder, self.keep, self.budget_bytes = folder, keep, budget_bytes

    def save(self, snapshot: Snapshot, *, last: bool = False) -> Path:
        """Write one, then let go of old ones.

        Args:
            snapshot: what to write.
            last: no later step is to stay either: a run that went back leaves some.

        Raises:
            ResourceError: the disk is full; what was there before is untouched.
        """
        name = f"{_PREFIX}{snapshot.state['step']:08d}"
        temporary = self.folder / f".{name}.tmp"
        target = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            temporary.mkdir()
            for part in PARTS:
                save_file(_owned(getattr(snapshot, part)), temporary / f"{part}.safetensors")
            (temporary / _STATE).write_text(json.dumps(dict(snapshot.state)), encoding="utf-8")
            files = sorted(path for path in temporary.iterdir())
            manifest = {path.name: _sha256(path) for path in files}
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
            for path in temporary.iterdir():
                flush(path)
            flush(temporary)
            # The same step again, with more done at it: set the old one aside until this one stands,
            # for it may be the only one there is.
            aside = self._aside(target) if target.exists() else None
            temporary.rename(target)
            flush(self.folder)
            if aside is not None:
                shutil.rmtree(aside)
            for path in self._all():
                if last and path.name > name:
                    shutil.rmtree(path)
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if is_full_disk(error):
                raise ResourceError(
                    f"the disk under {self.folder} is full; the checkpoint of step "
                    f"{snapshot.state['step']} was not written, earlier ones are whole",
                    "free space and go on with --resume, or lower train.keep_checkpoints",
                ) from error
            raise
        self._prune()
        return target

    def _aside(self, target: Path) -> Path:
        aside = target.with_name(f".{target.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        return target.rename(aside)

    def _sweep(self) -> None:
        """Clear what a killed writer left. A checkpoint set aside comes back if nothing replaced it."""
        if not self.folder.is_dir():
            return
        for path in self.folder.glob(f".{_PREFIX}*.old"):
            name = path.name.removeprefix(".").removesuffix(".old")
            if (self.folder / name).exists():
                shutil.rmtree(path)
            else:
                path.rename(self.folder / name)
        for path in self.folder.glob(f".{_PREFIX}*.tmp"):
            shutil.rmtree(path)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_PREFIX}*")) if self.folder.is_dir() else []

    def _prune(self) -> None:
        kept = self._all()
        sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in kept]
        while len(kept) > 1 and (
            len(kept) > self.keep
            or (self.budget_bytes is not None and sum(sizes) > self.budget_bytes)
        ):
            shutil.rmtree(kept.pop(0))
            sizes.pop(0)

    def leave(self, steps: Collection[int]) -> None:
        """Let go of all but those of some steps."""
        names = {f"{_PREFIX}{step:08d}" for step in steps}
        for path in self._all():
            if path.name not in names:
                shutil.rmtree(path)

    def at(self, step: int) -> Snapshot | None:
        """The checkpoint of one step, if it is there and whole."""
        path = self.folder / f"{_PREFIX}{step:08d}"
        return None if self._fault(path) else self.load(path)

    def newest(self) -> tuple[Path, list[str]] | None:
        """The newest whole checkpoint, and remarks on torn ones that were passed over.

        Raises:
            UserError: there are checkpoints and none is whole. Starting over would look like
                going on, so that is left to the user.
        """
        self._sweep()
        remarks = []
        for path in reversed(self._all()):
            fault = self._fault(path)
            if not fault:
                return path, remarks
            remarks.append(f"{path.name} is torn ({fault}); it was passed over")
        if remarks:
            raise UserError(
                f"no checkpoint under {self.folder} is whole ({remarks[0]})",
                "restore one from a backup, or start a new run in another folder",
            )
        return None

    @staticmethod
    def _fault(path: Path) -> str:
        try:
            manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
            for name in (*(f"{part}.safetensors" for part in PARTS), _STATE):
                if _sha256(path / name) != manifest[name]:
                    return f"{name} does not match its hash"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    @staticmethod
    def load(path: Path) -> Snapshot:
        """Read a checkpoint that :meth:`newest` named."""
        weights, optimizer, averaged = (load_file(path / f"{part}.safetensors") for part in PARTS)
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        return Snapshot(weights, optimizer, averaged, state)


class NoCheckpoints(Checkpoints):
    """Those of a process that leaves writing to another one."""

    def save(self, snapshot: Snapshot, *, last: bool = False) -> Path:
        return self.folder

    def leave(self, steps: Collection[int]) -> None:
        return

    def at(self, step: int) -> Snapshot | None:
        return None

    def newest(self) -> tuple[Path, list[str]] | None:
        return None


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The optimizer's state under its parameters' names."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in names.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_tensors` took."""
    for name, parameter in names.items():
        state = {
            key.removeprefix(f"{name}/"): value
            for key, value in tensors.items()
            if key.startswith(f"{name}/")
        }
        if state:
            steps_on_device = optimizer.defaults.get("fused")
            optimizer.state[parameter] = {
                key: placed(value, parameter, copy=True)
                if key != "step"
                # AdamW counts its steps on the CPU unless it is fused; never are they split.
                else (value.to(parameter.device, copy=True) if steps_on_device else value.clone())
                for key, value in state.items()
            }
