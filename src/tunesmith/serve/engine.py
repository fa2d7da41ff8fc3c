"""The engine that a base is served with."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.errors import UserError
from tunesmith.families import find_base, load
from tunesmith.serve.batch_engine import BatchEngine
from tunesmith.serve.request import Engine
from tunesmith.training.hardware import best_device, choose_dtype


def open_engine(
    base: str,
    *,
    slots: int = 8,
    device: str | torch.device | None = None,
    dtype: str = "auto",
    int8: bool = False,
    adapters: int = 16,
    rank: int = 64,
) -> Engine:
    """Load a base and put an engine before it; it is not started.

    Args:
        base: its name, folder or id on the hub.
        slots: requests that are worked on at once.
        device: where; the best there is by default.
        dtype: of the weights: ``float32``, ``bfloat16`` ...; ``auto`` is float32 on a CPU, where a sound
            is then the same to the last bit, and what a GPU is good at on one.
        int8: hold the linears in 8 bits, on a CPU and in engines that can.
        adapters: that can be loaded at a time.
        rank: the largest of one of them.

    Raises:
        UserError: no such base, or settings that do not go together.
    """
    found, where = find_base(base), torch.device(device or best_device())
    if int8 and where.type != "cpu":
        raise UserError(f"int8 is for CPUs, and this runs on {where}", "leave --int8 out")
    auto = dtype == "auto" and where.type == "cpu"
    precision = torch.float32 if auto else choose_dtype(dtype, where)
    bundle = load(found, device=where, dtype=precision)
    options: dict[str, Any] = {"slots": slots, "adapters": adapters, "rank": rank}
    if int8:
        raise UserError(f"family {bundle.family} is not served in int8", "leave --int8 out")
    return BatchEngine(bundle, **options)


__all__ = ["open_engine"]
