"""Which clips make which batch, and with which caption: a pure function of seed, epoch and lengths.

Nothing is drawn from a running generator, so the position in the data is the step number and
nothing else; a restart, another batch size or another number of processes cannot shift it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from tunesmith.types import Example


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from any parts, the same on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def with_drawn_caption(example: Example, seed: int) -> Example:
    """The example with one of its captions, each as likely; ``seed`` is the example's own."""
    texts = (example.text, *example.further)
    if len(texts) == 1:
        return example
    return replace(example, text=texts[stable_seed("caption", seed) % len(texts)], further=())


class Sampler:
    """Batches of clip indices.

    Args:
        lengths: frames of each clip.
        batch_size: clips a batch, over all processes; the last batch of an epoch may be smaller.
        seed: the run's seed.
        bucket: group clips of similar length, so that little is padding. Shuffling happens within
            a neighbourhood of lengths and over the batches, so every epoch still differs.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, bucket: bool = True
    ) -> None:
        if not lengths:
            raise ValueError("no clips")
        self.lengths = tuple(lengths)
        self.batch_size = min(batch_size, len(self.lengths))
        self.seed = seed
        self.bucket = bucket
        self.batches_per_epoch = -(-len(self.lengths) // self.batch_size)

    @lru_cache(maxsize=2)  # noqa: B019 - one sampler lives as long as its run
    def epoch(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        """All batches of an epoch; every clip stands in exactly one."""
        draw = random.Random(stable_seed(self.seed, "order", epoch))
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        if self.bucket:
            # Sorting within large chunks of the shuffled order keeps lengths alike and neighbours new.
            chunk = self.batch_size * 50
            order = [
                index
                for start in range(0, len(order), chunk)
                for index in sorted(order[start : start + chunk], key=lambda i: self.lengths[i])
            ]
        size = self.batch_size
        batches = [tuple(order[start : start + size]) for start in range(0, len(order), size)]
        if self.bucket:
            draw.shuffle(batches)
        return tuple(batches)

    def batch(self, number: int) -> tuple[int, tuple[int, ...]]:
        """``(epoch, clip indices)`` of the batch with this running number."""
        epoch, index = divmod(number, self.batches_per_epoch)
        return epoch, self.epoch(epoch)[index]
