"""What keeps a run one run: the same settings, base and data, one process, and words for what fails."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from tunesmith.atomic import disk_error, write_bytes
from tunesmith.config import Loaded, dump, load_config
from tunesmith.config_source import to_yaml
from tunesmith.errors import UserError
from tunesmith.families import EMBEDDED
from tunesmith.training.log import check_trackers


def anywhere(values: dict[str, Any]) -> dict[str, Any]:
    """The settings with absolute paths, so that a run can be resumed from any folder."""
    for section, key in (
        ("data", "path"),
        ("data", "general"),
        ("prior", "path"),
        ("replay", "path"),
        ("base", "name"),
        ("voice", "ear"),
        ("voice", "asr"),
    ):
        path = Path(values[section][key] or "").expanduser()
        if values[section][key] and path.is_dir() and values[section][key] not in EMBEDDED:
            values[section][key] = str(path.resolve())
    return values


def holds_run(folder: Path) -> bool:
    """Whether anything was trained in a folder; before that a mistake may be mended and tried again."""
    return (folder / "checkpoints").is_dir() or (folder / "adapter.json").is_file()


def check_same(folder: Path, text: str) -> None:
    """A run goes on with the settings that it began with, or its second half is another run's.

    Settings that did not exist when it began have their defaults.
    """
    file = folder / "config.yaml"
    now = yaml.safe_load(text)
    changed = _changed(yaml.safe_load(file.read_text(encoding="utf-8")), now)
    if changed:
        filled = to_yaml(anywhere(dump(load_config(file))))
        changed = _changed(yaml.safe_load(filled), now)
    if changed:
        raise UserError(
            f"{folder} was begun with other settings ({', '.join(changed)})",
            "resume it without them, or start a new run from its weights with init_from",
        )


_NO_PART = {"out", "parallel"}
"""What does not change what a run computes: where it lies, and how it is spread over devices."""


def _changed(began: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{section}.{key}" if key else section
        for section in sorted((began.keys() | now.keys()) - _NO_PART)
        for key in _differences(began.get(section), now.get(section))
    ]


def _differences(began: Any, now: Any) -> list[str]:
    if isinstance(began, dict) and isinstance(now, dict):
        return sorted(key for key in began.keys() | now.keys() if began.get(key) != now.get(key))
    return [] if began == now else [""]


def check_unchanged(earlier: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """What a run stands on must be what it stood on when it began."""
    for what, mend in (
        ("base", "put the base's files back as they were"),
        ("data", "put the recordings back as they were"),
    ):
        if earlier[what] != facts[what]:
            raise UserError(
                f"the {what} has changed since this run began",
                f"{mend}, or start a new run from its weights with init_from",
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two processes in one run folder would tear each other's files."""
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is training in {folder}", "wait for it, or stop it"
            ) from None
        yield


def open_run(loaded: Loaded, folder: Path, resume: bool, held: ExitStack) -> None:
    """Make a folder this run's, and lock it for as long as ``held`` is open.

    Raises:
        UserError: it holds another run, or none to resume, or cannot be written.
    """
    if not resume and holds_run(folder):
        raise UserError(
            f"{folder} already holds a run",
            f"go on with --resume {folder}, or give another --out",
        )
    check_trackers(loaded.config.log)
    if resume and not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} holds no run", "give the folder that was --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from None
    held.enter_context(locked(folder))
    text = to_yaml(anywhere(dump(loaded)))
    if resume:
        check_same(folder, text)
    else:
        write_bytes(folder / "config.yaml", text.encode())
        (folder / "run.json").unlink(missing_ok=True)  # of an earlier try that never trained


def out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "can't allocate memory" in text or "out of memory" in text or "not enough memory" in text


def memory_message(loaded: Loaded) -> str:
    train = loaded.config.train
    return f"out of memory with train.batch_size={train.batch_size}, method {loaded.config.method['name']}"


def memory_mend(folder: Path) -> str:
    return (
        "halve train.batch_size and double train.accumulate, set train.activation_checkpointing=true, "
        f"or prepare shorter clips; checkpoints under {folder / 'checkpoints'} are whole"
    )
