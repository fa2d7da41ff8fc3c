"""An adapter's tensors as they lie in the page cache: nothing is copied before it is asked for.

The library's own reader makes each tensor one by one, which takes longer than copying them all. What this
one does not take for granted, it leaves to that reader, which says what is wrong.
"""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.formats.adapter import load_files, read_card, tensors_file
from tunesmith.methods._adapter import State

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def mapped_files(folder: Path) -> State:
    """As :func:`tunesmith.formats.adapter.load_files`, without a copy.

    Raises:
        UserError: a file is missing or torn.
    """
    try:
        return {one: _mapped(tensors_file(folder, one)) for one in read_card(folder)["components"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return load_files(folder)


def _mapped(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: a length, a JSON header, then the numbers.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RuntimeError: anything is not as it usually is.
    """
    with file.open("rb") as stream:
        # Copied on writing, which nobody does: torch wants memory that could be written to.
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    begin = 8 + int.from_bytes(memory[:8], "little")
    header: dict[str, dict[str, Any]] = json.loads(memory[8:begin])
    header.pop("__metadata__", None)
    numbers = torch.frombuffer(memory, dtype=torch.uint8, offset=begin)
    found, end = {}, 0
    for name, told in sorted(header.items(), key=lambda one: one[1]["data_offsets"]):
        kind, shape, (first, last) = _TYPES[told["dtype"]], told["shape"], told["data_offsets"]
        size = math.prod(shape) * kind.itemsize
        if first != end or last - first != size or (begin + first) % kind.itemsize:
            raise ValueError(f"{name} lies at {first}:{last}")
        found[name] = numbers[first:last].view(kind).view(shape)
        end = last
    if end != len(numbers):
        raise ValueError(f"{len(numbers)} bytes, {end} of them are told of")
    return found


__all__ = ["mapped_files"]
