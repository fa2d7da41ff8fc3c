"""Adapters on disk: ``adapter.json`` says what it is, ``adapter/<component>/`` holds the tensors.

Where PEFT can hold a component's tensors they lie in PEFT's own two files, so that plain
``peft.PeftModel.from_pretrained`` opens the folder without a trace of this package.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith.atomic import disk_error, write_bytes
from tunesmith.errors import UserError, did_you_mean
from tunesmith.families._bases import fetch, looks_like_id
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter, State
from tunesmith.methods._together import Beside, attach_all
from tunesmith.registry import plugins, tokens_method

FORMAT = 1
TOKENS, TASK = "tokens", "task"
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
    state = adapter.state()
    card = {
        "base": {
            "name": bundle.name,
            "hash": bundle.base_hash,
            "family": bundle.family,
            "licence": bundle.licence,
            **({"quantize": bundle.quantized} if bundle.quantized else {}),
        },
        "method": {"name": adapter.method, **dataclasses.asdict(adapter.config)},
        "linear": adapter.linear,
        **details,
    }
    for one in getattr(adapter, "beside", ()):
        named = {"name": one.name} if one.section == TASK else {}
        card[one.section] = named | dataclasses.asdict(one.config)
    write_adapter(folder, state, {part: adapter.peft_config(part) for part in state}, card)


def write_adapter(
    folder: Path,
    state: State,
    peft: Mapping[str, Mapping[str, Any] | None],
    card: Mapping[str, Any],
) -> None:
    """Write an adapter from its parts; see :func:`save_adapter`.

    Args:
        folder: where.
        state: the tensors of each component.
        peft: PEFT's configuration of each component that PEFT can hold.
        card: ``base``, ``method``, ``linear`` and whatever else is known.
    """
    target, temporary = folder / "adapter", folder / ".adapter.tmp"
    hashes = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        for component, tensors in sorted(state.items()):
            place = temporary / component
            place.mkdir(parents=True)
            save_file(dict(tensors), place / _TENSORS, metadata={"format": "pt"})
            hashes[component] = hashlib.sha256((place / _TENSORS).read_bytes()).hexdigest()
            if (said := peft.get(component)) is not None:
                text = json.dumps(dict(said), indent=2, sort_keys=True, default=str)
                (place / _PEFT).write_text(text, encoding="utf-8")
        temporary.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    except OSError as error:
        raise disk_error(error, folder) from error
    whole = {"format": FORMAT, **card, "components": hashes}
    write_bytes(folder / _CARD, (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode())


def new_folder(folder: Path) -> Path:
    """A folder that may be written to.

    Raises:
        UserError: something is in it already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is already there", "give a new folder with -o, or remove it")
    return folder


def find_adapter(name: str) -> Path:
    """The folder of an adapter: a run's folder, a file in one, a name under :func:`home`, a hub id.

    Raises:
        UserError: there is none, or it cannot be fetched.
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
    if looks_like_id(name):
        folder = fetch(name, f"adapter '{name}'", ["*.json", "*.safetensors", "*.md"])
        if (folder / _CARD).is_file():
            return folder
        raise UserError(
            f"{name} on the hub has no {_CARD}",
            "adapters made elsewhere are taken in with `tunesmith import`",
        )
    raise UserError(
        f"no adapter '{name}'",
        f"give a run's folder, a file in one, a name under {home()}, or owner/name on the hub",
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
    check_files(folder)
    return load_files(folder)


def check_files(folder: Path) -> None:
    """Hold an adapter's files against the hashes on its card.

    Raises:
        UserError: a file is missing or not the one that was saved.
    """
    for component, expected in read_card(folder)["components"].items():
        file = tensors_file(folder, component)
        try:
            found = _sha256(file)
        except OSError as error:
            raise _unreadable(file, error) from None
        if found != expected:
            raise UserError(f"{file} is not what was saved", "download or copy the adapter again")


def load_files(folder: Path) -> State:
    """An adapter's tensors, not checked.

    Raises:
        UserError: a file is missing or torn.
    """
    state = {}
    for component in read_card(folder)["components"]:
        file = tensors_file(folder, component)
        try:
            state[component] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise _unreadable(file, error) from None
    return state


def _sha256(file: Path) -> str:
    """Mapped: hashed at once, which leaves other threads alone, and without a copy."""
    with file.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:  # an empty file cannot be mapped
            return hashlib.sha256().hexdigest()
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            return hashlib.sha256(memory).hexdigest()


def tensors_file(folder: Path, component: str) -> Path:
    """Where the tensors of a component lie."""
    return folder / "adapter" / Path(component).name / _TENSORS


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"{file}: not readable ({error})", "train or download it again")


def load_adapter(folder: Path, bundle: Bundle) -> Adapter:
    """Attach a saved adapter to its base, frozen.

    Raises:
        UserError: it belongs to another base, or its files are torn or foreign.
    """
    card = check_base(folder, bundle)
    return attach_saved(bundle, card, read_state(folder), folder / _CARD)


def method_of(card: Mapping[str, Any], place: Path) -> tuple[ModuleType, Any]:
    """The method that a card names, and its settings there.

    Args:
        card: a parsed ``adapter.json``.
        place: what to name in messages.

    Raises:
        UserError: it is not installed, or its settings are of another version.
    """
    return _settings(card["method"], card["method"]["name"], place)


def beside_of(card: Mapping[str, Any], place: Path) -> list[Beside]:
    """What was trained beside a card's method: tokens, the input of a task.

    Raises what :func:`method_of` raises.
    """
    found = []
    if card.get(TOKENS):
        name = tokens_method().name
        found.append(Beside(TOKENS, name, *_settings(card[TOKENS], name, place)))
    if card.get(TASK):
        name = str(card[TASK].get("name"))
        found.append(Beside(TASK, name, *_settings(card[TASK], name, place, "tasks")))
    return found


@lru_cache(maxsize=64)
def _reader(config: type) -> TypeAdapter[Any]:
    return TypeAdapter(config)  # making one takes longer than all of a small adapter's tensors


def _settings(
    said: Mapping[str, Any], name: str, place: Path, kind: Literal["methods", "tasks"] = "methods"
) -> tuple[ModuleType, Any]:
    # Only a plug-in's plain name: a card that came with a download must not choose code to run.
    if name not in plugins(kind):
        raise UserError(
            f"{place} wants the {kind.removesuffix('s')} '{name}', which is not installed",
            did_you_mean(name, plugins(kind)),
        )
    method = plugins(kind)[name].load()
    settings = {key: value for key, value in said.items() if key != "name"}
    known = {field.name for field in dataclasses.fields(method.Config)}
    try:
        if foreign := sorted(settings.keys() - known):
            raise ValueError(f"unknown: {', '.join(foreign)}")
        return method, _reader(method.Config).validate_python(settings)
    except ValueError as error:  # pydantic's own is one
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(
            f"{place}: method settings of another version ({reason})", "update tunesmith"
        ) from None


def attach_saved(bundle: Bundle, card: Mapping[str, Any], state: State, place: Path) -> Adapter:
    """Attach what a card describes and give it its tensors, frozen.

    Args:
        bundle: the base; left as it was if anything does not fit.
        card: ``method`` with its settings; the base is not looked at.
        state: the tensors.
        place: what to name in messages.
    """
    method, config = method_of(card, place)
    adapter = attach_all(bundle, method, config, beside_of(card, place), None)
    try:
        adapter.load_state(state)
        bundle.use_conditioning(card.get("conditioning") or {})
    except UserError:
        adapter.detach()
        raise
    for parameter in adapter.parameters().values():
        parameter.requires_grad_(False)
    return adapter
