from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.training.sampler import Sampler, stable_seed, with_drawn_caption
from tunesmith.types import Example

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=60)


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**40), st.booleans(), st.integers(0, 50))
def test_every_clip_once_an_epoch(
    lengths: list[int], batch_size: int, seed: int, bucket: bool, epoch: int
):
    sampler = Sampler(lengths, batch_size, seed, bucket)
    batches = sampler.epoch(epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    size = min(batch_size, len(lengths))
    assert all(0 < len(batch) <= size for batch in batches)
    assert sum(len(batch) < size for batch in batches) <= 1
    assert len(batches) == sampler.batches_per_epoch
    for index, batch in enumerate(batches):
        assert sampler.batch(epoch * len(batches) + index) == (epoch, batch)


@settings(max_examples=30)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**40), st.booleans())
def test_a_function_of_seed_and_position_alone(
    lengths: list[int], batch_size: int, seed: int, bucket: bool
):
    first = Sampler(lengths, batch_size, seed, bucket)
    state = random.getstate()
    forwards = [first.batch(number) for number in range(12)]
    backwards = [Sampler(lengths, batch_size, seed, bucket).batch(n) for n in reversed(range(12))]
    assert forwards == backwards[::-1]
    assert random.getstate() == state


def test_epochs_and_seeds_differ():
    lengths = list(range(1, 41))
    one = Sampler(lengths, 4, 0)
    assert len({one.epoch(epoch) for epoch in range(5)}) == 5
    assert one.epoch(0) != Sampler(lengths, 4, 1).epoch(0)
    # It is not the same groups in another order either.
    assert len({frozenset(map(frozenset, one.epoch(epoch))) for epoch in range(5)}) >= 1
    plain = Sampler([7] * 40, 4, 0)
    assert len({frozenset(map(frozenset, plain.epoch(epoch))) for epoch in range(5)}) == 5


def padding(sampler: Sampler) -> float:
    """Share of a padded epoch that is padding."""
    whole = real = 0
    for batch in sampler.epoch(0):
        lengths = [sampler.lengths[index] for index in batch]
        whole, real = whole + max(lengths) * len(lengths), real + sum(lengths)
    return 1 - real / whole


def test_bucketing_groups_lengths():
    draw = random.Random(0)
    lengths = [draw.randint(500, 1500) for _ in range(400)]
    assert padding(Sampler(lengths, 4, 0, bucket=True)) < 0.02
    assert padding(Sampler(lengths, 4, 0, bucket=False)) > 0.15


def test_bucketed_batches_do_not_come_in_order_of_length():
    sampler = Sampler(list(range(1, 101)), 4, 0)
    means = [sum(batch) / len(batch) for batch in sampler.epoch(0)]
    assert means != sorted(means)


def test_stable_seeds():
    assert stable_seed("a", 1) == stable_seed("a", 1)
    assert len({stable_seed(a, b) for a in range(30) for b in range(30)}) == 900
    assert stable_seed(1, 11) != stable_seed(11, 1)
    assert all(0 <= stable_seed(n) < 2**63 for n in range(200))
    code = "from tunesmith.training.sampler import stable_seed; print(stable_seed('clip', 3, 0.5))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(done.stdout) == stable_seed("clip", 3, 0.5)


def test_no_clips():
    with pytest.raises(ValueError, match="no clips"):
        Sampler([], 4, 0)


def test_each_caption_of_a_clip_is_drawn_about_as_often():
    texts = [{"ids": torch.tensor([number])} for number in range(3)]
    example = Example("clip", torch.zeros(1, 4), texts[0], texts[1:])
    drawn = [int(with_drawn_caption(example, seed).text["ids"]) for seed in range(3000)]
    counts = np.bincount(drawn, minlength=3)
    assert (np.abs(counts - 1000) < 120).all()
    assert drawn == [int(with_drawn_caption(example, seed).text["ids"]) for seed in range(3000)]


def test_a_clip_with_one_caption_keeps_it():
    example = Example("clip", torch.zeros(1, 4), {"ids": torch.tensor([7])})
    assert with_drawn_caption(example, 5) is example
