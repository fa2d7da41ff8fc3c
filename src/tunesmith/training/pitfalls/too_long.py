"""Training too long: the recordings are being learned by heart."""

from __future__ import annotations

import math
from typing import Any

from tunesmith.training.pitfalls.finding import Finding, Heard, Step, Validation, Watcher
from tunesmith.training.pitfalls.sounds import apart

TURNS = 3
"""Validations in a row that must lie above the best one."""

MARGIN = 0.01
"""Share by which they must, and by which the training loss must have gone on falling meanwhile."""

ALIKE = 0.25
"""Share of the base's distance between previews below which, twice in a row, they are called alike."""


class TooLong(Watcher):
    """Validation loss that turns while the training loss still falls; previews that grow alike.

    The training loss of a stretch is its mean since the validation before: single steps see too few
    clips to be compared.
    """

    name = "too_long"

    def fresh(self) -> dict[str, Any]:
        return {
            "sum": 0.0,
            "count": 0,
            "seen": [],  # [step, validation loss, mean training loss since the one before]
            "told": False,
            "apart": None,
            "alike": 0,
            "told_alike": False,
        }

    def after_step(self, seen: Step) -> Finding | None:
        if seen.good:
            self.memory["sum"] += seen.loss
            self.memory["count"] += 1
        return None

    def after_validation(self, seen: Validation) -> Finding | None:
        memory = self.memory
        if not math.isfinite(seen.losses.get("loss", math.nan)):
            return None
        mean = memory["sum"] / memory["count"] if memory["count"] else None
        memory["sum"], memory["count"] = 0.0, 0
        if mean is not None and memory["seen"] and memory["seen"][0][2] is None:
            memory["seen"][0][2] = (
                mean  # before the first step there is none: that of the first stretch
            )
        memory["seen"].append([seen.step, seen.losses["loss"], mean])
        best = min(memory["seen"], key=lambda one: one[1])
        after = [one for one in memory["seen"] if one[0] > best[0]]
        # What lies between the best and the last few is of no use any more.
        memory["seen"] = [best, *after[-TURNS:]]
        turned = after[-TURNS:]
        if memory["told"] or len(turned) < TURNS or best[2] is None:
            return None
        limit = best[1] + MARGIN * abs(best[1])
        rising = all(one[1] > limit for one in turned) and turned[-1][1] >= turned[0][1]
        learned = turned[-1][2] < best[2] - MARGIN * abs(best[2])
        if not (rising and learned):
            return None
        memory["told"] = True
        mend = f"set train.steps={best[0]} or train.patience={TURNS}, or add recordings"
        if not best[0]:
            mend = "add recordings: of these few nothing was learned that others share"
        return Finding(
            self.name,
            f"trained too long: the validation loss was lowest at step {best[0]} ({best[1]:.3f}) and "
            f"is {turned[-1][1]:.3f} now, while the training loss fell from {best[2]:.3f} to "
            f"{turned[-1][2]:.3f}: the recordings are being learned by heart",
            f"{mend}; the weights of step {best[0]} are kept",
            "stop",
            {
                "best_step": best[0],
                "best_loss": best[1],
                "loss": turned[-1][1],
                "train_loss_then": best[2],
                "train_loss": turned[-1][2],
            },
            turned[0][0],
        )

    def after_preview(self, heard: Heard) -> Finding | None:
        if len(heard.sounds) < 2:
            return None
        memory, now = self.memory, apart(heard.sounds)
        if memory["apart"] is None:
            memory["apart"] = now
            return None
        memory["alike"] = memory["alike"] + 1 if now < ALIKE * memory["apart"] else 0
        if memory["alike"] < 2 or memory["told_alike"]:
            return None
        memory["told_alike"] = True
        return Finding(
            self.name,
            f"previews of different prompts grow alike: {now:.1f} dB apart, {memory['apart']:.1f} dB "
            "with the base",
            "listen to the previews; fewer train.steps or a lower method strength keeps them apart",
            "",
            {"apart_db": now, "apart_base_db": memory["apart"]},
            heard.step,
        )
