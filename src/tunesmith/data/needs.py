"""How much sound each technique needs, as a table, and the verdict on what there is.

The figures of :data:`NEEDS` are rules of thumb: what people report to work, no law. They are data:
a better one changes one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tunesmith.errors import UserError, did_you_mean

Unit = Literal["recordings", "clips", "clean minutes"]
Sensitivity = Literal["moderate", "high", "very high"]
Word = Literal["too little", "enough to try", "good", "best"]

WORDS: tuple[Word, ...] = ("too little", "enough to try", "good", "best")

WORST_SHARE: Mapping[Sensitivity, float] = {"moderate": 0.25, "high": 0.1, "very high": 0.05}
"""Share of flawed clips above which a verdict falls by one word: what is trained on is learnt."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one technique needs.

    Attributes:
        method: its name, as a user types it.
        unit: what is counted.
        least: below this it is too little.
        good: from here on more brings less than better would.
        best: from here on more brings little.
        sensitivity: how much bad sound costs.
        aim: what it is for.
        alike: the sound is meant to be of one kind, so little variety is no fault.
    """

    method: str
    unit: Unit
    least: float
    good: float
    best: float
    sensitivity: Sensitivity
    aim: str
    alike: bool = False


# Where a range is known ("50 to 200, best 500"), `good` is its upper end; for full training and
# voices, of which only both ends are known, the geometric middle.
NEEDS: tuple[Need, ...] = (
    Need("full", "recordings", 500, 1600, 5000, "moderate", "the whole model"),
    Need("lora", "recordings", 50, 200, 500, "high", "a style or genre"),
    Need("textual_inversion", "clips", 10, 50, 100, "very high", "one sound as a word", True),
    Need("dreambooth", "clips", 10, 30, 100, "very high", "one sound as a subject", True),
    Need("voice", "clean minutes", 5, 12, 30, "very high", "one voice", True),
)

LIKE: Mapping[str, str] = {"prefix": "lora", "bottleneck": "lora"}
"""Techniques that need what another one needs."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What there is, counted once; variants and rejected sound are never in it.

    Attributes:
        recordings, clips, minutes: without flawed clips and near repeats.
        clips_all: with them.
        flawed: clips with a fault.
        repeats: clips that repeat another.
        rejected: stretches of sound that became no clip.
        train: clips to train with.
        recordings_all: recordings there are, flawed ones and repeats included.
        different: how many clips they sound like; None where that was not measured.
        heard: of how many clips.
    """

    recordings: int
    clips: int
    minutes: float
    clips_all: int
    flawed: int
    repeats: int
    rejected: int
    train: int
    recordings_all: int
    different: float | None = None
    heard: int = 0

    @property
    def clean_share(self) -> float:
        """Share of the clips that count."""
        return self.clips / self.clips_all if self.clips_all else 0.0

    @property
    def homogeneous(self) -> bool:
        """Fewer different sounds than a fifth of the clips, or than a dozen."""
        if self.different is None or self.heard < 8:
            return False
        return self.different < 0.2 * min(self.heard, 60)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether there is enough for one technique.

    Attributes:
        method: which.
        word: the verdict.
        counted: how many count.
        unit: of what.
        least, good, best: the bounds.
        sensitivity: to bad sound.
        sentences: why, in plain words.
        mend: what to do, most useful first.
        lowered: why the word is a lower one than the count alone would give; empty if it is not.
    """

    method: str
    word: Word
    counted: float
    unit: Unit
    least: float
    good: float
    best: float
    sensitivity: Sensitivity
    sentences: tuple[str, ...]
    mend: tuple[str, ...]
    lowered: str = ""


def need_of(method: str) -> Need:
    """The line of a technique.

    Raises:
        UserError: no such technique.
    """
    name = LIKE.get(method, method)
    for need in NEEDS:
        if need.method == name:
            return need
    known = [*(need.method for need in NEEDS), *LIKE]
    raise UserError(f"no technique '{method}' to check for", did_you_mean(method, known))


def verdicts(method: str, tally: Tally) -> tuple[Verdict, ...]:
    """One of every technique, the one asked for first.

    Raises:
        UserError: no such technique.
    """
    asked = need_of(method)
    others = [need for need in NEEDS if need is not asked]
    return (judge(asked, tally, method), *(judge(need, tally) for need in others))


def judge(need: Need, tally: Tally, method: str = "") -> Verdict:
    """Count what counts, compare it with the table, and lower the word where much is flawed."""
    counted = {
        "recordings": float(tally.recordings),
        "clips": float(tally.clips),
        "clean minutes": tally.minutes,
    }[need.unit]
    name = method or need.method
    level = sum(counted >= bound for bound in (need.least, need.good, need.best))
    sentences = [_counted(counted, need, level)]
    mend = []
    lowered = ""
    if tally.train == 0 and tally.clips_all:
        lowered = "no clip is there to train with" if level else ""
        level = 0
        sentences.append("No clip is there to train with: all of them are for validation.")
        mend.append("put clips into a folder named train, or let `tunesmith prepare` divide them")
    if level < 3:
        goal = (need.least, need.good, need.best)[level]
        mend.append(f"add {amount(goal - counted, need.unit)}")
    sentences += _left_out(tally)
    bad = tally.flawed / tally.clips_all if tally.clips_all else 0.0
    limit = WORST_SHARE[need.sensitivity]
    if bad > limit:
        text = f"{percent(bad)} of the clips have faults, and {name} takes faults over"
        if level:
            level -= 1
            text += f": '{WORDS[level]}' instead of '{WORDS[level + 1]}'"
            lowered = f"{percent(bad)} of the clips have faults"
        sentences.append(f"{text}. At most {percent(limit)} would do no harm.")
        mend.insert(0, "replace the clips with faults, or leave them out (`prepare` does)")
    if tally.homogeneous and tally.different is not None:
        sentences.append(
            f"{tally.heard:,} clips sound like {tally.different:.0f} different ones"
            + (
                ", as is meant for one sound."
                if need.alike
                else f": {name} will learn those few, whatever the number of clips."
            )
        )
        if not need.alike:
            mend.append("add recordings that sound otherwise: tempo, key, instruments, rooms")
    return Verdict(
        name, WORDS[level], round(counted, 2), need.unit, need.least, need.good, need.best,
        need.sensitivity, tuple(sentences), tuple(mend), lowered,
    )  # fmt: skip


def percent(share: float) -> str:
    """``7 %``; what is not nothing never reads 0 %."""
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def amount(number: float, unit: Unit) -> str:
    """``13 clean recordings``, ``4.5 clean minutes``: rounded up, so that it is enough."""
    if unit == "clean minutes":
        tenths = -(-round(number * 1000) // 100)
        return f"{tenths / 10:g} {unit}"
    whole = int(-(-number // 1))
    return f"{whole:,} clean {unit[:-1] if whole == 1 else unit}"


def _counted(counted: float, need: Need, level: int) -> str:
    shown = f"{counted:.1f}" if need.unit == "clean minutes" else f"{counted:,.0f}"
    unit = need.unit if shown not in ("1", "1.0") else need.unit[:-1]
    bound = (
        f"at least {need.least:,.0f} are needed",
        f"{need.least:,.0f} are the least, {need.good:,.0f} are good",
        f"{need.good:,.0f} are good, {need.best:,.0f} the best",
        f"more than {need.best:,.0f} bring little",
    )[level]
    return f"{shown} {unit} count{'s' if unit != need.unit else ''}; {bound}."


def _left_out(tally: Tally) -> list[str]:
    parts = []
    if tally.flawed:
        parts.append(f"{tally.flawed:,} with faults")
    if tally.repeats:
        verb = "repeats" if tally.repeats == 1 else "repeat"
        parts.append(f"{tally.repeats:,} that {verb} another")
    if not parts:
        return []
    out = tally.clips_all - tally.clips
    verb = "does" if out == 1 else "do"
    return [f"{out:,} of {tally.clips_all:,} clips {verb} not count: {', '.join(parts)}."]
