"""The loss of clips that are not trained on: the same number for the same weights and clips."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from tunesmith.families._bundle import Bundle
from tunesmith.randomness import own_generators
from tunesmith.training.sampler import stable_seed
from tunesmith.types import Batch, Example, Loss


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators: library modules draw from all three."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Put all three generators back afterwards: a caller's own numbers are none of ours."""
    with torch.random.fork_rng(), own_generators():
        yield


def forward(bundle: Bundle, batch: Batch, dtype: torch.dtype) -> Loss:
    """The loss of a batch, computed on the bundle's device in a precision."""
    device = bundle.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return bundle.module(batch.to(device))


def mean_loss(
    bundle: Bundle,
    examples: Sequence[Example],
    batch_size: int,
    compute: Callable[[Batch], Loss],
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Mean loss in nats a code, and each term's.

    Args:
        bundle: the base, adapted or not.
        examples: clips.
        batch_size: clips a forward pass.
        compute: loss of a batch; :func:`forward` in some precision.
        check_stop: called before each batch; raises to leave.
    """
    order = sorted(range(len(examples)), key=lambda index: examples[index].frames)
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    was_training = bundle.module.training
    bundle.module.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            check_stop()
            some = [examples[index] for index in order[start : start + batch_size]]
            seeds = [stable_seed("valid", example.clip_id) for example in some]
            seed_everything(stable_seed("valid", start))
            for name, (total, count) in compute(bundle.collate(some, seeds)).items():
                sums[name] = sums.get(name, 0.0) + float(total.double().sum())
                counts[name] = counts.get(name, 0.0) + float(count.double().sum())
    bundle.module.train(was_training)
    terms = {name: sums[name] / counts[name] for name in sums}
    weights = bundle.term_weights
    whole = sum(weights.get(name, 1.0) * value for name, value in terms.items())
    return {"loss": whole} | terms
