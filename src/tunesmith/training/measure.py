"""The loss of clips that are not trained on: the same number for the same weights and clips."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from tunesmith.families._bundle import Bundle
from tunesmith.randomness import own_generators
from tunesmith.training.parallel import ALONE, Parallel
from tunesmith.training.sampler import stable_seed
from tunesmith.types import Batch, Example, Loss

DRAWS = 4
"""Samples of noise and time that a clip is measured with, where a family's loss draws them. They are
the same each time, so that two states of a model are compared on the same noise."""


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


def forward(
    bundle: Bundle,
    batch: Batch,
    dtype: torch.dtype,
    module: Callable[[Batch], Loss] | None = None,
) -> Loss:
    """The loss of a batch, computed on the bundle's device in a precision.

    ``module`` is called in the place of the bundle's own: what a run on several devices wraps it in.
    """
    device = bundle.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return (module or bundle.module)(batch.to(device))


def mean_loss(
    bundle: Bundle,
    examples: Sequence[Example],
    batch_size: int,
    compute: Callable[[Batch], Loss],
    check_stop: Callable[[], None] = lambda: None,
    parallel: Parallel = ALONE,
) -> dict[str, float]:
    """Mean loss in nats a code, and each term's.

    Args:
        bundle: the base, adapted or not.
        examples: clips.
        batch_size: clips a forward pass.
        compute: loss of a batch; :func:`forward` in some precision.
        check_stop: called before each batch; raises to leave.
        parallel: the processes that share the batches out. They are those of one process, so the
            numbers are, too.
    """
    return mean_of(clip_losses(bundle, examples, batch_size, compute, check_stop, parallel), bundle)


Terms = Mapping[str, tuple[float, float]]
"""Of one clip: ``{term: (sum, count)}``."""


def mean_of(clips: Sequence[Terms], bundle: Bundle) -> dict[str, float]:
    """What :func:`mean_loss` returns, of clips that were measured."""
    terms: dict[str, list[tuple[float, float]]] = {}
    for clip in clips:
        for name, both in clip.items():
            terms.setdefault(name, []).append(both)
    means = {
        name: sum(total for total, _ in found) / sum(count for _, count in found)
        for name, found in terms.items()
    }
    weights = bundle.term_weights
    whole = sum(weights.get(name, 1.0) * value for name, value in means.items())
    return {"loss": whole} | means


def scatter_of(clips: Sequence[Terms], bundle: Bundle) -> float | None:
    """Standard deviation of the loss from clip to clip; None of fewer than two."""
    each = [mean_of([clip], bundle)["loss"] for clip in clips]
    return statistics.stdev(each) if len(each) > 1 else None


def clip_losses(
    bundle: Bundle,
    examples: Sequence[Example],
    batch_size: int,
    compute: Callable[[Batch], Loss],
    check_stop: Callable[[], None] = lambda: None,
    parallel: Parallel = ALONE,
) -> list[dict[str, tuple[float, float]]]:
    """``{term: (sum, count)}`` of each clip, in their order; arguments as of :func:`mean_loss`."""
    order = sorted(range(len(examples)), key=lambda index: examples[index].frames)
    found: list[dict[str, tuple[float, float]]] = [{} for _ in examples]
    was_training = bundle.module.training
    bundle.module.eval()
    with torch.no_grad(), parallel.together():
        for start in parallel.share(range(0, len(order), batch_size)):
            check_stop()
            places = order[start : start + batch_size]
            some = [examples[index] for index in places]
            for draw in range(DRAWS if bundle.draws_noise else 1):
                more = (draw,) if draw else ()
                seeds = [stable_seed("valid", example.clip_id, *more) for example in some]
                seed_everything(stable_seed("valid", start, *more))
                for name, (total, count) in compute(bundle.collate(some, seeds)).items():
                    both = zip(total.double().tolist(), count.double().tolist(), strict=True)
                    for index, (own, size) in zip(places, both, strict=True):
                        before = found[index].get(name, (0.0, 0.0))
                        found[index][name] = (before[0] + own, before[1] + size)
    bundle.module.train(was_training)
    shares = parallel.told(found)
    return [
        {name: (both[0], both[1]) for name, both in next(filter(None, clip)).items()}
        for clip in zip(*shares, strict=True)
    ]
