"""From answers to what can be said of them, and what cannot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tunesmith.errors import UserError
from tunesmith.listen._statistics import Share, over_both, share
from tunesmith.listen.design import Test, needed_s, read_test
from tunesmith.listen.plan import Trial, plan
from tunesmith.listen.store import Answer, Listener, Store

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with the key laid beside it.

    Attributes:
        listener: who.
        answer: what was said.
        trial: what was behind the letters.
        chosen: the side that was chosen; None for a tie and in MOS.
        correct: ABX: whether it was right.
        rating: MOS: 1 to 5.
        hurried: given sooner than the sounds could have been heard.
    """

    listener: Listener
    answer: Answer
    trial: Trial
    chosen: int | None
    correct: bool | None
    rating: int | None
    hurried: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Answers to one item or of one listener: won, tied and lost; or right, none and wrong."""

    name: str
    won: int
    ties: int
    lost: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides of an A/B or ABX test.

    Attributes:
        base, other: their names.
        answers: for A/B the share that preferred ``other``, ties left out; for ABX the share of right
            answers. Exact if all answers were independent, which those of one listener are not.
        ties: answers of no preference.
        listeners: the share of listeners that preferred ``other`` more often than ``base`` (ABX: that
            were right more often than not); one vote each, undecided ones left out. Needs no
            assumption about the answers of one listener.
        undecided: listeners with as many for one as for the other.
        resampled: 95 % interval of the share of answers over other listeners and other items; None
            where there are too few of them.
        per_item, per_listener: the same counts apart.
    """

    base: str
    other: str
    answers: Share
    ties: int
    listeners: Share
    undecided: int
    resampled: tuple[float, float] | None
    per_item: tuple[Group, ...]
    per_listener: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Rating:
    """How a side was rated.

    Attributes:
        side, role: which.
        mean: mean opinion score; None without ratings.
        interval: 95 %, over other listeners and other items; None where there are too few of them.
        n: ratings.
        counts: of 1, 2, 3, 4 and 5.
        difference: of the mean to the first side's, from pairs of one listener and item.
        difference_interval: 95 % of it.
    """

    side: str
    role: str
    mean: float | None
    interval: tuple[float, float] | None
    n: int
    counts: tuple[int, ...]
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """What a listening test has shown so far.

    Attributes:
        test: what was tested.
        links, started, finished: listeners with a link; with an answer; with all answers.
        judged: every answer with its key; those of ``without`` left out.
        counted: answers behind the figures: neither practice nor repeats.
        comparisons: A/B and ABX, one a pair of sides.
        ratings: MOS, one a side.
        repeats, agreed: repeated questions, and those answered alike both times (in MOS at most one
            point apart).
        inattentive: listeners who rated the low anchor no lower than the hidden reference.
        hurried: counted answers that came sooner than the sounds last.
        without: listeners that were left out on request.
    """

    test: Test
    links: int
    started: int
    finished: int
    judged: tuple[Judged, ...]
    counted: int
    comparisons: tuple[Comparison, ...] = ()
    ratings: tuple[Rating, ...] = ()
    repeats: int = 0
    agreed: int = 0
    inattentive: tuple[str, ...] = ()
    hurried: int = 0
    without: tuple[str, ...] = field(default=())


def analyse(folder: str | Path, *, without: Sequence[str] = ()) -> Results:
    """What the listeners of a test have said so far; a server may be running meanwhile.

    Unfinished listeners count with the answers that they have given. Practice and repeats do not
    count.

    Args:
        folder: of the test.
        without: listeners to leave out, by the names that the results have for them. Decide on the
            rule before you look at the results.

    Raises:
        UserError: no test, no answers, or a listener that does not exist.
    """
    test = read_test(folder)
    with Store(folder) as store:
        listeners = {one.number: one for one in store.listeners()}
        answers = store.answers()
    unknown = set(without) - {one.ident for one in listeners.values()}
    if unknown:
        raise UserError(f"no listener is called '{min(unknown)}'", "take a name from the results")
    kept = [one for one in answers if listeners[one.listener].ident not in without]
    plans = {number: plan(test, number) for number in {one.listener for one in kept}}
    judged = tuple(
        _judge(test, listeners[one.listener], one, plans[one.listener][one.trial]) for one in kept
    )
    per_listener = Counter(one.listener.number for one in judged)
    counted = [one for one in judged if one.trial.role == "test"]
    repeats, agreed = _repeats(test, judged)
    return Results(
        test=test,
        links=len(listeners) - len(set(without)),
        started=len(per_listener),
        finished=sum(count == len(plans[number]) for number, count in per_listener.items()),
        judged=judged,
        counted=len(counted),
        comparisons=tuple(_comparison(test, pair, counted) for pair in test.pairs)
        if test.kind != "mos"
        else (),
        ratings=_ratings(test, counted) if test.kind == "mos" else (),
        repeats=repeats,
        agreed=agreed,
        inattentive=_inattentive(test, counted),
        hurried=sum(one.hurried for one in counted),
        without=tuple(sorted(set(without))),
    )


def _judge(test: Test, listener: Listener, answer: Answer, trial: Trial) -> Judged:
    chosen = correct = rating = None
    if test.kind == "mos":
        rating = int(answer.choice)
    elif answer.choice != "tie":
        chosen = trial.slots["ab".index(answer.choice)]
        if test.kind == "abx":
            correct = chosen == trial.slots[2]
    seconds = needed_s(test.items[trial.item].seconds) * len(trial.slots)
    hurried = answer.elapsed_s < 0.9 * seconds
    return Judged(listener, answer, trial, chosen, correct, rating, hurried)


def _score(test: Test, one: Judged) -> float:
    """1 for the other side or a right answer, 0 for the base or a wrong one, NaN for a tie."""
    if test.kind == "abx":
        return float(bool(one.correct))
    return float("nan") if one.chosen is None else float(one.chosen == one.trial.pair[1])


def _comparison(test: Test, pair: tuple[int, int], counted: Sequence[Judged]) -> Comparison:
    mine = [(one, _score(test, one)) for one in counted if one.trial.pair == pair]
    decided = [score for _, score in mine if score == score]
    side = "greater" if test.kind == "abx" else "two-sided"
    people: dict[str, list[float]] = defaultdict(list)
    items: dict[int, list[float]] = defaultdict(list)
    for one, score in mine:
        people[one.listener.ident].append(score)
        items[one.trial.item].append(score)
    votes = [float(np.nansum(np.array(scores) - 0.5)) for scores in people.values()]
    per_item = [(_item_name(test, item), scores) for item, scores in sorted(items.items())]
    around = _interval(mine)
    return Comparison(
        base=test.sides[pair[0]].name,
        other=test.sides[pair[1]].name,
        answers=share(int(sum(decided)), len(decided), side),
        ties=len(mine) - len(decided),
        listeners=share(sum(vote > 0 for vote in votes), sum(vote != 0 for vote in votes), side),
        undecided=sum(vote == 0 for vote in votes),
        resampled=_within(around, 0.0, 1.0),
        per_item=tuple(_group(name, scores) for name, scores in per_item),
        per_listener=tuple(_group(name, scores) for name, scores in people.items()),
    )


def _item_name(test: Test, item: int) -> str:
    one = test.items[item]
    seed = f" (seed {one.seed})" if one.seed is not None else ""
    return f"{one.prompt or f'Item {item + 1}'}{seed}"


def _group(name: str, scores: Sequence[float]) -> Group:
    won, lost = sum(score == 1 for score in scores), sum(score == 0 for score in scores)
    return Group(name, won, len(scores) - won - lost, lost)


def _interval(values: Sequence[tuple[Judged, float]]) -> tuple[float, float] | None:
    return over_both(
        [value for _, value in values],
        [one.listener.number for one, _ in values],
        [one.trial.item for one, _ in values],
    )


def _ratings(test: Test, counted: Sequence[Judged]) -> tuple[Rating, ...]:
    by_side: dict[int, list[tuple[Judged, float]]] = defaultdict(list)
    for one in counted:
        by_side[one.trial.slots[0]].append((one, float(one.rating or 0)))
    first = {(one.listener.number, one.trial.item): value for one, value in by_side[0]}
    out = []
    for index, side in enumerate(test.sides):
        values = by_side[index]
        scores = [value for _, value in values]
        pairs = [
            (one, value - first[key])
            for one, value in values
            if (key := (one.listener.number, one.trial.item)) in first
        ]
        apart = index > 0 and bool(pairs)
        out.append(
            Rating(
                side=side.name,
                role=side.role,
                mean=float(np.mean(scores)) if scores else None,
                interval=_within(_interval(values), 1.0, 5.0),
                n=len(scores),
                counts=tuple(scores.count(point) for point in (1, 2, 3, 4, 5)),
                difference=float(np.mean([value for _, value in pairs])) if apart else None,
                difference_interval=_interval(pairs) if apart else None,
            )
        )
    return tuple(out)


def _within(
    interval: tuple[float, float] | None, low: float, high: float
) -> tuple[float, float] | None:
    return None if interval is None else (max(low, interval[0]), min(high, interval[1]))


def _repeats(test: Test, judged: Sequence[Judged]) -> tuple[int, int]:
    found = {(one.listener.number, one.answer.trial): one for one in judged}
    count = agreed = 0
    for one in judged:
        if one.trial.repeats is None:
            continue
        before = found.get((one.listener.number, one.trial.repeats))
        if before is None:
            continue
        count += 1
        if test.kind == "mos":
            agreed += abs((one.rating or 0) - (before.rating or 0)) <= 1
        else:
            agreed += one.chosen == before.chosen
    return count, agreed


def _inattentive(test: Test, counted: Sequence[Judged]) -> tuple[str, ...]:
    roles = [side.role for side in test.sides]
    if test.kind != "mos" or "reference" not in roles or "anchor" not in roles:
        return ()
    heard: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for one in counted:
        heard[one.listener.ident][roles[one.trial.slots[0]]].append(one.rating or 0)
    return tuple(
        sorted(
            name
            for name, by_role in heard.items()
            if by_role["reference"]
            and by_role["anchor"]
            and np.mean(by_role["anchor"]) >= np.mean(by_role["reference"])
        )
    )
