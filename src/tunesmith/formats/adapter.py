"""Adapters on disk: ``adapter.json`` says what it is, ``adapter/<component>/`` holds the tensors.

Where PEFT can hold a component's tensors they lie in PEFT's own two files, so that plain
``peft.PeftModel.from_pretrained`` opens the folder without a trace of this package.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith.atomic import write_bytes
from tunesmith.errors import UserError, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter, State
from tunesmith.registry import plugins

FORMAT = 1
_CARD = "adapter.json"
_TENSORS = "adapter_model.safetensors"
_PEFT = "adapter_config.json"


def home() -> Path:
    """Where adapters are looked up by name: ``$TUNESMITH_HOME/adapters`` or ``~/.tunesmith/adapters``."""
    return (
        Path(os.environ.get("TUNESMITH_HOME") or Path.home() / ".tunesmith").expanduser()
        / "adapters"
    )


def save_adapter(
    folder: Path, adapter: Adapter, bundle: Bundle, details: Mapping[str, Any]
) -> None:
    """Write ``adapter/`` and ``adapter.json`` into a run's folder; the JSON last, whole or not at all.

    Args:
        folder: the run's folder.
        adapter: the attached method.
        bundle: its base.
        details: what else the card says: metrics, rights, trigger tokens, steps ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, temporary = folder / "adapter", folder / ".adapter.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    hashes = {}
    for component, tensors in sorted(adapter.state().items()):
        place = temporary / component
        place.mkdir(parents=True)
        save_file(dict(tensors), place / _TENSORS, metadata={"format": "pt"})
        hashes[component] = hashlib.sha256((place / _TENSORS).read_bytes()).hexdigest()
        peft = adapter.peft_config(component)
        if peft is not None:
            text = json.dumps(dict(peft), indent=2, sort_keys=True, default=str)
            (place / _PEFT).write_text(text, encoding="utf-8")
    temporary.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    card = {
        "format": FORMAT,
        "base": {
            "name": bundle.name,
            "hash": bundle.base_hash,
            "family": bundle.family,
            "licence": bundle.licence,
        },
        "method": {"name": adapter.method, **dataclasses.asdict(adapter.config)},
        "linear": adapter.linear,
        "components": hashes,
        **details,
    }
    write_bytes(folder / _CARD, (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())


def find_adapter(name: str) -> Path:
    """The folder of an adapter: a run's folder, a file in one, or a name under :func:`home`.

    Raises:
        UserError: there is none.
    """
    for path in (Path(name).expanduser(), home() / name):
        for folder in (path, *path.parents[:3]):
            inside = (
                folder == path
                or path == folder / _CARD
                or folder / "adapter" in (path, *path.parents)
            )
            if path.exists() and inside and (folder / _CARD).is_file():
                return folder
    path = Path(name).expanduser()
    if (path / "config.yaml").is_file():
        raise UserError(
            f"{name} is a run that has not finished",
            f"go on with `tunesmith train --resume {name}`",
        )
    raise UserError(
        f"no adapter '{name}'", f"give a run's folder, a file in one, or a name under {home()}"
    )


def read_card(folder: Path) -> dict[str, Any]:
    """The parsed ``adapter.json``.

    Raises:
        UserError: missing, torn, or of a newer format.
    """
    try:
        card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
        if card["format"] > FORMAT:
            raise UserError(f"{folder} was written by a newer version", "update tunesmith")
        assert isinstance(card["components"], dict), "no components"
        for section, key in (("base", "name"), ("base", "hash"), ("method", "name")):
            assert isinstance(card[section][key], str), f"{section} has no {key}"
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(
            f"{folder / _CARD}: not readable ({error})", "train or download it again"
        ) from None
    return card


def card_hash(folder: Path) -> str:
    """Hash of an adapter's tensors, for the metadata of what it generates."""
    return hashlib.sha256(
        json.dumps(read_card(folder)["components"], sort_keys=True).encode()
    ).hexdigest()


def check_base(folder: Path, bundle: Bundle) -> dict[str, Any]:
    """The adapter's card, if it was made for this base.

    Raises:
        UserError: it was made for another one.
    """
    card = read_card(folder)
    base = card["base"]
    if base["hash"] == bundle.base_hash:
        return card
    made, here = (
        f"'{base['name']}' ({str(base['hash'])[:12]})",
        f"'{bundle.name}' ({bundle.base_hash[:12]})",
    )
    same_name = base["name"] == bundle.name
    raise UserError(
        f"adapter '{folder}' was made for base {made}, not for {here}",
        "get the version of the base that it was trained on"
        if same_name
        else f"use --base {base['name']}",
    )


def read_state(folder: Path) -> State:
    """An adapter's tensors, checked against the hashes on its card.

    Raises:
        UserError: a file is missing, torn or not the one that was saved.
    """
    state = {}
    for component, expected in read_card(folder)["components"].items():
        file = folder / "adapter" / Path(component).name / _TENSORS
        try:
            if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
                raise UserError(
                    f"{file} is not what was saved", "download or copy the adapter again"
                )
            state[component] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{file}: not readable ({error})", "train or download it again"
            ) from None
    return state


def load_adapter(folder: Path, bundle: Bundle) -> Adapter:
    """Attach a saved adapter to its base, frozen.

    Raises:
        UserError: it belongs to another base, or its files are torn or foreign.
    """
    card = check_base(folder, bundle)
    name = card["method"]["name"]
    # Only a method's plain name: a card that came with a download must not choose code to run.
    if name not in plugins("methods"):
        raise UserError(
            f"{folder / _CARD} wants the method '{name}', which is not installed",
            did_you_mean(name, plugins("methods")),
        )
    method = plugins("methods")[name].load()
    settings = {key: value for key, value in card["method"].items() if key != "name"}
    known = {field.name for field in dataclasses.fields(method.Config)}
    try:
        if foreign := sorted(settings.keys() - known):
            raise ValueError(f"unknown: {', '.join(foreign)}")
        config = TypeAdapter(method.Config).validate_python(settings)
    except ValueError as error:  # pydantic's own is one
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(
            f"{folder / _CARD}: method settings of another version ({reason})", "update tunesmith"
        ) from None
    state = read_state(folder)
    adapter = method.attach(bundle, config, None)
    try:
        adapter.load_state(state)
    except UserError:
        adapter.detach()
        raise
    for parameter in adapter.parameters().values():
        parameter.requires_grad_(False)
    return adapter
