"""Lyrics with times (``.lrc``), and what of a recording's lyrics belongs to one of its clips.

``[01:12.50] a line`` begins 72.5 s into the recording. A line may have several times, words may have
theirs (``<01:13.00>``, which are dropped), ``[offset:+200]`` moves all of them 200 ms ahead, and
``[ar:...]`` and its like speak of the file. Lines such as ``[chorus]`` are structure tags: they are
kept as they stand and go with the line after them. Only ``[instrumental]`` is not about a line, but a
passage of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tunesmith.data.tables import TEXT_BYTES, one_line

COVERS = 0.95
"""Share of a recording that a clip has to hold for lyrics without times to be its own."""

_LINE_S = 5.0  # the longest that a line is taken to be sung, where nothing follows it
_LINES = 5000  # of one recording
_STAMPS = 50  # times of one line
_LONGEST_S = 24 * 3600.0

_STAMP = re.compile(r"\s*\[\s*(\d{1,4}(?:\s*:\s*\d{1,2}){1,2}(?:\s*[.:,]\s*\d{1,3})?)\s*\]")
_WORD_STAMP = re.compile(r"<\d{1,4}:\d{1,2}(?:[.:]\d{1,3})?>")
_LIKE_A_STAMP = re.compile(r"\s*\[\s*[-+]?\d+\s*[:.,][\d\s:.,+-]*\]")
# Of the file, not of the song. Other names before a colon are structure tags: [Verse 1: quiet].
_ABOUT = re.compile(
    r"\[\s*(al|ar|au|by|encoding|id|la|lang|length|lr|offset|re|ti|tool|ve|#)\s*:([^\[\]]*)\]\s*",
    re.IGNORECASE,
)
_TAG = re.compile(r"\s*(\[[^\[\]]*\]\s*)+")
_NOBODY_SINGS = re.compile(r"\s*\[\s*inst(rumental)?\s*\]\s*", re.IGNORECASE)

Line = tuple[float, str]
"""When a line begins, in seconds of its recording, and its words; none where the one before ends."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Lyrics with times.

    Attributes:
        lines: in their order; structure tags have the time of the line after them, or their own.
        fault: one line about what was left out; empty where nothing was.
    """

    lines: tuple[Line, ...]
    fault: str = ""


def is_timed(text: str) -> bool:
    """Whether at least half of a text's lines begin with a time, those about the file aside."""
    lines = [line for line in text.splitlines() if line.strip() and not _ABOUT.fullmatch(line)]
    lines = [line for line in lines if _STAMP.match(line) or not _is_tag(line)]
    return bool(lines) and 2 * sum(bool(_STAMP.match(line)) for line in lines) >= len(lines)


def parse(text: str) -> Timed:
    """Reads lyrics with times.

    Lines without a time, or with one that is none (negative, 75 seconds, beyond a day), are left out
    and counted in ``fault``. Nothing is raised: text that holds no time at all gives no lines.

    Args:
        text: of an ``.lrc`` file, at most 64 KiB.
    """
    found: list[Line] = []
    tags: list[str] = []
    shift_s = 0.0
    faulty: list[int] = []
    for number, raw in enumerate(text.splitlines(), 1):
        about = _ABOUT.fullmatch(raw.strip())
        if about:
            shift_s = _offset_s(about[2]) if about[1].lower() == "offset" else shift_s
            continue
        times, words = _split(raw)
        if times is None or len(found) + len(times) > _LINES:
            faulty.append(number)
        elif times:
            found += [(at, one) for at in times for one in (*tags, words)]
            tags = []
        elif words and _is_tag(words):
            tags.append(words)
        elif words:
            faulty.append(number)
    if tags and found:
        last_s = max(at for at, _ in found)
        found += [(last_s, tag) for tag in tags]
    # Sorting keeps the order of equal times, and so every tag before its line.
    moved = sorted(((max(0.0, at - shift_s), words) for at, words in found), key=lambda one: one[0])
    fault = ""
    if found and faulty:
        count = "1 line" if len(faulty) == 1 else f"{len(faulty):,} lines"
        fault = f"{count} without a time such as [01:23.45] left out (line {faulty[0]})"
    return Timed(tuple((round(at, 3), words) for at, words in moved), fault)


def _split(raw: str) -> tuple[list[float] | None, str]:
    """The times before a line and its words; None where one of them is no time."""
    times: list[float] = []
    at = 0
    while len(times) < _STAMPS and (stamp := _STAMP.match(raw, at)):
        seconds = _seconds(stamp[1])
        if seconds is None:
            return None, ""
        times.append(seconds)
        at = stamp.end()
    if _LIKE_A_STAMP.match(raw, at):
        return None, ""
    return times, one_line(_WORD_STAMP.sub("", raw[at:]))


def _seconds(stamp: str) -> float | None:
    form = r"(?:(\d+):)?(\d+):(\d+)(?:[.,](\d+))?"
    found = re.fullmatch(form, re.sub(r"\s", "", stamp))
    if found is None:
        return None
    hours, minutes, seconds, fraction = found.groups()
    # [01:12:50] is in hundredths, as some programs write them: songs do not last for hours.
    if hours is not None and fraction is None:
        hours, minutes, seconds, fraction = None, hours, minutes, seconds
    if int(seconds) >= 60 or (hours is not None and int(minutes) >= 60):
        return None
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    at = whole + (int(fraction) / 10 ** len(fraction) if fraction else 0.0)
    return at if at <= _LONGEST_S else None


def _offset_s(text: str) -> float:
    found = re.fullmatch(r"\s*([+-]?\d{1,6})\s*", text)
    return int(found[1]) / 1000 if found else 0.0


def plain(lines: Sequence[Line]) -> str:
    """The words of timed lyrics, a line each."""
    return "\n".join(words for _, words in lines if words)


def between(lines: Sequence[Line], start_s: float, end_s: float, recording_s: float) -> str:
    """The lines of a stretch: those whose middle it holds, so that each is in one clip and no more.

    A line lasts until the next one, or until an empty one, at most five seconds. A structure tag goes
    with the line after it; behind the last line it stands where its time is. ``[instrumental]`` is a
    passage of its own, as long as it takes, and told of every stretch in the midst of it.

    Args:
        lines: of the recording, in their order.
        start_s, end_s: of the stretch, in seconds of the recording.
        recording_s: how long that is.
    """
    placed = list(_placed(lines, recording_s))
    inside = [one.line for one in placed if start_s <= one.middle_s < end_s]
    if not inside:
        middle_s = (start_s + end_s) / 2
        inside = [one.line for one in placed if one.begin_s <= middle_s < one.silent_until_s][:1]
    return plain(inside)


class _Place(NamedTuple):
    line: Line
    begin_s: float
    middle_s: float
    silent_until_s: float = 0.0  # where a passage ends in which nobody sings


def _placed(lines: Sequence[Line], recording_s: float) -> Iterator[_Place]:
    until_s = [recording_s] * len(lines)
    for index in range(len(lines) - 2, -1, -1):
        after_s = lines[index + 1][0]
        until_s[index] = after_s if after_s > lines[index][0] else until_s[index + 1]
    tags: list[Line] = []
    for line, end_s in zip(lines, until_s, strict=True):
        at, words = line
        passage = _NOBODY_SINGS.fullmatch(words) is not None
        if not words:
            continue
        if _is_tag(words) and not passage:
            tags.append(line)
            continue
        longest_s = end_s if passage else min(end_s, at + _LINE_S)
        # One that begins when the recording is over is in no part of it.
        middle_s = (at + max(at, min(longest_s, recording_s))) / 2
        yield from (_Place(tag, at, middle_s) for tag in tags)
        yield _Place(line, at, middle_s, end_s if passage else 0.0)
        tags = []
    yield from (_Place(line, line[0], line[0]) for line in tags)


def beyond(lines: Sequence[Line], recording_s: float) -> int:
    """How many lines begin after a recording has ended."""
    return sum(bool(words) and at >= recording_s for at, words in lines)


def of_clip(
    text: str, lines: Sequence[Line], start_s: float, end_s: float, recording_s: float
) -> str:
    """What of a recording's lyrics is a clip's; empty where nobody can tell.

    Args:
        text: the lyrics.
        lines: the same with times; empty where they have none.
        start_s, end_s: of the clip in the recording.
        recording_s: how long the recording is.
    """
    if lines:
        return between(lines, start_s, end_s, recording_s)[: TEXT_BYTES // 4]
    # Where nobody sings, nobody sings in any part.
    whole = end_s - start_s >= COVERS * recording_s or _NOBODY_SINGS.fullmatch(text)
    return text if whole else ""


def are_sung(text: str) -> bool:
    """Whether lyrics hold words, and not only structure tags such as ``[instrumental]``."""
    return any(line.strip() and not _is_tag(line) for line in text.splitlines())


def _is_tag(line: str) -> bool:
    return _TAG.fullmatch(line) is not None


__all__ = [
    "COVERS",
    "Line",
    "Timed",
    "are_sung",
    "between",
    "beyond",
    "is_timed",
    "of_clip",
    "parse",
    "plain",
]
