"""The speaker's vector: what it is given as, and what stands for it where none is given.

A vector is an x-vector of the voice (Snyder et al. 2018), of as many numbers as the base says (512): for
Microsoft's checkpoint that of ``speechbrain/spkrec-xvect-voxceleb``. It is normalised to length 1 here
as in the model, so that a mean of several is a mean of directions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.types import Details

COLUMN = "speaker"
_MEND = "give the numbers as [0.1, ...], or a .json or .safetensors file with them"


def read(details: Details | None, size: int, default: Tensor) -> Tensor:
    """The vector ``[size]`` that is said in ``speaker``, of length 1, or the default.

    Args:
        details: of a clip or prompt. ``speaker`` is text: a JSON list, or the name of a file that holds
            one, or the one tensor of a .safetensors file. In a data set it has to be the list itself:
            what is encoded is kept by what the row says.
        size: numbers that the base wants.
        default: what stands where nothing is said.

    Raises:
        UserError: something else is said, or cannot be read.
    """
    for name in details or {}:
        if name not in (COLUMN, "duration_s"):
            raise UserError(f"SpeechT5 is not told '{name}'", f"it is told: {COLUMN}")
    given = (details or {}).get(COLUMN)
    if given is None or (isinstance(given, str) and not given.strip()):
        return default
    if not isinstance(given, str):
        raise UserError(f"a speaker is no {type(given).__name__} ({given})", _MEND)
    text = given.strip()
    return vector(_listed(text, "the speaker") if text.startswith("[") else _file(text), size)


def vector(values: Any, size: int) -> Tensor:
    """``[size]`` float32 of length 1; zeros stay zeros.

    Raises:
        UserError: these are not as many finite numbers as the base wants.
    """
    try:
        found = torch.as_tensor(values, dtype=torch.float32).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise UserError("a speaker's vector that is no list of numbers", _MEND) from None
    if len(found) != size:
        raise UserError(
            f"a speaker's vector of {len(found)} numbers, where the base wants {size}",
            "give the x-vector of the encoder that the base was trained with",
        )
    if not bool(found.isfinite().all()):
        raise UserError("a speaker's vector that is not finite", "compute it again")
    return found / found.norm().clamp(min=1e-12)


def mean(vectors: Sequence[Tensor]) -> Tensor:
    """The direction between several vectors ``[E]``, of length 1."""
    return vector(torch.stack(list(vectors)).mean(dim=0), len(vectors[0]))


def _file(name: str) -> Any:
    path = Path(name).expanduser()
    try:
        if path.suffix == ".safetensors":
            (tensor,) = load_file(path).values()
            return tensor
        return _listed(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise UserError(f"speaker '{name[:60]}' cannot be read ({error})", _MEND) from None
    except ValueError:
        raise UserError(f"{path}: not the one vector of a speaker", _MEND) from None


def _listed(text: str, where: str) -> list[Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is no JSON ({error})", _MEND) from None
    if not isinstance(found, list) or any(
        not isinstance(one, int | float) or not math.isfinite(one) for one in found
    ):
        raise UserError(f"{where} is no list of numbers", _MEND)
    return found
