"""The words between watchers and the loop: what is seen, what is found, what may be done about it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["", "roll_back", "stop", "replay"]
"""What a finding asks the loop for; empty if nothing but to be told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A pitfall, and the way out of it.

    Attributes:
        name: of the pitfall: ``learning_rate``, ``too_long``, ``homogeneous``, ``forgetting``,
            ``captions``.
        message: what was measured, in plain words with its numbers.
        mend: the exact setting to change.
        action: what the loop should do, if it may.
        values: the numbers, plain data.
        since: the first step that shows the symptom; weights from before it count as good.
    """

    name: str
    message: str
    mend: str
    action: Action = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    since: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step showed.

    Attributes:
        step: steps finished, this one included.
        loss: training loss of the clips to be learned, before the step.
        grad_norm: of all trained parameters, before clipping.
        peak: learning rate at the schedule's top: the configured one, or what is left of it after a
            roll back.
        good: the step was made; false if it was skipped for NaN or inf.
        clips: that the loss is the mean of.
    """

    step: int
    loss: float
    grad_norm: float
    peak: float
    good: bool = True
    clips: int = 1


@dataclass(frozen=True, slots=True)
class Validation:
    """Losses of clips that are not trained on: ``loss``, ``general_loss``, ``anchor_loss``.

    Attributes:
        step: steps finished.
        losses: means over the clips of each kind.
        scatter: standard deviation of ``loss`` from clip to clip; None of fewer than two clips.
    """

    step: int
    losses: Mapping[str, float]
    scatter: float | None = None


@dataclass(frozen=True, slots=True)
class Sound:
    """What one preview sounds like.

    Attributes:
        level_db: root mean square in dB of full scale, −120 at the least.
        movement_db: how much it changes: mean over mel bands of the deviation over time.
        place_db: where it lies among sounds (the embedding of ``tunesmith check``, in dB), for
            distances between previews.
    """

    level_db: float
    movement_db: float
    place_db: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """The previews of one step, one a prompt."""

    step: int
    sounds: Sequence[Sound]


class Watcher:
    """One pitfall. All that it remembers is plain data in ``memory``, which the run's state holds: a
    run that was killed and resumed, or rolled back, goes on with what was known then."""

    name: str

    def __init__(self) -> None:
        self.memory: dict[str, Any] = self.fresh()

    def fresh(self) -> dict[str, Any]:
        """The memory of one that has seen nothing."""
        return {}

    @property
    def calm(self) -> bool:
        """Whether nothing looks suspicious just now: only then is a state kept as a good one."""
        return True

    def after_step(self, seen: Step) -> Finding | None:
        """Called after every optimizer step."""
        return None

    def after_validation(self, seen: Validation) -> Finding | None:
        """Called after every validation, that of the start included."""
        return None

    def after_preview(self, heard: Heard) -> Finding | None:
        """Called after every preview, that of the base (step 0) included."""
        return None


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and 1.4826 times the median distance from it.

    The latter estimates the standard deviation of normal values, and outliers hardly move it
    (Rousseeuw and Croux 1993, "Alternatives to the Median Absolute Deviation").
    """
    middle = statistics.median(values)
    return middle, 1.4826 * statistics.median(abs(value - middle) for value in values)
