"""From numbers to plain words: did the adaptation help? Honest where it did not."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from tunesmith.metrics.gap import Gap
from tunesmith.report import gap as gaps

Word = Literal["better", "no change", "worse", "not measured"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer at the top of a report.

    Attributes:
        word: the answer itself.
        headline: the answer as one sentence.
        sentences: the evidence, each in plain words with its numbers, good news and bad.
    """

    word: Word
    headline: str
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """One number before and after adapting."""

    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """(after − before)/|before|; None where either is missing or not finite."""
        if self.before is None or self.after is None or not self.before:
            return None
        if not (isfinite(self.before) and isfinite(self.after)):
            return None
        return (self.after - self.before) / abs(self.before)


def judge(
    *,
    valid: Pair,
    general: Pair | None = None,
    kad: Pair | None = None,
    kad_p: float | None = None,
    gap: Gap | None = None,
    n_valid: int | None = None,
    tolerance: float = 0.01,
    forgetting: float = 0.05,
    alpha: float = 0.05,
) -> Verdict:
    """Weigh what was measured.

    Args:
        valid: loss on held-out recordings of the user's own, before and after.
        general: loss on general material of neither training nor prior set: what was forgotten.
        kad: kernel audio distance to the held-out recordings, base and adapted.
        kad_p: p-value of the *difference* of those two (``metrics.kad.compare``), not of either.
        gap: gap closed, by one or more trainings; stands in the place of ``kad``.
        n_valid: validation clips behind ``valid``.
        tolerance: relative change of a loss that counts as none.
        forgetting: relative rise of the general loss that is called forgetting.
        alpha: p-value at or below which a KAD difference counts.

    Returns:
        ``worse`` where the loss broke down, the loss rose or the sound moved away for sure;
        ``better`` where either improved and nothing contradicts; ``no change`` where neither moved,
        or they contradict each other; ``not measured`` where there is nothing to go by.
    """
    sentences: list[str] = []
    if valid.after is not None and not isfinite(valid.after):
        return Verdict(
            "worse",
            "The training broke down: do not use this adapter.",
            ("Its error on held-out recordings is no longer a number.",),
        )
    loss = _by_loss(valid, tolerance, n_valid, sentences)
    if gap is not None:
        sentences += gaps.sentences(gap, alpha)
        sound: int | None = gaps.direction(gap, alpha)
    else:
        sound = _by_sound(kad, kad_p, alpha, sentences)
    forgot = _by_general(general, tolerance, forgetting, sentences)
    word, headline = _weigh(loss, sound)
    if word == "better" and forgot:
        headline += " It paid for that with some of its general ability."
    return Verdict(word, headline, tuple(sentences))


def _weigh(loss: int | None, sound: int | None) -> tuple[Word, str]:
    if loss is None and sound is None:
        return "not measured", "Nothing was measured, so only your ears can tell."
    if sound == -1 and loss == 1:
        return (
            "worse",
            "It predicts your recordings better, but what it generates has moved away from them.",
        )
    if loss == -1 and sound == 1:
        return (
            "no change",
            "The measurements contradict each other, so no improvement is claimed. Listen below.",
        )
    if -1 in (loss, sound):
        return "worse", "The adapted model is further from your recordings than the one before."
    if 1 in (loss, sound):
        if sound == 1 and loss != 1:
            return "better", "What it generates has moved closer to your recordings."
        if sound == 1:
            return "better", "The model has moved closer to your recordings, by both measures."
        return "better", "The model has learned from your recordings."
    return "no change", "Adapting made no difference that could be measured."


def _by_loss(valid: Pair, tolerance: float, n: int | None, out: list[str]) -> int | None:
    change = valid.change
    if change is None:
        out.append("Its error on held-out recordings was not measured.")
        return None
    clips = f" ({n} clip{'s' if n != 1 else ''})" if n is not None else ""
    where = f"On recordings that it never trained on{clips}, its error"
    span = f"from {plain(valid.before)} to {plain(valid.after)}"
    if n is not None and n < 5:
        out.append(f"With {n} held-out clip{'s' if n != 1 else ''}, take the error with caution.")
    if abs(change) < tolerance:
        out.insert(0, f"{where} stayed the same ({plain(valid.before)} and {plain(valid.after)}).")
        return 0
    out.insert(0, f"{where} {'fell' if change < 0 else 'rose'} {span}, {_percent(change)}.")
    return 1 if change < 0 else -1


def _by_sound(kad: Pair | None, p: float | None, alpha: float, out: list[str]) -> int | None:
    if kad is None or kad.before is None or kad.after is None:
        return None
    if not (isfinite(kad.before) and isfinite(kad.after)):
        out.append("The distance of its sound to your recordings could not be measured.")
        return None
    span = f"from {plain(kad.before)} to {plain(kad.after)}"
    if p is None or not isfinite(p):
        out.append(
            f"The distance of its sound to your recordings (KAD) went {span}, "
            "but was not tested against chance, so it does not count here."
        )
        return None
    if p > alpha:
        out.append(
            f"The distance of its sound to your recordings (KAD) went {span}: "
            f"within what chance alone would do (p = {p:.2g})."
        )
        return 0
    nearer = kad.after < kad.before
    out.append(
        f"What it generates sounds {'closer to' if nearer else 'further from'} your recordings: "
        f"the distance (KAD) {'fell' if nearer else 'rose'} {span}, more than chance alone would "
        f"do (p = {p:.2g})."
    )
    return 1 if nearer else -1


def _by_general(general: Pair | None, tolerance: float, forgetting: float, out: list[str]) -> bool:
    if general is None:
        return False
    if general.after is not None and not isfinite(general.after):
        out.append("On general music its error is no longer a number: it has forgotten it.")
        return True
    change = general.change
    if change is None:
        return False
    span = f"from {plain(general.before)} to {plain(general.after)}"
    if change > forgetting:
        out.append(
            f"It has forgotten some general music: its error there rose {span}, {_percent(change)}."
        )
        return True
    if abs(change) < tolerance:
        out.append("It has kept what it knew of general music.")
    else:
        moved = "fell" if change < 0 else "rose a little"
        out.append(f"Its error on general music {moved}, {span}.")
    return False


def plain(value: float | None) -> str:
    """A measured number for reading: three digits, the same decimals for like sizes."""
    if value is None or not isfinite(value):
        return "not measured"
    size = abs(value)
    if size and size < 0.01:
        return f"{value:.2g}"
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}"


def _percent(change: float) -> str:
    size = abs(change) * 100
    return (
        f"{size:.0f}\N{NO-BREAK SPACE}% {'lower' if change < 0 else 'higher'}"
        if size >= 1
        else "under 1 %"
    )
