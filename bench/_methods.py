"""One training of ``bench.methods``, in a worker process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import load_config
from tunesmith.errors import UserError
from tunesmith.formats.adapter import read_card
from tunesmith.training.log import read_metrics
from tunesmith.training.run import train
from tunesmith.training.signals import StopFlag


def train_one(*, settings: dict[str, Any], stop: StopFlag, on_event: Any) -> dict[str, Any]:
    """Train unless it was done with these settings; what it took and what it gave."""
    folder = Path(settings["out"])
    told = folder / "bench.json"
    if told.is_file():
        found = json.loads(told.read_text())
        if found.get("settings", settings) == json.loads(json.dumps(settings)):
            return found
        raise UserError(f"{folder} was trained with other settings", "remove it and its takes")
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    loaded = load_config(settings=lists)
    result = train(loaded, resume=(folder / "checkpoints").is_dir(), stop=stop, on_event=on_event)
    card, lines = read_card(folder), read_metrics(folder / "metrics.jsonl")
    kept = next(x for x in lines if x["kind"] == "valid" and x["step"] == card["step"])
    losses = card["metrics"]
    found = {
        "general_before": losses["general_loss"]["base"],
        "general_after": kept["general_loss"],
        "loss_before": losses["validation_loss"]["base"],
        "loss_after": losses["validation_loss"]["adapted"],
        "parameters": result.trainable_parameters,
        "peak_bytes": result.peak_memory_bytes,
        "train_s": sum(x.get("seconds", 0.0) for x in lines if x["kind"] == "train"),
        "kept_step": card["step"],
        "threads": torch.get_num_threads(),
        "settings": settings,
    }
    told.write_text(json.dumps(found))
    return found
