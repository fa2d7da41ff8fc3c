"""What a loop is given, and what changes while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.training.streams import Stream
from tunesmith.types import Example


@dataclass(slots=True)
class State:
    """What changes while training, beside tensors.

    Attributes:
        step: optimizer steps finished.
        best_aim: the lowest of what the weights are chosen by: the validation loss, or a judge's score
            with its sign turned.
        best_loss, best_step: validation loss and step of the weights that had it.
        without_progress: validations since then.
        bad_steps, bad_in_a_row: steps skipped for NaN or inf.
        evaluated_at, previewed_at, saved_at: last step at which that was done.
        first_loss, first_general: validation and general loss of the base.
        last_loss, last_general: of the newest validation.
        first_anchor, last_anchor: the same of what the base made of itself.
        first_judged, best_judged: figures of a judge, of the base and of the weights with the best score.
        train_s: seconds spent in training steps.
        log_offset: bytes of the metric log.
        stopped_early: early stopping has ended the run.
        rate_factor: share of the configured learning rate that is left.
        rollbacks: times that the run went back to an earlier state.
        good: steps whose states are kept to go back to.
        replaying: the reserve is trained on, too.
        pitfalls: what was found, plain data.
        watch: what the watchers remember.
    """

    step: int = 0
    best_aim: float = math.inf
    best_loss: float = math.inf
    best_step: int = -1
    without_progress: int = 0
    bad_steps: int = 0
    bad_in_a_row: int = 0
    evaluated_at: int = -1
    previewed_at: int = -1
    saved_at: int = -1
    first_loss: float | None = None
    first_general: float | None = None
    last_loss: float | None = None
    last_general: float | None = None
    first_anchor: float | None = None
    last_anchor: float | None = None
    first_judged: dict[str, float] | None = None
    best_judged: dict[str, float] | None = None
    train_s: float = 0.0
    log_offset: int = 0
    stopped_early: bool = False
    rate_factor: float = 1.0
    rollbacks: int = 0
    good: list[int] = field(default_factory=list)
    replaying: bool = False
    pitfalls: list[dict[str, Any]] = field(default_factory=list)
    watch: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Intervals:
    """Total steps, and steps between recurring work; 0 is never."""

    total: int
    evaluate: int
    checkpoint: int
    preview: int


@dataclass(frozen=True, slots=True)
class Sets:
    """The encoded clips of a run; each entry is fetched when it is needed.

    Attributes:
        train: what is trained on, the clips to be learned first.
        valid: clips that say how well they are learned.
        general: clips that say what is forgotten.
        anchor: clips of the base's own making, which say it, too.
        reserve: what may be trained on besides, should the base be forgotten.
    """

    train: Sequence[Stream]
    valid: Sequence[Example]
    general: Sequence[Example]
    anchor: Sequence[Example] = ()
    reserve: Stream | None = None
