"""Training state in one safetensors file: weights, optimizer moments, running averages, counters. No pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.AdamW | None,
    counters: dict[str, float],
    extra: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write everything to a temporary file, then rename: a kill leaves the last good checkpoint."""
    tensors = {f"model.{k}": v.detach().contiguous().clone() for k, v in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
        for key in ("exp_avg", "exp_avg_sq", "step"):
            if key in state:
                tensors[f"optimizer.{key}.{name}"] = state[key].detach().clone()
    tensors |= {f"extra.{k}": v.detach().contiguous().clone() for k, v in (extra or {}).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata={"counters": json.dumps(counters)})
    os.replace(temporary, path)


def load(
    path: Path, model: nn.Module, optimizer: torch.optim.AdamW | None = None
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Restore model and optimizer in place; returns the counters and the extra tensors."""
    weights: dict[str, torch.Tensor] = {}
    moments: dict[str, dict[str, torch.Tensor]] = {}
    extra: dict[str, torch.Tensor] = {}
    with safe_open(str(path), framework="pt") as file:
        counters = json.loads((file.metadata() or {})["counters"])
        for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
            kind, rest = key.split(".", 1)
            if kind == "model":
                weights[rest] = file.get_tensor(key)
            elif kind == "extra":
                extra[rest] = file.get_tensor(key)
            else:
                moment, name = rest.split(".", 1)
                moments.setdefault(name, {})[moment] = file.get_tensor(key)
    model.load_state_dict(weights)
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            if name in moments:
                # AdamW keeps its step counter on the CPU.
                moved = {
                    k: v if k == "step" else v.to(parameter.device)
                    for k, v in moments[name].items()
                }
                optimizer.state[parameter] = moved  # type: ignore[assignment]
    return counters, extra
