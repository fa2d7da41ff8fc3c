"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math

from tunesmith.config import TrainConfig


def warmup_steps(train: TrainConfig, total: int) -> int:
    """Steps of warm-up: a count if at least 1, else a share of the total."""
    count = train.warmup if train.warmup >= 1 else train.warmup * total
    return min(math.ceil(count), total)


def learning_rate(train: TrainConfig, step: int, total: int) -> float:
    """Rate of the optimizer step that follows ``step`` finished ones.

    Linear warm-up to the peak, then constant, linear to 0, or the half cosine of Loshchilov &
    Hutter 2017 (arXiv:1608.03983, eq. 5 without restarts).
    """
    warm = warmup_steps(train, total)
    if step < warm:
        return train.lr * (step + 1) / warm
    if train.schedule == "constant" or total == warm:
        return train.lr
    share = (step - warm) / (total - warm)
    if train.schedule == "linear":
        return train.lr * (1 - share)
    return train.lr * 0.5 * (1 + math.cos(math.pi * share))
