"""The batch that fits: as many clips a forward pass as memory takes, as many a step as were asked for."""

from __future__ import annotations

import dataclasses

from tunesmith.config import Loaded
from tunesmith.families import find_base
from tunesmith.training.hardware import best_device, choose_dtype, free_memory_bytes
from tunesmith.training.parallel import Parallel
from tunesmith.training.plan_memory import empty_bundle, memory

_USED = 0.9
"""Share of the free memory that a run may count on."""


def with_batch(loaded: Loaded, size: int) -> Loaded:
    """The configuration with ``size`` clips a pass, and as many passes as keep the clips of a step."""
    train = loaded.config.train
    sizes = {"batch_size": size, "accumulate": train.batch_size * train.accumulate // size}
    changed = train.model_copy(update=sizes | {"fit_batch": False})
    config = loaded.config.model_copy(update={"train": changed})
    return dataclasses.replace(loaded, config=config)


def fitted(loaded: Loaded, parallel: Parallel, free_bytes: int | None = None) -> Loaded:
    """The configuration with the largest batch that the plan says fits, if that was asked for.

    A step has the clips that it would have without, ``train.batch_size * train.accumulate``: larger
    passes are faster and the same training. Other streams with batches of their own are what would
    not stay the same: then nothing is changed.

    Args:
        loaded: the configuration.
        parallel: the processes that share each pass out; the leader decides.
        free_bytes: of a device; by default what is free on this one now.

    Raises:
        UserError: the plan cannot tell what this configuration takes.
    """
    from tunesmith.training.plan import material_of, request_of  # which asks the run for its length

    config, train = loaded.config, loaded.config.train
    if not train.fit_batch:
        return loaded
    clips = train.batch_size * train.accumulate
    own = config.prior.batch_size if config.prior.weight > 0 else None
    if own or (config.replay.path and config.replay.batch_size):
        return with_batch(loaded, train.batch_size)

    def largest() -> int:
        device = best_device()
        limit = _USED * (free_bytes or free_memory_bytes(device))
        if not limit:  # the system does not tell
            return train.batch_size
        base = find_base(config.base.name, config.base.revision, weights=False)
        material = material_of(loaded, empty_bundle(base).max_s, None, None)
        dtype = choose_dtype(config.base.dtype, device)
        kind = "cuda" if device.type == "cuda" else "cpu"
        for size in range(clips, 1, -1):
            if clips % size or size > material.clips:
                continue
            # What one of the processes sees of a pass.
            tried = with_batch(loaded, size)
            share = tried.config.train.model_copy(update={"batch_size": -(-size // parallel.world)})
            mine = dataclasses.replace(
                tried, config=tried.config.model_copy(update={"train": share})
            )
            if memory(request_of(mine, base, material, kind, dtype)).peak <= limit:
                return size
        return 1

    return with_batch(loaded, parallel.lead(largest))


__all__ = ["fitted", "with_batch"]
