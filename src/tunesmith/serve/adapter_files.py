"""An adapter's files, looked at before anything opens them: where they really lie, what they are, how large.

What has passed here is read by the engine, which holds hashes, shapes and values against its base.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import check_base

CARD = "adapter.json"
TENSORS = "adapter_model.safetensors"
CARD_BYTES = 1 << 20
_HEADER_BYTES = 8 << 20
_TENSORS_MOST = 50_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COMPONENT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_KNOWN_FILES = frozenset({TENSORS, "adapter_config.json", "README.md"})
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_AGAIN = "export or copy the adapter again"


def check_name(name: str) -> str:
    """A name that can be one folder's, and nothing else.

    Raises:
        UserError: any other.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(
            "that is no name of an adapter",
            "1 to 64 letters, digits, . _ -, a letter or digit first",
        )
    return name


def check_folder(folder: Path, root: Path, bundle: Bundle, most_bytes: int) -> None:
    """Look at the folder of an adapter without opening a tensor.

    Args:
        folder: with ``adapter.json``.
        root: the folder that it and all its files have to lie in, links followed.
        bundle: the base that it has to be of.
        most_bytes: of its tensors in all.

    Raises:
        UserError: it is not there, leads out of ``root``, is of another base, or holds anything but
            safetensors. Messages name no place of this machine.
    """
    card_file = _inside(folder / CARD, root)
    if card_file.stat().st_size > CARD_BYTES:
        raise UserError(f"{CARD} has more than {CARD_BYTES} bytes", _AGAIN)
    try:
        card = check_base(folder, bundle)
    except UserError as error:
        told = error.message.replace(f"{folder}/", "").replace(str(folder), folder.name)
        raise UserError(told, error.mend) from None
    except RecursionError:
        raise UserError(f"{CARD}: nested too deeply", _AGAIN) from None
    components = check_components(card, bundle)
    left = most_bytes
    for component in components:
        place = folder / "adapter" / component
        file = _inside(place / TENSORS, root)
        for other in place.iterdir():
            if other.name not in _KNOWN_FILES:
                raise UserError(
                    f"'{other.name[:80]}' does not belong into an adapter",
                    f"there may be {', '.join(sorted(_KNOWN_FILES))}: nothing else is ever opened",
                )
        left -= file.stat().st_size
        if left < 0:
            raise UserError(
                f"its tensors have more than {most_bytes} bytes", "the server's limit can be raised"
            )
        check_tensors(file, component)


def check_components(card: dict[str, Any], bundle: Bundle) -> list[str]:
    """The components that a card names, all of them parts of the base or of what trains beside it.

    Raises:
        UserError: a name that could be a path, or a hash that is none.
    """
    found = []
    for component, digest in card["components"].items():
        if not _COMPONENT.fullmatch(component) or ".." in component:
            raise UserError(f"{CARD} names a component that is no name", _AGAIN)
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise UserError(f"{CARD} gives no hash of '{component}'", _AGAIN)
        found.append(component)
    if not found:
        raise UserError(f"{CARD} names no tensors", _AGAIN)
    return found


def check_tensors(file: Path, what: str) -> int:
    """Look at a safetensors file's header: every tensor where and as large as it says, nothing else.

    Returns:
        Numbers in it.

    Raises:
        UserError: it is no such file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_HEADER_BYTES, size - 8):
            raise UserError(f"the tensors of '{what}' are no safetensors file", _AGAIN)
        text = stream.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        spans = sorted(_span(entry) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"the tensors of '{what}' have a torn header", _AGAIN) from None
    at, numbers = 0, 0
    for begin, end, count in spans:
        if begin != at:
            raise UserError(f"the tensors of '{what}' overlap or leave holes", _AGAIN)
        at, numbers = end, numbers + count
    if at != size - 8 - length or not spans or len(spans) > _TENSORS_MOST:
        raise UserError(f"the tensors of '{what}' are cut short, or too many", _AGAIN)
    return numbers


def _span(entry: Any) -> tuple[int, int, int]:
    begin, end = entry["data_offsets"]
    shape = entry["shape"]
    if not all(type(one) is int and one >= 0 for one in (begin, end, *shape)):
        raise ValueError("not whole numbers")
    count = math.prod(shape)
    if end - begin != count * _SIZES[entry["dtype"]]:
        raise ValueError("a tensor of another size")
    return begin, end, count


def _inside(file: Path, root: Path) -> Path:
    """A plain file that lies in ``root`` whichever links lead to it."""
    try:
        real = file.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise UserError(f"there is no {file.name}", "give the folder of an adapter") from None
    if not real.is_relative_to(root.resolve()) or not real.is_file():
        raise UserError(f"{file.name} leads out of the adapters folder", "copy it there") from None
    return file


__all__ = [
    "CARD",
    "CARD_BYTES",
    "TENSORS",
    "check_components",
    "check_folder",
    "check_name",
    "check_tensors",
]
