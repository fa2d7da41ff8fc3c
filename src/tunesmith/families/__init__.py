"""Model families: one file or folder each. ``find_base`` tells which family a base belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.families._bases import (
    EMBEDDED,
    Base,
    base_hash,
    find_base,
    fingerprint,
    weight_files,
)

if TYPE_CHECKING:
    from tunesmith.families._bundle import Bundle

__all__ = [
    "EMBEDDED",
    "Base",
    "base_hash",
    "base_limits",
    "find_base",
    "fingerprint",
    "load",
    "skeleton",
    "weight_files",
]


def load(
    base: Base,
    *,
    device: Any = "cpu",
    dtype: Any = None,
    quantize: str = "",
    double_quant: bool = True,
    compute: Any = None,
) -> Bundle:
    """Load a base through its family, weights and all.

    Args:
        base: which.
        device: where.
        dtype: of the weights; float32 by default.
        quantize: ``nf4`` puts the linears of its seams into 4 bits; they must stay frozen.
        double_quant: quantise the quantisation constants too.
        compute: precision of the products with quantised weights; float32 by default.
    """
    if not quantize:
        return base.family.load().load(base, device=device, dtype=dtype)
    import torch

    from tunesmith.families._quantize import quantize as pack

    bundle = base.family.load().load(base, device="cpu", dtype=dtype)
    pack(bundle, torch.device(device), double=double_quant, compute=compute or torch.float32)
    return bundle


def skeleton(base: Base) -> Bundle:
    """The base's modules without weights (on the meta device): for plans and checks."""
    return base.family.load().load(base, device="meta")


def base_limits(name: str) -> tuple[int, int, float]:
    """``(sample_rate_hz, channels, max_s)`` of a base, from its config files alone."""
    base = find_base(name)
    return base.family.load().limits(base)
