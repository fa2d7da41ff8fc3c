"""What a listening test is made of, and its file ``test.json``: the key that the blinding hides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tunesmith.atomic import write_bytes
from tunesmith.errors import UserError

Kind = Literal["ab", "abx", "mos"]
Role = Literal["system", "reference", "anchor"]

KINDS: tuple[Kind, ...] = get_args(Kind)
FORMAT = 1
FILE = "test.json"
SOUNDS = "sounds"

QUESTIONS: Mapping[Kind, str] = {
    "ab": "Which one do you prefer?",
    "abx": "Which one is X the same as?",
    "mos": "How good does this sound?",
}
SCALE = ("Bad", "Poor", "Fair", "Good", "Excellent")
"""Absolute category rating, 1 to 5 (ITU-T P.800, annex B)."""

LONGEST_NEEDED_S = 10.0
NEEDED_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things compared: a model, or real recordings.

    Attributes:
        name: as the results call it; no listener sees it.
        role: ``reference`` and ``anchor`` are the hidden ends of a MOS scale.
    """

    name: str
    role: Role = "system"


@dataclass(frozen=True, slots=True)
class Item:
    """The same prompt and seed, or the same file name, from every side.

    Attributes:
        prompt: its text; empty if it has none.
        seed: of its takes; None if it has none.
        sounds: file names under ``sounds/``, one a side, in the order of the sides; random.
        seconds: length, the same for all sides.
        gains_db: what loudness matching did to each.
        training: for practice; its answers do not count.
    """

    prompt: str
    seed: int | None
    sounds: tuple[str, ...]
    seconds: float
    gains_db: tuple[float, ...]
    training: bool = False


@dataclass(frozen=True, slots=True)
class Test:
    """A listening test, frozen when it is made: nothing about it changes while people listen.

    Attributes:
        kind: ``ab``, ``abx`` or ``mos``.
        title, question: what listeners read.
        seed: of every listener's order; unguessable, so that nobody can work the order out.
        sides: what is compared; A/B and ABX compare the first with each of the others.
        items: practice items first.
        ties: whether "no preference" can be answered.
        repeats: items that come twice, to see whether a listener agrees with himself.
        show_prompt: whether listeners read the prompt.
        loudness_lufs: common level of all sounds (ITU-R BS.1770-4).
        sample_rate_hz, channels: of all sounds.
        level: file name of the noise by which the volume is set.
        notes: what was done to the sounds, one sentence each.
    """

    kind: Kind
    title: str
    question: str
    seed: str
    sides: tuple[Side, ...]
    items: tuple[Item, ...]
    ties: bool
    repeats: int
    show_prompt: bool
    loudness_lufs: float
    sample_rate_hz: int
    channels: int
    level: str
    notes: tuple[str, ...] = ()

    __test__ = False  # pytest takes the name for a test of ours

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The comparisons of an A/B or ABX test: the first side with each of the others."""
        return tuple((0, other) for other in range(1, len(self.sides)))

    @property
    def choices(self) -> tuple[str, ...]:
        """What can be answered."""
        if self.kind == "mos":
            return tuple(str(point) for point in range(1, len(SCALE) + 1))
        return ("a", "tie", "b") if self.kind == "ab" and self.ties else ("a", "b")


def needed_s(seconds: float) -> float:
    """Seconds of a sound that have to be heard before an answer counts."""
    return min(NEEDED_SHARE * seconds, LONGEST_NEEDED_S)


def write_test(folder: Path, test: Test) -> None:
    """Write ``test.json``, whole or not at all; nobody but the owner may read the key."""
    told = {"format": FORMAT, **asdict(test)}
    text = json.dumps(told, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    write_bytes(folder / FILE, text.encode())
    (folder / FILE).chmod(0o600)


def read_test(folder: str | Path) -> Test:
    """The test in a folder.

    Raises:
        UserError: there is none, it is torn, or of a newer format.
    """
    file = Path(folder) / FILE
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if told.pop("format") > FORMAT:
            raise UserError(f"{file} was written by a newer version", "update tunesmith")
        items: list[dict[str, Any]] = told.pop("items")
        for item in items:
            item |= {key: tuple(item[key]) for key in ("sounds", "gains_db")}
        sides = tuple(Side(**side) for side in told.pop("sides"))
        notes = tuple(told.pop("notes"))
        test = Test(**told, sides=sides, items=tuple(Item(**one) for one in items), notes=notes)
        if test.kind not in KINDS or not test.items:
            raise ValueError("no such kind, or no items")
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no listening test there", "make one with `tunesmith listen new`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not readable ({error})", "make the test again") from None
    return test
