"""What is known of each clip of a data set: read where `prepare` wrote it, measured where not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.data._sound import read_start
from tunesmith.data.recording import BadRecording
from tunesmith.data.sources import Rejection
from tunesmith.errors import UserError
from tunesmith.types import Clip

LONGEST_S = 300.0
"""Of a file that was never cut into clips, so much is measured, from its beginning."""

_MEND = "run `tunesmith prepare` again, or remove that file to have the clips measured anew"


@dataclass(frozen=True, slots=True)
class FaultFound:
    """Something wrong with a clip; as :class:`tunesmith.analysis.faults.Fault`."""

    name: str
    figure: float | None
    unit: str
    reason: str


@dataclass(frozen=True, slots=True)
class Measured:
    """One clip.

    Attributes:
        file: its path in the data set, with ``/``.
        loudness_lufs: integrated; None for silence.
        tempo_bpm: None where no pulse is clear.
        key: ``F major``; None where there is none.
        tempo_confidence, key_confidence: 0 to 1.
        bandwidth_hz: where its sound ends.
        faults: what is wrong with it.
        repeats: other clips with the same sound: (file, share of the shorter one's time).
    """

    file: str
    loudness_lufs: float | None
    tempo_bpm: float | None
    tempo_confidence: float
    key: str | None
    key_confidence: float
    bandwidth_hz: float | None
    faults: tuple[FaultFound, ...] = ()
    repeats: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row of ``rejected.jsonl``: a stretch of sound that became no clip."""

    file: str
    start_s: float
    reason: str
    fault: str


def name_of(clip: Clip, root: Path) -> str:
    """``train/x.flac``: how a clip is called in every table and on the page."""
    try:
        return clip.path.relative_to(root).as_posix()
    except ValueError:  # reached through a link
        return f"{clip.split}/{clip.path.name}"


def measured(
    clips: Sequence[Clip],
    root: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Measured], list[str], list[Rejection]]:
    """One :class:`Measured` per readable clip, in order, notes for the reader, the unreadable.

    Args:
        clips: of one data set.
        root: its folder.
        on_progress: told ``(done, total)`` while clips have to be measured.

    Raises:
        UserError: a line of ``measures.jsonl`` that cannot be read.
    """
    table = root / "measures.jsonl"
    known = {one.file: one for one in _read(table)} if table.is_file() else {}
    names = [name_of(clip, root) for clip in clips]
    missing = [index for index, name in enumerate(names) if name not in known]
    notes: list[str] = []
    bad: list[Rejection] = []
    if missing:
        fresh, notes = _measure([(clips[i], names[i]) for i in missing], on_progress, bad)
        known |= {one.file: one for one in fresh}
        if fresh:
            here = _count(len(fresh), "clip")
            notes.insert(0, f"{here} measured now: no measures.jsonl has them")
    return [known[name] for name in names if name in known], notes, bad


def refusals(root: Path) -> list[Refusal]:
    """The rows of ``rejected.jsonl``; none where there is no such file.

    Raises:
        UserError: a line that cannot be read.
    """
    path = root / "rejected.jsonl"
    if not path.is_file():
        return []
    found = []
    for where, row in _lines(path):
        try:
            reason = str(row["reason"])
            start_s = float(row.get("start_s") or 0.0)
            found.append(Refusal(str(row["file"]), start_s, reason, str(row.get("fault") or "")))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: bad or missing column {error}", _MEND) from None
    return found


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", _MEND) from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{where} is no JSON", _MEND) from None
        if not isinstance(row, dict):
            raise UserError(f"{where} is no JSON object", _MEND)
        yield where, row


def _read(path: Path) -> Iterator[Measured]:
    for where, row in _lines(path):
        try:
            yield _from_row(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where}: bad or missing column {error}", _MEND) from None


def _from_row(row: Mapping[str, Any]) -> Measured:
    faults = tuple(
        FaultFound(
            str(one["name"]), _number(one.get("figure")), str(one["unit"]), str(one["reason"])
        )
        for one in row.get("faults", ())
    )
    repeats = tuple((str(one["file"]), float(one["share"])) for one in row.get("repeats", ()))
    return _from_facts(
        str(row["file"]), row["facts"], _number(row.get("bandwidth_hz")), faults, repeats
    )


def _from_facts(
    file: str,
    facts: Mapping[str, Any],
    bandwidth_hz: float | None,
    faults: tuple[FaultFound, ...],
    repeats: tuple[tuple[str, float], ...],
) -> Measured:
    key = facts["key"]
    return Measured(
        file=file,
        loudness_lufs=_number(facts["loudness_lufs"]),
        tempo_bpm=_number(facts["tempo_bpm"]),
        tempo_confidence=_number(facts.get("tempo_confidence")) or 0.0,
        key=str(key) if key else None,
        key_confidence=_number(facts.get("key_confidence")) or 0.0,
        bandwidth_hz=bandwidth_hz,
        faults=faults,
        repeats=repeats,
    )


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _measure(
    clips: Sequence[tuple[Clip, str]],
    on_progress: Callable[[int, int], None],
    bad: list[Rejection],
) -> tuple[list[Measured], list[str]]:
    from tunesmith.analysis.facts import measure
    from tunesmith.analysis.faults import bandwidth_hz, find_faults
    from tunesmith.analysis.fingerprint import Index, fingerprint

    index = Index()
    found: list[Measured] = []
    same: dict[str, dict[str, float]] = {name: {} for _, name in clips}
    for done, (clip, name) in enumerate(clips):
        on_progress(done, len(clips))
        try:
            samples, rate = read_start(clip.path, LONGEST_S)
        except BadRecording as error:
            bad.append(Rejection(name, 0.0, str(error)))
            continue
        faults = tuple(
            FaultFound(one.name, _number(one.figure), one.unit, one.reason)
            for one in find_faults(samples, rate)
        )
        facts = measure(samples, rate).to_json()
        found.append(_from_facts(name, facts, _number(bandwidth_hz(samples, rate)), faults, ()))
        mark = fingerprint(samples, rate)
        if mark:
            for match in index.find(mark):
                same[name][str(match.key)] = same[str(match.key)][name] = float(match.share)
            index.add(name, mark)
    on_progress(len(clips), len(clips))
    long = sum(clip.duration_s > LONGEST_S for clip, _ in clips)
    notes = []
    if long:
        notes.append(
            f"{_count(long, 'file')} longer than {LONGEST_S / 60:g} minutes: only the beginning "
            "was measured; `tunesmith prepare` cuts them into clips"
        )
    return [_with_repeats(one, same[one.file]) for one in found], notes


def _with_repeats(one: Measured, same: Mapping[str, float]) -> Measured:
    return replace(one, repeats=tuple(sorted(same.items())))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
