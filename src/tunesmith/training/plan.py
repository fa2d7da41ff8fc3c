"""What a run will take, before it is started: parameters, memory, disk, time.

Estimates from the configuration and the base's geometry, with one short measurement of how fast
this machine multiplies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.config import Loaded
from tunesmith.data.load import load_dataset
from tunesmith.families import find_base, skeleton, weight_files
from tunesmith.families._bundle import Bundle
from tunesmith.registry import plugin
from tunesmith.training.hardware import best_device, choose_dtype, free_memory_bytes, products_per_s
from tunesmith.training.run import intervals

_RUNTIME_BYTES = 450e6  # Python, torch and transformers themselves, on the CPU
_EFFICIENCY = 0.45  # of the measured rate of large products, in a whole training step
_STEP_S = 0.01  # a step's share that does not depend on the clips


def _activation_bytes(bundle: Bundle, tokens: float, bytes_each: int) -> float:
    """What a forward pass keeps: about 10 widths an attention pair, 2 inner widths a feed-forward."""
    total = 0.0
    for site in bundle.sites:
        if site.role in ("self_attention", "cross_attention"):
            total += 6 * site.width
        elif site.role == "feed_forward":
            down: Any = bundle.components[site.component].get_submodule(site.output)
            total += 2 * site.width + 2 * int(down.weight.shape[1])
    return tokens * total * bytes_each


def dry_run(loaded: Loaded) -> str:
    """A short page on what the run will take."""
    config = loaded.config
    base = find_base(config.base.name, config.base.revision)
    bundle = skeleton(base)
    method = plugin("methods", config.method["name"]).load()
    device = best_device()
    dtype = choose_dtype(config.base.dtype, device)
    clips = [clip for clip in load_dataset(config.data.path) if clip.split == "train"]
    train = config.train
    total = sum(p.numel() for p in bundle.module.parameters())
    trainable = method.parameter_count(bundle, loaded.method_config)
    seconds = [min(clip.duration_s, bundle.max_s) for clip in clips]
    longest = max(seconds)
    steps = intervals(config, len(clips)).total

    half = 2 if dtype.itemsize == 2 else 4
    weights = (
        sum(file.stat().st_size for file in weight_files(base.path)) if not total else 4.0 * total
    )
    training = trainable * (4 + 8) + (
        4 * trainable if method.SPEC["identity_at_start"] and trainable > total / 3 else 0
    )
    layers = len({site.layer for site in bundle.sites if site.layer >= 0})
    tokens = train.batch_size * longest * bundle.frame_rate_hz
    activations = _activation_bytes(bundle, tokens, half)
    if train.activation_checkpointing:
        activations /= max(1, layers / 2)
    memory = weights + training + activations + (_RUNTIME_BYTES if device.type == "cpu" else 0)

    products = sum(
        p.numel()
        for site in bundle.sites
        if site.layer >= 0
        for path in (*site.inputs.values(), site.output)
        if path
        for p in bundle.components[site.component].get_submodule(path).parameters()
    )
    passes = 3 if trainable > total / 3 else 2
    if train.activation_checkpointing:
        passes += 1
    per_step = (
        train.batch_size * train.accumulate * (sum(seconds) / len(seconds)) * bundle.frame_rate_hz
    )
    rate = products_per_s(device, dtype) * _EFFICIENCY
    step_s = _STEP_S + passes * products * per_step / rate
    checkpoint = trainable * (4 + 8) * (train.keep_checkpoints + 1)
    lines = [
        f"base        {base.name} ({base.family.name}), {total:,} parameters, licence {base.licence}",
        f"method      {config.method['name']}: {trainable:,} trainable parameters ({100 * trainable / total:.2f} %)",
        f"data        {len(clips)} training clips, {sum(seconds) / 60:.1f} minutes, longest {longest:.1f} s",
        f"steps       {steps} of {train.batch_size * train.accumulate} clips "
        f"({steps * train.batch_size * train.accumulate / len(clips):.1f} epochs)",
        f"memory      about {memory / 2**30:.1f} GiB on {device} ({free_memory_bytes(device) / 2**30:.1f} GiB free)",
        f"disk        about {(checkpoint + 4 * trainable) / 2**20:.0f} MiB under {Path(config.out)}",
        f"time        about {_clock(steps * step_s)} ({step_s:.2f} s a step, {str(dtype).removeprefix('torch.')})",
    ]
    if base.non_commercial:
        lines.append(f"warning     the base's weights are {base.licence}: no commercial use")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
