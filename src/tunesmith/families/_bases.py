"""Finding a base: the embedded one, a folder in the hub's layout, or a hub id."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError, did_you_mean
from tunesmith.registry import Plugin, plugins

_POCKET = Path(__file__).parent.parent / "pocket"
EMBEDDED: Mapping[str, Path] = {
    "pocket": _POCKET / "musicgen",
    "pocket-diffusion": _POCKET / "diffusion",
    "pocket-voice": _POCKET / "voice",
}
"""Bases that ship in the package, by the name that a user types."""

# No .bin, no .pt: pickled weights are never downloaded, let alone opened.
_SMALL = ["*.json", "*.model", "*.txt", "*.md"]
_WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True)
class Base:
    """A base that has been found on this machine.

    Attributes:
        name: what the user called it.
        path: folder that holds it.
        family: the plug-in that recognised it.
        config: the parsed ``config.json`` (or ``model_index.json``).
        notes: ``tunesmith.json`` of the folder if it has one: ``max_s``, ``licence``, ``defaults``.
    """

    name: str
    path: Path
    family: Plugin
    config: Mapping[str, Any]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def licence(self) -> str:
        """Licence of the weights, as far as it is known."""
        if "licence" in self.notes:
            return str(self.notes["licence"])
        return str(self.family.spec.get("licence", "unknown"))

    @property
    def non_commercial(self) -> bool:
        """Whether the weights' licence forbids commercial use."""
        return "NC" in self.licence.upper().split("-")


def find_base(name: str, revision: str | None = None, *, weights: bool = True) -> Base:
    """The base called ``name``: ``pocket``, a folder, or a hub id such as ``owner/model``.

    Args:
        name: what the user called it.
        revision: branch, tag or commit on the hub.
        weights: fetch the weights from the hub as well; without them it can be planned with.

    Raises:
        UserError: there is none, it cannot be fetched, or no family recognises it.
    """
    path = EMBEDDED.get(name) or Path(name).expanduser()
    if not path.is_dir():
        path = _from_hub(name, revision, weights)
    for index in ("config.json", "model_index.json"):
        if (path / index).is_file():
            config = _read_json(path / index)
            break
    else:
        raise UserError(
            f"{path}: neither config.json nor model_index.json", "give a folder in the hub's layout"
        )
    notes_file = path / "tunesmith.json"
    notes = _read_json(notes_file) if notes_file.is_file() else {}
    return Base(name, path, _recognise(name, index, config), config, notes)


def _recognise(name: str, index: str, config: Mapping[str, Any]) -> Plugin:
    for family in plugins("families").values():
        for match in family.spec.get("matches", []):
            wanted = {key: value for key, value in match.items() if key != "file"}
            if match.get("file", "config.json") == index and all(
                config.get(key) == value for key, value in wanted.items()
            ):
                return family
    what = config.get("model_type") or config.get("_class_name") or "unknown"
    raise UserError(
        f"base '{name}' is a '{what}' model, which no family here can train",
        f"families: {', '.join(plugins('families'))}",
    )


def looks_like_id(name: str) -> bool:
    """Whether a name can be ``owner/name`` on the hub."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _from_hub(name: str, revision: str | None, weights: bool) -> Path:
    if not looks_like_id(name):
        raise UserError(
            f"no base '{name}': not embedded, not a folder, not a hub id",
            f"{did_you_mean(name, EMBEDDED)}; or give a folder in the hub's layout, or owner/model",
        )
    what = f"base '{name}'"
    path = fetch(name, what, _SMALL, revision)
    if not weights:
        return path
    wanted = named_weights(path) or [_WEIGHTS]
    if (path / "model_index.json").is_file():
        # Beside a pipeline's folders there may be gigabytes that it never opens: its original
        # checkpoint, exports for other programs. (Small files of theirs come along: in these patterns
        # * stands for slashes too.)
        wanted = [f"{folder}/{_WEIGHTS}" for folder in components(path)]
    return fetch(name, what, [*_SMALL, *wanted], revision)


def components(path: Path) -> list[str]:
    """The folders that a ``model_index.json`` names, sorted.

    Raises:
        UserError: it cannot be read, or names something that is no folder of its own.
    """
    index = path / "model_index.json"
    found = []
    for name, value in _read_json(index).items():
        # [library, class], both null for an optional part that is not there; the rest are settings.
        is_part = isinstance(value, list) and len(value) == 2 and None not in value
        if name.startswith("_") or not is_part:
            continue
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise UserError(f"{index}: '{name[:40]}' is no name of a folder", "download it again")
        found.append(name)
    return sorted(found)


def fetch(name: str, what: str, patterns: list[str], revision: str | None = None) -> Path:
    """The folder of ``owner/name`` on the hub, or of what is in the cache of it.

    Args:
        name: the hub id.
        what: what to call it in messages.
        patterns: the only files that are fetched.
        revision: branch, tag or commit.

    Raises:
        UserError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise UserError(
            f"{what} is neither a folder here nor in the cache, and the hub cannot be reached",
            "check the spelling and the connection, or download it once where there is one",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{what} could not be fetched from the hub ({first})",
            "check the name, accept the model's licence on its page, log in with `hf auth login`",
        ) from error
    return Path(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})", "download it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object", "download it again")
    return value


def named_weights(path: Path) -> list[str]:
    """The weight files that a base's ``config.json`` names itself (``transformers_weights``); mostly none.

    Where it does, the others beside them are the same weights in another layout, gigabytes that the
    library never opens (``sesame/csm-1b``).

    Raises:
        UserError: it names something that is no safetensors file of the folder.
    """
    config = path / "config.json"
    named = _read_json(config).get("transformers_weights") if config.is_file() else None
    if not named:
        return []
    names = [named]
    if str(named).endswith(".index.json") and (path / str(named)).is_file():
        shards = _read_json(path / str(named)).get("weight_map")
        names = sorted(set(shards.values())) if isinstance(shards, dict) else []
    if not names or not all(re.fullmatch(r"\w[\w.-]*\.safetensors", str(name)) for name in names):
        raise UserError(
            f"{config}: its 'transformers_weights' name no safetensors files", "download it again"
        )
    return names


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a base, sorted: those that it names itself, else all.

    Raises:
        UserError: the folder has none.
    """
    files = [path / name for name in named_weights(path)] or sorted(path.rglob("*.safetensors"))
    files = [file for file in files if file.is_file()]
    if not files:
        raise UserError(
            f"{path}: no .safetensors weights", "convert the weights to safetensors first"
        )
    return files


def fingerprint(path: Path, prefix: str = "") -> str:
    """A hash that tells bases apart: adapters carry it, and refuse any other base.

    With a ``prefix`` only the tensors whose names start with it count: the hash of one component.

    Every tensor's name, type and shape goes in, and three KiB of its values: reading all of a
    multi-gigabyte checkpoint each time would cost more than it could tell, since any training or
    merge touches the sampled bytes of the tensors it changes.
    """
    digest = hashlib.sha256()
    for file in weight_files(path):
        with file.open("rb") as stream:
            length = stream.read(8)
            size = struct.unpack("<Q", length)[0] if len(length) == 8 else 0
            if not 0 < size < 100_000_000:
                raise UserError(f"{file}: not a safetensors file", "download it again")
            try:
                header = json.loads(stream.read(size))
            except (UnicodeDecodeError, json.JSONDecodeError):
                raise UserError(f"{file}: torn safetensors header", "download it again") from None
            for name in sorted(header):
                if name == "__metadata__" or not name.startswith(prefix):
                    continue
                entry = header[name]
                digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
                begin, end = (8 + size + offset for offset in entry["data_offsets"])
                for at in (begin, (begin + end) // 2, max(begin, end - 1024)):
                    stream.seek(at)
                    digest.update(stream.read(min(1024, end - at)))
    return digest.hexdigest()


def base_hash(base: Base) -> str:
    """What adapters of a base carry: of all its weights, or of the folders that its family names."""
    parts = base.family.spec.get("parts")
    return folders_hash(base.path, parts) if parts else fingerprint(base.path)


def folders_hash(path: Path, parts: Sequence[str]) -> str:
    """Hash of the weights in these component folders, in this order.

    A hub repository often holds the same weights a second time, in the layout of their first trainer;
    those are not read.
    """
    found = [fingerprint(path / part) for part in parts]
    return hashlib.sha256("".join(found).encode()).hexdigest()
