"""Cuts a recording of speech into clips at its pauses, never through a word.

A recording is decoded twice: once to hear where somebody speaks, once to take the clips. So every cut is
made with the whole in view, and memory does not grow with a recording's length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from tunesmith.analysis.voice_activity import Activity, Listener, Stretch
from tunesmith.data.recording import Limits, Recording
from tunesmith.data.segment import Piece

MIN_S, MAX_S = 1.0, 12.0
"""Bounds of a clip of speech, unless others are asked for: a phrase to a long sentence."""

PADDING_S = 0.08
"""Kept before and after the speech, where the pause is long enough."""

NO_SPEECH, TOO_LONG = "no_speech", "too_long"

_PAUSE_S = 0.15  # the shortest pause to cut in: a stop within a word can be silent for 0.1 s
_LONG_PAUSE_S = 1.5  # longer ones do not belong into a clip
_LIKED_S = 6.0
_ROOM_S = 2.0  # around a clip, in which its background is looked for


@dataclass(frozen=True, slots=True)
class SpokenPiece(Piece):
    """A clip of speech, with what was heard of it in its recording.

    Attributes:
        speech_s: how long somebody speaks in it.
        speech_db, background_db: levels of the speech and of what it stands in, dBFS up to 8 kHz
            (:meth:`tunesmith.analysis.voice_activity.Activity.levels_db`).
    """

    speech_s: float = 0.0
    speech_db: float | None = None
    background_db: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Where a clip begins and ends, and what it holds; a reason if it is none."""

    start_s: float
    end_s: float
    reason: str = ""
    fault: str = ""
    figure: float = 0.0


class SpokenPieces:
    """The clips of a recording, in order, and what of its speech can be none.

    Args:
        path: the file, which is opened once more.
        recording: the same, from whose blocks the clips are taken.
        min_s, max_s: bounds of a clip.
        limits: what a recording may be.

    Attributes:
        decoded_s: length of the recording.

    Errors: :class:`~tunesmith.data.recording.BadRecording`;
        :class:`~tunesmith.errors.UserError` where silero-vad is not installed.
    """

    def __init__(
        self, path: Path, recording: Recording, min_s: float, max_s: float, limits: Limits
    ) -> None:
        with Recording(path, limits=limits) as first:
            listener = Listener(first.sample_rate_hz)
            for block in first.blocks():
                listener.push(block)
        self._heard = listener.finish()
        self._recording = recording
        self._spans = plan(self._heard, min_s, max_s)
        self.decoded_s = self._heard.duration_s

    def __iter__(self) -> Iterator[SpokenPiece]:
        rate = self._recording.sample_rate_hz
        blocks = self._recording.blocks()
        held, start = np.zeros((0, self._recording.channels), np.float32), 0
        for span in self._spans:
            first, last = round(span.start_s * rate), round(span.end_s * rate)
            if span.reason:  # as long as it may be, nobody needs its samples
                yield self._piece(held[:0], first, span)
                continue
            parts, end = [held], start + len(held)
            while end < last and (block := next(blocks, None)) is not None:
                if end <= first:  # all that is held lies before the clip
                    parts, start = [], end
                parts.append(block)
                end += len(block)
            held = np.concatenate(parts)
            yield self._piece(held[first - start : last - start], first, span)
            held, start = held[last - start :].copy(), last  # a view would keep all of it alive

    def _piece(self, samples: np.ndarray, start: int, span: Span) -> SpokenPiece:
        said_s = sum(
            min(one.end_s, span.end_s) - max(one.start_s, span.start_s)
            for one in self._heard.stretches
            if one.end_s > span.start_s and one.start_s < span.end_s
        )
        speech_db, background_db = self._heard.levels_db(span.start_s, span.end_s, _ROOM_S)
        return SpokenPiece(
            start, samples, span.reason, span.fault, span.figure, "s",
            round(said_s, 3), speech_db, background_db,
        )  # fmt: skip


def plan(heard: Activity, min_s: float, max_s: float) -> list[Span]:
    """Where to cut a recording.

    What is no longer than ``max_s`` from its first word to its last stays one clip, so that a text that
    lies beside it is the clip's. Longer ones are cut where the sum of costs is least: a clip costs the more
    the further its length is from six seconds, a cut the more the shorter its pause. Pauses of more than
    1.5 s are always cut in, where that leaves no clip below ``min_s``.
    """
    speech = heard.stretches
    if not speech:
        return [Span(0.0, heard.duration_s, "nobody speaks in it", NO_SPEECH)]
    short = speech[-1].end_s - speech[0].start_s <= max_s
    groups = [(0, len(speech))] if short else _grouped(speech, min_s, max_s)
    spans = []
    for first, last in groups:
        before_s = speech[first - 1].end_s if first else 0.0
        after_s = speech[last].start_s if last < len(speech) else heard.duration_s
        spans.append(_span(speech[first], speech[last - 1], before_s, after_s, min_s, max_s, heard))
    return spans


def _span(
    first: Stretch,
    last: Stretch,
    before_s: float,
    after_s: float,
    min_s: float,
    max_s: float,
    heard: Activity,
) -> Span:
    """A clip from its first stretch to its last, padded, but never beyond the middle of a pause."""
    # At the ends of a recording the pause is nobody else's.
    left_s = first.start_s - before_s
    right_s = after_s - last.end_s
    left_s = left_s if before_s <= 0 else left_s / 2
    right_s = right_s if after_s >= heard.duration_s else right_s / 2
    said_s = last.end_s - first.start_s
    room_s = max(0.0, max_s - said_s)
    # A short word may have longer margins, if that makes it long enough.
    pad_s = min(max(PADDING_S, (min_s - said_s) / 2 + 0.002), 3 * PADDING_S, room_s / 2)
    start_s, end_s = first.start_s - min(pad_s, left_s), last.end_s + min(pad_s, right_s)
    long_s = end_s - start_s
    if said_s > max_s:
        reason = f"{said_s:.1f} s of speech without a pause to cut in, longer than the {max_s:g} s asked for"
        return Span(start_s, end_s, reason, TOO_LONG, round(said_s, 3))
    if long_s < min_s:
        reason = f"{long_s:.2f} s of speech, shorter than the {min_s:g} s asked for"
        return Span(start_s, end_s, reason, "too_short", round(long_s, 3))
    return Span(start_s, end_s)


def _grouped(speech: Sequence[Stretch], min_s: float, max_s: float) -> list[tuple[int, int]]:
    """``(first, last + 1)`` of the stretches of each clip: the cheapest way through."""
    count = len(speech)
    pauses_s = [b.start_s - a.end_s for a, b in pairwise(speech)]
    best = [0.0] + [math.inf] * count
    before = [0] * (count + 1)
    for end in range(1, count + 1):
        for start in range(end - 1, -1, -1):
            long_s = speech[end - 1].end_s - speech[start].start_s
            if long_s > max_s and end - start > 1:
                break
            cost = best[start] + _cost(long_s, min_s, max_s)
            cost += sum(4.0 for pause in pauses_s[start : end - 1] if pause > _LONG_PAUSE_S)
            if end < count:
                cost += _cut_cost(pauses_s[end - 1])
            if cost < best[end]:
                best[end], before[end] = cost, start
    groups = []
    end = count
    while end:
        groups.append((before[end], end))
        end = before[end]
    return groups[::-1]


def _cost(long_s: float, min_s: float, max_s: float) -> float:
    if long_s > max_s:
        return 1000.0
    if long_s + 2 * PADDING_S < min_s:
        return 20.0  # it would be lost
    liked_s = min(max(_LIKED_S, min_s), max_s)
    return abs(math.log(max(long_s, 0.05) / liked_s))


def _cut_cost(pause_s: float) -> float:
    """1 for a pause of 0.15 s, a third for 0.45 s; what is shorter may lie within a word."""
    return 500.0 if pause_s < _PAUSE_S else _PAUSE_S / pause_s
