"""From numbers to plain words: did the adaptation help? Honest where it did not."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from tunesmith.evaluation.findings import Memorisation
from tunesmith.metrics.gap import Gap
from tunesmith.report import gap as gaps
from tunesmith.report import voices

Word = Literal["better", "no change", "worse", "not measured"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer at the top of a report.

    Attributes:
        word: the answer itself.
        headline: the answer as one sentence.
        sentences: the evidence, each in plain words with its numbers, good news and bad.
        caution: something speaks against a good word, and the headline says what.
    """

    word: Word
    headline: str
    sentences: tuple[str, ...] = ()
    caution: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """One number before and after adapting.

    Attributes:
        before, after: the two; None where they were not measured.
        interval: 95 % interval of ``after``.
        p_value: of their difference; above ``alpha`` it counts as none.
    """

    before: float | None
    after: float | None
    interval: tuple[float, float] | None = None
    p_value: float | None = None

    @property
    def change(self) -> float | None:
        """(after − before)/|before|; None where either is missing or not finite."""
        if self.before is None or self.after is None or not self.before:
            return None
        if not (isfinite(self.before) and isfinite(self.after)):
            return None
        return (self.after - self.before) / abs(self.before)

    @property
    def told(self) -> bool:
        """Whether both are numbers."""
        values = (self.before, self.after)
        return all(value is not None and isfinite(value) for value in values)

    def span(self) -> str:
        """``from 3.30 to 2.60 (95 % interval 2.41 to 2.79)``."""
        interval = f" (95 % interval {between(self.interval)})" if self.interval else ""
        return f"from {plain(self.before)} to {plain(self.after)}{interval}"

    def chance(self, alpha: float) -> bool:
        """Whether a test took the difference for chance."""
        return self.p_value is not None and not self.p_value <= alpha


def judge(
    *,
    valid: Pair,
    general: Pair | None = None,
    anchor: Pair | None = None,
    kad: Pair | None = None,
    kad_p: float | None = None,
    gap: Gap | None = None,
    n_valid: int | None = None,
    closed: Pair | None = None,
    adherence: Pair | None = None,
    memorisation: Memorisation | None = None,
    voice: voices.Voiced | None = None,
    tolerance: float = 0.01,
    forgetting: float = 0.05,
    alpha: float = 0.05,
) -> Verdict:
    """Weigh what was measured.

    Args:
        valid: loss on held-out recordings of the user's own, before and after.
        general: loss on general material of neither training nor prior set: what was forgotten.
        anchor: distance (KAD) of its takes of general prompts to the base's, tested, and before it that
            of the base to itself with other seeds. Without ``general`` it says what was forgotten.
        kad: kernel audio distance to the held-out recordings, base and adapted.
        kad_p: p-value of the *difference* of those two (``metrics.kad.compare``), not of either.
        gap: gap closed, by one or more trainings; stands in the place of ``kad``.
        n_valid: validation clips behind ``valid``.
        closed: share of the way to real recordings that an evaluation found, 0 to 1 and beyond; it is
            told, and decides nothing beside the KAD that it is made of.
        adherence: how well the takes follow their prompts, higher is better, tested.
        memorisation: whether training clips are copied. It changes no word, but the headline: what
            copies lies close to the recordings by that alone.
        voice: what was heard of a voice. It decides: a voice's loss goes on falling while it drifts away.
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
    loss = _by_loss(valid, tolerance, alpha, n_valid, sentences)
    if gap is not None:
        sentences += gaps.sentences(gap, alpha)
        sound: int | None = gaps.direction(gap, alpha)
    else:
        sound = _by_sound(kad, kad_p, alpha, sentences)
        if closed is not None and closed.after is not None and isfinite(closed.after):
            sentences.append(_way(closed.after, closed.interval))
    forgot = _by_general(general, tolerance, forgetting, alpha, sentences)
    moved = _by_anchor(anchor, alpha, sentences)
    forgot = forgot or (moved and (general is None or general.change is None))
    strayed = _by_adherence(adherence, alpha, sentences)
    word, headline = _weigh(loss, sound)
    if voice is not None and (said := voices.weigh(voice)) is not None:
        word, headline = said[0], said[1]
        sentences = [*said[2], *sentences]
    if word == "better" and forgot:
        headline += " It paid for that with some of its general ability."
    if word == "better" and strayed:
        headline += " It follows its prompts less than before."
    copies = memorisation is not None and memorisation.flagged
    if memorisation is not None:
        said = copying(memorisation)
        sentences.append(said[-1])
        if copies:
            headline += f" {said[0]}"
    return Verdict(
        word, headline, tuple(sentences), word == "better" and (forgot or strayed or copies)
    )


def copying(found: Memorisation) -> tuple[str, ...]:
    """Whether training clips are copied, in plain words; the first sentence says it."""
    chance = f"{plain_percent(found.expected)} would be by chance, p = {found.p_value:.2g}"
    takes = f"{found.takes} take{'s' if found.takes != 1 else ''}"
    if not found.flagged:
        return (
            f"It was not found to copy its training clips: {found.copies} of {takes} "
            f"{'comes' if found.copies == 1 else 'come'} suspiciously near one ({chance}).",
        )
    return (
        f"It copies its training clips: {found.copies} of {takes}.",
        f"{found.copies} of {takes} come nearer to a training clip than unheard recordings do ({chance}). "
        "A copy lies close to your recordings by that alone, so the other numbers flatter it.",
    )


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


def _by_loss(
    valid: Pair, tolerance: float, alpha: float, n: int | None, out: list[str]
) -> int | None:
    change = valid.change
    if change is None:
        out.append("Its error on held-out recordings was not measured.")
        return None
    clips = f" ({n} clip{'s' if n != 1 else ''})" if n is not None else ""
    where = f"On recordings that it never trained on{clips}, its error"
    if n is not None and n < 5:
        out.append(f"With {n} held-out clip{'s' if n != 1 else ''}, take the error with caution.")
    if abs(change) < tolerance:
        out.insert(0, f"{where} stayed the same ({plain(valid.before)} and {plain(valid.after)}).")
        return 0
    if valid.chance(alpha):
        out.insert(0, f"{where} went {valid.span()}: {_by_chance(valid.p_value)}.")
        return 0
    tested = f" (p = {valid.p_value:.2g})" if valid.p_value is not None else ""
    moved = "fell" if change < 0 else "rose"
    out.insert(0, f"{where} {moved} {valid.span()}, {_percent(change)}{tested}.")
    return 1 if change < 0 else -1


def _by_chance(p: float | None) -> str:
    return f"within what chance alone would do (p = {p:.2g})"


def _by_sound(kad: Pair | None, p: float | None, alpha: float, out: list[str]) -> int | None:
    if kad is None or kad.before is None or kad.after is None:
        return None
    if not kad.told:
        out.append("The distance of its sound to your recordings could not be measured.")
        return None
    span, p = kad.span(), kad.p_value if p is None else p
    if p is None or not isfinite(p):
        out.append(
            f"The distance of its sound to your recordings (KAD) went {span}, "
            "but was not tested against chance, so it does not count here."
        )
        return None
    if p > alpha:
        out.append(
            f"The distance of its sound to your recordings (KAD) went {span}: {_by_chance(p)}."
        )
        return 0
    nearer = kad.after < kad.before
    out.append(
        f"What it generates sounds {'closer to' if nearer else 'further from'} your recordings: "
        f"the distance (KAD) {'fell' if nearer else 'rose'} {span}, more than chance alone would "
        f"do (p = {p:.2g})."
    )
    return 1 if nearer else -1


def _way(share: float, interval: tuple[float, float] | None) -> str:
    within = (
        f" (95 % interval {gaps.percent(interval[0])} to {gaps.percent(interval[1])})"
        if interval
        else ""
    )
    return f"That is {gaps.percent(share)}{within} of the way from the base to real recordings."


def _by_general(
    general: Pair | None, tolerance: float, forgetting: float, alpha: float, out: list[str]
) -> bool:
    if general is None:
        return False
    if general.after is not None and not isfinite(general.after):
        out.append("On general music its error is no longer a number: it has forgotten it.")
        return True
    change = general.change
    if change is None:
        return False
    span = general.span()
    if abs(change) >= tolerance and general.chance(alpha):
        out.append(f"Its error on general music went {span}: {_by_chance(general.p_value)}.")
        return False
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


def _by_anchor(anchor: Pair | None, alpha: float, out: list[str]) -> bool:
    """Whether general prompts clearly sound unlike the base."""
    if anchor is None or anchor.after is None or not isfinite(anchor.after):
        return False
    if anchor.p_value is None:
        out.append(
            f"Asked for other music it is KAD {plain(anchor.after)} from the base (not tested)."
        )
        return False
    if anchor.chance(alpha):
        out.append(
            f"Asked for other music it cannot be told from the base (p = {anchor.p_value:.2g})."
        )
        return False
    far = f"KAD {plain(anchor.after)}"
    if anchor.before is not None:
        far += f", where the base is {plain(anchor.before)} from itself"
    out.append(
        f"Asked for other music it no longer sounds like the base: {far} (p = {anchor.p_value:.2g})."
    )
    return anchor.before is None or anchor.after > anchor.before


def _by_adherence(adherence: Pair | None, alpha: float, out: list[str]) -> bool:
    """Whether it clearly follows its prompts less than before."""
    if adherence is None or not adherence.told:
        return False
    before, after = adherence.before or 0.0, adherence.after or 0.0
    span = adherence.span()
    if adherence.p_value is None:
        out.append(f"How well it follows its prompts went {span} (not tested).")
        return False
    if adherence.chance(alpha) or before == after:
        tested = f"p = {adherence.p_value:.2g}"
        out.append(f"It follows its prompts about as well as before: {span} ({tested}).")
        return False
    better = after > before
    out.append(
        f"It follows its prompts {'better' if better else 'less'} than before: {span} "
        f"(p = {adherence.p_value:.2g})."
    )
    return not better


def between(interval: tuple[float, float]) -> str:
    """``2.41 to 2.79``."""
    return f"{plain(interval[0])} to {plain(interval[1])}"


def plain_percent(share: float) -> str:
    """``12 %``, ``0.8 %``."""
    return (
        f"{100 * share:.2g}\N{NO-BREAK SPACE}%"
        if share < 0.095
        else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
    )


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
