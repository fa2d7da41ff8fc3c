"""Catastrophic forgetting: what the base could do is getting lost."""

from __future__ import annotations

from typing import Any

from tunesmith.training.pitfalls.finding import Finding, Validation, Watcher

RISES = (0.10, 0.25)
"""Shares by which the loss on general clips may stand above its start before this is said, and said
again. Measured on ``pocket``: healthy runs of every method end at most 5 % above it, those that
forget pass 10 % and go on (``bench/RESULTS.md``, methods and pitfalls)."""

_WORDS = {
    "general_loss": "other recordings (data.general)",
    "anchor_loss": "what the base makes of general prompts",
}


class Forgetting(Watcher):
    """Loss on clips that have nothing to do with the data, against its start.

    On clips that the base itself sampled (``data.anchor``) the rise is, in nats a code, the
    Kullback-Leibler divergence of the adapted model from the base.
    """

    name = "forgetting"

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr

    def fresh(self) -> dict[str, Any]:
        return {"first": {}, "told": 0}

    def after_validation(self, seen: Validation) -> Finding | None:
        key = next((key for key in _WORDS if key in seen.losses), None)
        if key is None:
            return None
        now = seen.losses[key]
        first = self.memory["first"].setdefault(key, now)
        rise = (now - first) / abs(first) if first else 0.0
        told = self.memory["told"]
        if told == len(RISES) or rise <= RISES[told]:
            return None
        self.memory["told"] = told + 1
        return Finding(
            self.name,
            f"the model is forgetting: the loss on {_WORDS[key]} has risen by {rise:.0%}, from "
            f"{first:.3f} to {now:.3f}",
            f"set replay.path to general recordings, or train.lr to {self.lr / 3:.2g} (now "
            f"{self.lr:g}), or train less of the model (method=lora, a lower method.rank)",
            "replay" if told == 0 else "",
            {"measured_on": key, "first": first, "now": now, "rise": rise},
            seen.step,
        )
