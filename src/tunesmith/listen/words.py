"""The results in plain words."""

from __future__ import annotations

from typing import Literal

from tunesmith.listen._statistics import Share
from tunesmith.listen.analysis import ALPHA, Comparison, Rating, Results

_THIN = "\N{NO-BREAK SPACE}"
FEWEST = 6
"""Listeners of one mind that a two-sided test at 0.05 needs: 2 · (1/2)⁶ = 0.031."""

Tone = Literal["better", "worse", "no change", "unknown"]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}{_THIN}%"


def p_words(value: float | None) -> str:
    if value is None:
        return "–"
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def interval_words(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def direction(results: Results, one: Comparison) -> int:
    """1 for the other side (ABX: heard), −1 for the base, 0 where it may be chance.

    A preference is judged by one vote a listener, since the answers of one listener are not
    independent of each other. In ABX they are, where nothing can be heard: X is drawn anew each time.
    """
    by = one.answers if results.test.kind == "abx" else one.listeners
    if by.p_value is None or by.value is None or by.p_value > ALPHA:
        return 0
    return 1 if by.value > 0.5 else -1


def tone(results: Results) -> Tone:
    """Whether the last side did better than the first."""
    if results.test.kind == "mos":
        apart = _apart(results)
        if apart is None or apart.difference_interval is None:
            return "unknown"
        low, high = apart.difference_interval
        return "better" if low > 0 else "worse" if high < 0 else "no change"
    if not results.comparisons or not results.comparisons[-1].answers.n:
        return "unknown"
    said = direction(results, results.comparisons[-1])
    return "better" if said > 0 else "worse" if said < 0 else "no change"


def _apart(results: Results) -> Rating | None:
    """The rating that the headline is about: the last system that is not the first."""
    systems = [one for one in results.ratings[1:] if one.role == "system"]
    return systems[-1] if systems else None


def headline(results: Results) -> str:
    """One sentence."""
    if not results.counted:
        return "Nobody has answered a question that counts yet."
    if results.test.kind == "mos":
        return _mos_headline(results)
    one = results.comparisons[-1]
    said = direction(results, one)
    if results.test.kind == "abx":
        if said > 0:
            return f"Listeners hear the difference between {one.base} and {one.other}."
        return f"Nobody has shown to hear a difference between {one.base} and {one.other}."
    if said:
        won, lost = (one.other, one.base) if said > 0 else (one.base, one.other)
        return f"Listeners prefer {won} to {lost}."
    return f"No clear preference between {one.base} and {one.other}."


def _mos_headline(results: Results) -> str:
    apart = _apart(results)
    if apart is None or apart.difference is None or apart.difference_interval is None:
        first = results.ratings[0]
        mean = "–" if first.mean is None else f"{first.mean:.2f}"
        return f"{first.side} is rated {mean} of 5."
    low, high = apart.difference_interval
    first = results.ratings[0].side
    if low <= 0 <= high:
        return f"{apart.side} is rated neither clearly better nor clearly worse than {first}."
    word = "better" if low > 0 else "worse"
    return f"{apart.side} is rated {abs(apart.difference):.1f} points {word} than {first}."


def sentences(results: Results) -> list[str]:
    """What stands behind the headline, and what it assumes."""
    if not results.counted:
        return []
    out = []
    for one in results.comparisons:
        if one.answers.n:
            out += _abx(one) if results.test.kind == "abx" else _ab(one)
    for rating in results.ratings:
        if rating.mean is not None:
            about = "no interval, too few listeners or items"
            if rating.interval is not None:
                low, high = rating.interval
                about = f"95{_THIN}% interval {low:.2f} to {high:.2f}"
            out.append(f"{rating.side}: {rating.mean:.2f} of 5 ({about}, {rating.n} ratings).")
    if results.test.kind == "ab" and results.started < FEWEST:
        out.append(
            f"{results.started} listener{'s' if results.started > 1 else ''} cannot settle it: one vote "
            f"each, even {FEWEST - 1} of one mind could be chance. {FEWEST} are the least."
        )
    return out


def _ab(one: Comparison) -> list[str]:
    ties = f", {one.ties} without a preference" if one.ties else ""
    return [
        f"{one.other} was preferred to {one.base} in {one.answers.count} of {one.answers.n} answers"
        f"{ties}: {percent(one.answers.value)} (95{_THIN}% interval {interval_words(one.answers.interval)}).",
        _votes(one.listeners, one.undecided, f"preferred {one.other} more often"),
    ]


def _abx(one: Comparison) -> list[str]:
    return [
        f"{one.answers.count} of {one.answers.n} answers were right: {percent(one.answers.value)} "
        f"(95{_THIN}% interval {interval_words(one.answers.interval)}; guessing gives 50{_THIN}%, "
        f"{p_words(one.answers.p_value)}).",
        _votes(one.listeners, one.undecided, "were right more often than not"),
    ]


def _votes(votes: Share, undecided: int, what: str) -> str:
    if not votes.n:
        return f"All {undecided} listeners were undecided."
    rest = f"; {undecided} {'was' if undecided == 1 else 'were'} undecided" if undecided else ""
    return (
        f"One vote each: {votes.count} of {votes.n} listeners {what} "
        f"(95{_THIN}% interval {interval_words(votes.interval)}, {p_words(votes.p_value)}){rest}."
    )


def assumptions(results: Results) -> list[str]:
    """What the figures take for granted."""
    if results.test.kind == "mos":
        return [
            "The intervals hold for other listeners and other items of the same kinds: both are left out "
            "in turn, to see how much hangs on each.",
            "Means treat the steps of the scale as equal. The counts stand beside them.",
            "Ratings of different tests cannot be compared: they depend on what else was heard.",
        ]
    several = (
        [f"{len(results.comparisons)} comparisons were made; no p-value is corrected for that."]
        if len(results.comparisons) > 1
        else []
    )
    if results.test.kind == "abx":
        return [
            "What X is was drawn anew for each question. So where nothing can be heard, each answer is "
            "right half of the time, whoever gives it, and the test is exact.",
            "The exact interval takes each answer for an independent one. Where something is heard, "
            "answers of one listener are not: some hear it and some do not. See the votes.",
            "Few right answers do not prove that two sounds are alike: see the interval for how much "
            "could still be heard.",
            *several,
        ]
    return [
        "The exact interval over answers takes each answer for an independent one. Answers of one "
        "listener are not, so the headline goes by one vote a listener.",
        "One vote a listener needs no more than that listeners do not know each other's answers. It "
        "speaks of these items; the third interval takes other items into account as well.",
        "Answers without a preference are left out of shares and tests, and counted beside them.",
        *several,
    ]


def remarks(results: Results) -> list[str]:
    """What a careful reader asks: who stopped early, who was not listening."""
    out = []
    if open_ := results.started - results.finished:
        out.append(
            f"{open_} of {results.started} listeners did not finish; the answers that they gave count."
        )
    if results.repeats:
        alike = "at most one point apart" if results.test.kind == "mos" else "the same way"
        out.append(
            f"{results.agreed} of {results.repeats} repeated questions were answered {alike} both times."
        )
    if results.inattentive:
        out.append(
            f"{len(results.inattentive)} of the listeners rated the low anchor no lower than the hidden reference "
            f"({', '.join(results.inattentive)}). To see the figures without them: --without NAME."
        )
    if results.hurried:
        out.append(
            f"{results.hurried} answers came sooner than the sounds last, by the server's clock."
        )
    if results.without:
        out.append(f"Left out on request: {', '.join(results.without)}.")
    return out
