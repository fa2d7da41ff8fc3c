"""Learning rate too high: the loss jumps, stays above its start, or previews fall silent."""

from __future__ import annotations

import math
import statistics
from typing import Any

from tunesmith.training.pitfalls.finding import (
    Finding,
    Heard,
    Sound,
    Step,
    Validation,
    Watcher,
    spread,
)
from tunesmith.training.pitfalls.sounds import SILENT_DB

WINDOW = 30
"""Ordinary steps that a step is compared with."""

FEW = 6
"""Fewer of them tell little of how far losses scatter: then a jump has to be larger."""

K = 6.0
"""Scaled median absolute deviations above the median that make a jump."""

RISE, RISE_EARLY = 0.10, 0.25
"""Shares of the median that a jump has at the least; the second while there are few steps."""

SCATTERS = 3.0
"""Standard errors above the start that a jump has at the least, from how far the base's loss differs
from clip to clip: with few clips a step, a hard clip is no jump."""

ODD = 300
"""Steps for which a jump that came to nothing is remembered: the same hard clips come again, and what
is no higher than they are is no jump either."""

NORM_TIMES, NORM_K = 10.0, 20.0
"""A gradient norm is a spike beyond both: this many medians, and median + this many deviations."""

OF_LAST, HOT = 5, 3
"""So many of the last so many steps must have jumped: single odd batches come and go."""

LONG = 4
"""The training loss of the start and of now are medians over this part of the steps so far, of FEW at
the least and of WINDOW at most."""

STAYS = 0.05
"""Share by which a validation may lie above the start while the training loss has not fallen."""

ABOVE, ABOVE_BY = 3, 0.005
"""So many validations in a row above the start by this share: training has done harm that is not made
good. At a rate that suits it the validation loss falls from the first on."""

SUSPECTED_BY = 0.002
"""The share that is enough, and one validation with it, for a rate that had to be lowered once."""

BY_HEART, BY_HEART_TIMES = 0.10, 4.0
"""Share by which the training loss may have fallen for that, and how many times the share by which the
validation loss has risen; more is learning by heart, whose mend is another."""

FROZEN = 0.1
"""Share of the base's movement below which a preview is one constant sound."""

CUT = 10.0
"""What a rate is divided by."""


class LearningRate(Watcher):
    """Steps against the running median of their forerunners; validations and previews against the start.

    A step is *hot* if its loss lies K scaled median absolute deviations above the median of the last
    ordinary steps, and above the start by a tenth and by more than clips differ; or if its gradient
    norm spikes while its loss lies above both. Hot steps do not enter the median. NaN and inf count as
    hot. A step no higher than hot ones that came to nothing is not.
    """

    name = "learning_rate"

    def __init__(self, lr: float, max_bad_steps: int = 10) -> None:
        self.lr, self.hot_limit = lr, min(HOT, max_bad_steps)
        super().__init__()

    def fresh(self) -> dict[str, Any]:
        return {
            "count": 0,  # ordinary steps
            "start": [],  # the first ordinary losses
            "losses": [],
            "norms": [],
            "hot": [],  # [step, loss]; no loss if it is NaN or inf
            "odd": [],  # the same of those that came to nothing
            "rate": self.lr,
            "valid": None,  # [step, loss, scatter] of the first validation
            "valid_at": 0,
            "above": 0,  # validations in a row that lie above the first
            "sound_at": 0,  # the step of the last one that did not
            "heard": None,  # of the base: [level, movement] a preview
            "heard_at": 0,
            "told": 0,
        }

    @property
    def calm(self) -> bool:
        return not self.memory["hot"]

    def after_step(self, seen: Step) -> Finding | None:
        memory = self.memory
        memory["rate"] = seen.peak
        odd = [one for one in memory["odd"] if one[0] > seen.step - ODD]
        for one in memory["hot"]:
            if one[0] <= seen.step - OF_LAST and one[1] is not None:
                odd.append(one)
        memory["odd"] = odd
        memory["hot"] = [one for one in memory["hot"] if one[0] > seen.step - OF_LAST]
        if not seen.good and not memory["losses"]:
            return None  # weights that gave no number to begin with: no rate mends that
        reason = self._jump(seen) if seen.good else "the loss or its gradient is NaN or inf"
        if not reason:
            for key, value in (("losses", seen.loss), ("norms", seen.grad_norm)):
                memory[key] = [*memory[key], value][-WINDOW:]
            memory["count"] += 1
            if len(memory["start"]) < WINDOW:
                memory["start"].append(seen.loss)
            return None
        memory["hot"].append([seen.step, seen.loss if seen.good else None])
        if len(memory["hot"]) < self.hot_limit:
            return None
        steps = [step for step, _ in memory["hot"]]
        since = steps[0]
        values = {"loss": seen.loss, "grad_norm": seen.grad_norm, "hot_steps": steps}
        if memory["losses"]:
            values["median"] = statistics.median(memory["losses"])
        memory["hot"] = []
        return self._found(f"{reason} (since step {since})", since, values)

    def _jump(self, seen: Step) -> str:
        """Why a step is hot; empty if it is an ordinary one."""
        memory = self.memory
        losses, norms = memory["losses"], memory["norms"]
        if not losses or seen.loss <= max((loss for _, loss in memory["odd"]), default=-math.inf):
            return ""
        middle, width = spread(losses)
        start, error = self._start(), self._scatter() / math.sqrt(seen.clips)
        beyond = start + max(RISE * abs(start), SCATTERS * error)
        # Losses of two kinds of clips lie so far apart that their deviation tells nothing.
        width = min(width, error) if error else width
        # Of few values the deviation says nothing.
        early = len(losses) < FEW
        least = RISE_EARLY * abs(middle) if early else max(K * width, RISE * abs(middle))
        if seen.loss > middle + least and seen.loss > beyond:
            return f"the training loss jumped to {seen.loss:.3f}, where {middle:.3f} was usual"
        usual, scatter = spread(norms)
        spike = seen.grad_norm > max(NORM_TIMES * usual, usual + NORM_K * scatter)
        if spike and len(norms) >= FEW and seen.loss > max(start, middle + 2 * width):
            return (
                f"the gradient norm jumped to {seen.grad_norm:.3g}, where {usual:.3g} was usual, and "
                f"the training loss stands above its start ({seen.loss:.3f} against {start:.3f})"
            )
        return ""

    def _start(self) -> float:
        """The loss that the run began with: of its first steps, or of the base's validation if that is
        lower; the first steps of a rate that is much too high are no measure, nor are too few."""
        first, valid = self.memory["start"][:FEW], self.memory["valid"]
        if valid and len(first) < FEW:
            return valid[1]
        start = statistics.median(first)
        return min(start, valid[1]) if valid else start

    def _scatter(self) -> float:
        """How far the base's loss differs from clip to clip; 0 if nobody has measured it."""
        valid = self.memory["valid"]
        return (valid[2] or 0.0) if valid else 0.0

    def after_validation(self, seen: Validation) -> Finding | None:
        memory, loss = self.memory, seen.losses.get("loss")
        if loss is None:
            return None
        before, memory["valid_at"] = memory["valid_at"], seen.step
        if memory["valid"] is None:
            memory["valid"], memory["sound_at"] = [seen.step, loss, seen.scatter], seen.step
            return None
        first = memory["valid"][1]
        # A rate that had to be lowered once may still be too high.
        suspected = memory["rate"] < self.lr
        rise = (loss - first) / abs(first) if first else 0.0
        if rise > (SUSPECTED_BY if suspected else ABOVE_BY):
            memory["above"] += 1
        else:
            memory["above"], memory["sound_at"] = 0, seen.step
        if len(memory["losses"]) < FEW:
            return None
        reach = min(max(FEW, memory["count"] // LONG), WINDOW)
        start = statistics.median(memory["start"][:reach])
        now = statistics.median(memory["losses"][-reach:])
        fallen = (start - now) / abs(start) if start else 0.0
        values = {"validation_start": first, "validation": loss, "start": start, "now": now}
        if rise > STAYS and fallen < 0.02:
            return self._found(
                f"the validation loss has risen above its start, from {first:.3f} to {loss:.3f}, and "
                f"the training loss does not fall ({start:.3f} at the start, {now:.3f} now)",
                before + 2,
                values,
            )
        count = memory["above"]
        enough = count >= (1 if suspected else ABOVE)
        long = suspected or len(memory["losses"]) >= 2 * FEW
        if enough and long and fallen < min(BY_HEART, BY_HEART_TIMES * rise):
            return self._found(
                f"the validation loss stands above its start ({first:.3f} then, {loss:.3f} now, "
                f"{count} {'times in a row' if count > 1 else 'time'}), and the training loss has hardly "
                f"fallen ({start:.3f} then, {now:.3f} now)",
                memory["sound_at"] + 2,
                values,
            )
        return None

    def after_preview(self, heard: Heard) -> Finding | None:
        memory = self.memory
        before, memory["heard_at"] = memory["heard_at"], heard.step
        if memory["heard"] is None:
            memory["heard"] = [[one.level_db, one.movement_db] for one in heard.sounds]
            return None
        if len(memory["heard"]) != len(heard.sounds):
            return None
        gone = [_gone(one, *base) for one, base in zip(heard.sounds, memory["heard"], strict=True)]
        if not all(gone):
            return None
        return self._found(
            f"the previews of step {heard.step} collapsed: {gone[0]}",
            before + 2,
            {"level_db": [one.level_db for one in heard.sounds]},
        )

    def _found(self, what: str, since: int, values: dict[str, Any]) -> Finding | None:
        memory = self.memory
        memory["told"] += 1
        # Said once; where it leads to another start, that start has a memory without it.
        if memory["told"] > 1:
            return None
        return Finding(
            self.name,
            f"the learning rate is too high: {what}",
            f"set train.lr to {memory['rate'] / CUT:.2g} (now {memory['rate']:g})",
            "roll_back",
            values | {"rate": float(f"{memory['rate']:.6g}"), "since": since},
            since,
        )


def _gone(sound: Sound, level_db: float, movement_db: float) -> str:
    """How a preview has collapsed, where the base's did not; empty if it has not."""
    if sound.level_db < SILENT_DB <= level_db:
        return f"silence ({sound.level_db:.0f} dB)"
    if movement_db > 1.0 and sound.movement_db < FROZEN * movement_db:
        return (
            f"one constant sound (it moves by {sound.movement_db:.2f} dB, {movement_db:.1f} before)"
        )
    return ""
