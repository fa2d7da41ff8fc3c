"""The engine that a base is served with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch

from tunesmith.errors import UserError
from tunesmith.families import find_base, load
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import check_base
from tunesmith.serve.attached import needs_turn
from tunesmith.serve.batch_engine import BatchEngine
from tunesmith.serve.request import Engine
from tunesmith.training.hardware import best_device, choose_dtype

Kind = Literal["auto", "tokens", "batch"]
WRITE_TOKENS = frozenset({"musicgen"})
"""Families with an engine of their own."""


def open_engine(
    base: str,
    *,
    slots: int = 8,
    device: str | torch.device | None = None,
    dtype: str = "auto",
    int8: bool = False,
    adapters: int = 16,
    rank: int = 64,
    kind: Kind = "auto",
    among: Iterable[str | Path] = (),
) -> Engine:
    """Load a base and put an engine before it; it is not started.

    A base that writes tokens gets a :class:`.token_engine.TokenEngine`: requests join between two tokens,
    and sound is streamed while it is written. All others get a :class:`.batch_engine.BatchEngine`.

    Args:
        base: its name, folder or id on the hub.
        slots: requests that are worked on at once.
        device: where; the best there is by default.
        dtype: of the weights: ``float32``, ``bfloat16`` ...; ``auto`` is float32 on a CPU, where a sound
            is then the same to the last bit, and what a GPU is good at on one.
        int8: hold the linears in 8 bits, on a CPU and in engines that can.
        adapters: that can be loaded at a time.
        rank: the largest of one of them.
        kind: ``batch`` for a base that writes tokens, too: slower, and streamed sound comes in one piece, but
            with full fine-tunes, in turns. ``auto`` is ``batch`` for it only if there is one ``among``.
        among: folders of adapters that may be asked for; others than this base's are ignored.

    Raises:
        UserError: no such base, or settings that do not go together.
    """
    found, where = find_base(base), torch.device(device or best_device())
    if int8 and where.type != "cpu":
        raise UserError(f"int8 is for CPUs, and this runs on {where}", "leave it out")
    on_cpu = dtype == "auto" and where.type == "cpu"
    precision = torch.float32 if on_cpu else choose_dtype(dtype, where)
    tokens = found.family.name in WRITE_TOKENS
    if kind == "tokens" and not tokens:
        raise UserError(f"family {found.family.name} writes no tokens", "use kind='batch'")
    if int8 and (kind == "batch" or not tokens):
        raise UserError(
            f"'{base}' is not served in 8 bits by this engine",
            "leave int8 out, or use kind='tokens'",
        )
    options: dict[str, Any] = {"slots": slots, "adapters": adapters, "rank": rank}
    bundle = load(found, device=where, dtype=precision)
    if tokens and kind == "auto" and not int8 and any(_in_turns(bundle, one) for one in among):
        kind = "batch"
    if tokens and kind != "batch":
        from tunesmith.serve.token_engine import TokenEngine  # brings MusicGen's library with it

        return TokenEngine(bundle, int8=int8, **options)
    return BatchEngine(bundle, **options)


def _in_turns(bundle: Bundle, folder: str | Path) -> bool:
    try:
        return needs_turn(check_base(Path(folder), bundle), bundle)
    except UserError:  # of another base, or torn, which is told when it is added
        return False


__all__ = ["WRITE_TOKENS", "Kind", "open_engine"]
