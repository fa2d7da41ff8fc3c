"""The process's global generators belong to the caller: seeded for a block, put back after it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def own_generators(seed: int | None = None) -> Iterator[None]:
    """Put Python's and NumPy's global generators back afterwards.

    Args:
        seed: what both start from within the block; None leaves them where they are.
    """
    python, legacy = random.getstate(), np.random.get_state()
    if seed is not None:
        random.seed(seed)
        np.random.seed(np.random.SeedSequence(seed).generate_state(4))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
