"""A voice's verdict: is it more like the target than the base was with the target's vector alone (zero-shot)?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

SAME = 0.005
"""Of a cosine, and of what it is multiplied with: less is no difference that anyone could hear."""


@dataclass(frozen=True, slots=True)
class Voiced:
    """What was heard of a voice.

    Attributes:
        before, after: similarity to recordings of the target, zero-shot and adapted, −1 to 1.
        error_before, error_after: share of phones (or letters) that were said wrongly; None where that
            was not measured.
        unit: what was counted.
        same: similarity of the target's recordings to each other.
        others: similarity of other voices' recordings to the target's.
        interval: 95 % of ``after``.
        chosen: the figures are those by which the weights were chosen, and so flatter a little.
        step: of the weights; 0 is the base itself.
    """

    before: float
    after: float
    error_before: float | None = None
    error_after: float | None = None
    unit: str = "phone"
    same: float | None = None
    others: float | None = None
    interval: tuple[float, float] | None = None
    chosen: bool = False
    step: int | None = None

    @property
    def scores(self) -> tuple[float, float] | None:
        """Similarity × intelligibility before and after, where both are known."""
        if self.error_before is None or self.error_after is None:
            return None
        made = [
            max(0.0, alike) * max(0.0, 1 - wrong)
            for alike, wrong in (
                (self.before, self.error_before),
                (self.after, self.error_after),
            )
        ]
        return made[0], made[1]

    @property
    def closed(self) -> float | None:
        """Share of the way from zero-shot to the target's own recordings; None where there is no way."""
        if self.same is None or not self.same - self.before > SAME:
            return None
        return (self.after - self.before) / (self.same - self.before)


def of_training(card: Mapping[str, Any]) -> Voiced | None:
    """What a run heard while it trained, from its card; None where nobody listened."""
    told = (card.get("metrics") or {}).get("judged") or {}
    before, after = told.get("base"), told.get("adapted")
    if not before or not after:
        return None
    return Voiced(
        before["similarity"],
        after["similarity"],
        1 - before["intelligibility"],
        1 - after["intelligibility"],
        told.get("unit", "phone"),
        chosen=True,
        step=card.get("step"),
    )


def weigh(
    heard: Voiced,
) -> tuple[Literal["better", "no change", "worse"], str, list[str]] | None:
    """The word, the headline and the evidence; None where there are no numbers to go by.

    ``worse`` wherever similarity, or similarity × intelligibility, is below zero-shot.
    """
    if not (isfinite(heard.before) and isfinite(heard.after)):
        return None
    evidence = _evidence(heard)
    moved = _moved(heard.before, heard.after)
    scores = heard.scores
    scored = _moved(*scores) if scores else moved
    if moved < 0:
        return (
            "worse",
            "Worse: it sounds less like the voice than the base did without any training (zero-shot).",
            evidence,
        )
    if scored < 0:
        return (
            "worse",
            "Worse: what it gained in likeness it lost in words; similarity × intelligibility is below "
            "what the base did without any training (zero-shot).",
            evidence,
        )
    if heard.chosen and heard.step == 0:
        return (
            "no change",
            "No step of the training came out above zero-shot, so what is kept is the base with the "
            "voice's vector.",
            evidence,
        )
    if moved > 0 and heard.interval is not None and heard.interval[0] <= heard.before:
        return (
            "no change",
            "It may sound a little more like the voice than before adapting (zero-shot), but not more than "
            "chance could do.",
            evidence,
        )
    if moved > 0 or scored > 0:
        what = "sounds more like the voice" if moved > 0 else "can be understood better"
        return "better", f"It {what} than the base did without any training (zero-shot).", evidence
    return "no change", "It sounds as much like the voice as before adapting (zero-shot).", evidence


def _moved(before: float, after: float) -> int:
    return 0 if abs(after - before) < SAME else 1 if after > before else -1


def _evidence(heard: Voiced) -> list[str]:
    span = f" (95 % interval {heard.interval[0]:.2f} to {heard.interval[1]:.2f})" if heard.interval else ""  # fmt: skip
    bounds = []
    if heard.same is not None:
        bounds.append(f"the voice's own recordings have {heard.same:.2f} to each other")
    if heard.others is not None:
        bounds.append(f"other voices {heard.others:.2f} to it")
    line = f"Similarity to the voice: {heard.before:.2f} zero-shot, {heard.after:.2f} adapted{span}"
    out = [f"{line}; {', '.join(bounds)}." if bounds else f"{line}."]
    if heard.closed is not None:
        share = 100 * heard.closed
        out.append(
            f"That is {share:.0f} % of the way from zero-shot to the voice's own recordings."
        )
    if heard.error_before is not None and heard.error_after is not None:
        out.append(
            f"Of the {heard.unit}s to be said, {100 * heard.error_before:.0f} % went wrong zero-shot and "
            f"{100 * heard.error_after:.0f} % adapted."
        )
    if heard.chosen:
        out.append(
            "By these same takes the weights were chosen, so they flatter: `tunesmith evaluate` measures "
            "others."
        )
    return out


__all__ = ["Voiced", "of_training", "weigh"]
