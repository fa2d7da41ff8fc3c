"""AdamW, in the precision that memory allows, with a rate of its own for every parameter that needs one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tunesmith.config import TrainConfig
from tunesmith.errors import UserError


def build_optimizer(
    names: Mapping[str, nn.Parameter], rates: Mapping[str, float], train: TrainConfig
) -> torch.optim.Optimizer:
    """The optimizer of a run; each group's ``factor`` is its share of the common learning rate.

    Args:
        names: trainable parameters.
        rates: factors of the learning rate, 1 for whatever is not named.
        train: settings.

    Raises:
        UserError: an 8-bit optimizer without bitsandbytes, or on a device that it has no kernels for.
    """
    groups = _groups(names, rates, train.weight_decay)
    device = next(iter(names.values())).device
    if train.optimizer == "adamw":
        # One pass over weights, gradients and moments; list by list it is ten, and copies of them.
        fused = device.type in ("cpu", "cuda")
        kernel: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
        return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, **kernel)
    if device.type != "cuda":
        raise UserError(
            f"train.optimizer={train.optimizer} needs a CUDA device, this is {device.type}",
            "set train.optimizer=adamw",
        )
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            f"train.optimizer={train.optimizer} needs bitsandbytes",
            "pip install 'tunesmith[quantize]'",
        ) from None
    paged = train.optimizer == "paged_adamw_8bit"
    kind: Any = bitsandbytes.optim.PagedAdamW8bit if paged else bitsandbytes.optim.AdamW8bit
    return kind(groups, lr=train.lr, betas=train.betas)


def _groups(
    names: Mapping[str, nn.Parameter], rates: Mapping[str, float], decay: float
) -> list[dict[str, Any]]:
    """Weight decay for matrices only: pulling norms and biases to zero helps nothing."""
    found: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in names.items():
        # Those that are split over processes are not updated in one call with others.
        split = hasattr(parameter, "device_mesh")
        key = (decay if parameter.ndim >= 2 else 0.0, rates.get(name, 1.0), split)
        found.setdefault(key, []).append(parameter)
    ordered = sorted(found.items(), key=lambda item: (-item[0][0], -item[0][1]))
    return [
        {"params": some, "weight_decay": decayed, "factor": factor}
        for (decayed, factor, _), some in ordered
    ]
