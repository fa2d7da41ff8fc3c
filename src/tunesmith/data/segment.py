"""Cuts a recording into clips, at quiet places and on the beat, while it streams by.

A decision about a cut is made only when the buffer holds everything that it depends on (``max_s +
min_s``, or the end), so the clips do not depend on how the sound was cut into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tunesmith.errors import UserError

SHORTEST_S = 0.2
LONGEST_S = 600.0
# One step of 16 bits, with room for its rounding: what dithered digital silence peaks at.
SILENCE_PEAK = 1.5 / 32768

_WINDOW_S = 0.05  # what must be quiet: about the gap between two words
_HOP_S = 0.01
_LATE_DB = 6.0  # how much quieter an early place must be to win over the latest one
_FLOOR_DB = -70.0  # below this, quiet is quiet
_PAUSE_DB = 30.0  # a place this far below the stretch's level is a pause, and beats any beat
_PRE_ROLL_S = 0.01  # a clip begins just before its first beat, so that the attack is whole

BeatFinder = Callable[[np.ndarray, int], "np.ndarray | None"]
"""Takes samples ``[T, C]`` and Hz; gives beat times in seconds, or ``None`` where no pulse is clear."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a recording: a clip, or what is thrown away.

    Attributes:
        start: first frame.
        samples: float32 ``[T, C]``.
        reason: empty for a clip, else why it is none.
        fault: that reason's short name, ``silence`` or ``too_short``.
        figure: what was measured for it.
        unit: of the figure.
    """

    start: int
    samples: np.ndarray
    reason: str = ""
    fault: str = ""
    figure: float = 0.0
    unit: str = ""


def check_lengths(min_s: float, max_s: float) -> None:
    """Errors: :class:`UserError` unless ``0.2 <= min_s <= max_s <= 600``."""
    if not (math.isfinite(min_s) and math.isfinite(max_s)):
        raise UserError("clip lengths must be numbers", "give seconds, for example 10 and 30")
    if min_s < SHORTEST_S:
        raise UserError(f"clips of {min_s:g} s are too short", f"{SHORTEST_S} s is the least")
    if max_s > LONGEST_S:
        raise UserError(f"clips of {max_s:g} s are too long", f"{LONGEST_S:g} s is the most")
    if max_s < min_s:
        raise UserError(
            f"clips cannot be at least {min_s:g} s and at most {max_s:g} s long",
            "lower --min-seconds or raise --max-seconds",
        )


class Segmenter:
    """Takes blocks, gives pieces.

    Every clip is ``min_s`` to ``max_s`` long. Cuts fall at the quietest 50 ms in the upper half of
    that range; where a pulse is clear and the music does not pause, just before the beat with the
    quietest 50 ms ahead of it. The last two clips share what is left, so that nothing is lost as
    long as ``max_s >= 2 * min_s``. A clip of digital silence comes back with a reason.

    Args:
        sample_rate_hz: of the blocks.
        min_s, max_s: bounds of a clip.
        find_beats: hears the beats of a stretch; ``None`` cuts at quiet places only.

    Errors: :class:`UserError` from :func:`check_lengths`.
    """

    def __init__(
        self,
        sample_rate_hz: int,
        min_s: float,
        max_s: float,
        find_beats: BeatFinder | None = None,
    ) -> None:
        check_lengths(min_s, max_s)
        self._rate = sample_rate_hz
        self._find_beats = find_beats
        self._min_s = min_s
        # The millionth keeps 0.29 * 100 = 28.999999999999996 from losing a frame.
        self._max = max(1, math.floor(max_s * sample_rate_hz + 1e-6))
        self._min = min(self._max, max(1, math.ceil(min_s * sample_rate_hz - 1e-6)))
        self._blocks: list[np.ndarray] = []
        self._held = 0
        self._start = 0

    def push(self, block: np.ndarray) -> Iterator[Piece]:
        """Adds float32 ``[T, C]``; gives the pieces that are settled by it."""
        if not len(block):
            return
        self._blocks.append(block)
        self._held += len(block)
        while self._held >= self._max + self._min:
            yield self._cut((self._min + self._max) // 2, self._max)

    def finish(self) -> Iterator[Piece]:
        """The pieces that are left at the end of the recording."""
        while self._held > self._max:
            # push() has left less than max + min, so that any cut leaves at most max_s.
            low, high = self._min, min(self._max, self._held - self._min)
            if low <= high:  # about halves: twenty and twenty rather than thirty and ten
                middle = self._held // 2
                low, high = max(low, middle - middle // 4), min(high, middle + middle // 4)
            else:  # max_s < 2 * min_s: this rest cannot be made into two clips
                low, high = (self._min + self._max) // 2, self._max
            yield self._cut(low, high)
        if not self._held:
            return
        samples, start = self._join(), self._start
        self._blocks, self._held = [], 0
        self._start += len(samples)
        if len(samples) >= self._min:
            yield _checked(Piece(start, samples))
            return
        what = "the rest is" if start else "is"
        seconds = len(samples) / self._rate
        reason = f"{what} {seconds:.2f} s long, shorter than the {self._min_s:g} s asked for"
        yield Piece(start, samples, reason, "too_short", round(seconds, 3), "s")

    def _join(self) -> np.ndarray:
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0]

    def _cut(self, low: int, high: int) -> Piece:
        held = self._join()
        beats = None
        if self._find_beats is not None and low < high:
            # Nothing beyond `high`: how much more is held depends on how the blocks came.
            times_s = self._find_beats(held[:high], self._rate)
            if times_s is not None:
                beats = np.rint((times_s - _PRE_ROLL_S) * self._rate).astype(np.int64)
        at = quietest(held, low, high, self._rate, beats)
        piece = Piece(self._start, held[:at])
        self._blocks = [held[at:].copy()]  # a view would keep the whole buffer alive
        self._held -= at
        self._start += at
        return _checked(piece)


def _checked(piece: Piece) -> Piece:
    if np.abs(piece.samples).max() > SILENCE_PEAK:
        return piece
    peak_db = 20 * math.log10(max(float(np.abs(piece.samples).max()), 1e-6))
    return Piece(piece.start, piece.samples, "digital silence", "silence", peak_db, "dBFS")


def quietest(
    samples: np.ndarray,
    low: int,
    high: int,
    sample_rate_hz: int,
    beats: np.ndarray | None = None,
) -> int:
    """The frame in ``low..high`` in the middle of the quietest 50 ms, late ones preferred.

    Args:
        samples: float32 ``[T, C]``.
        low, high: bounds in frames, both allowed, ``low <= high <= T``.
        sample_rate_hz: of the samples.
        beats: int64 ``[N]`` frames that are better than others, unless there is a pause.
    """
    half = max(1, round(_WINDOW_S * sample_rate_hz / 2))
    hop = max(1, round(_HOP_S * sample_rate_hz))
    places = np.arange(high, low - 1, -hop)  # from the latest: argmin takes the first of equals
    left = max(0, low - half)
    part = samples[left : high + half]
    power = np.einsum("tc,tc->t", part, part, dtype=np.float64) / samples.shape[1]
    total = np.concatenate([[0.0], np.cumsum(power)])
    begins = np.maximum(places - half, left) - left
    ends = np.minimum(places + half, len(samples)) - left
    mean = (total[ends] - total[begins]) / np.maximum(ends - begins, 1)
    level_db = np.maximum(10 * np.log10(np.maximum(mean, 1e-12)), _FLOOR_DB)
    early = (high - places) / max(1, high - low)
    best = int(np.argmin(level_db + _LATE_DB * early))
    if beats is None:
        return int(places[best])
    loud_db = 10 * math.log10(max(float(power.mean()), 1e-12))
    inside = beats[(beats >= low) & (beats <= high)][::-1]
    if not len(inside) or level_db[best] < loud_db - _PAUSE_DB:
        return int(places[best])
    # What rings on into the cut is what lies ahead of the beat, not the beat itself.
    before = np.maximum(inside - 2 * half, left) - left
    mean = (total[inside - left] - total[before]) / np.maximum(inside - left - before, 1)
    level_db = np.maximum(10 * np.log10(np.maximum(mean, 1e-12)), _FLOOR_DB)
    early = (high - inside) / max(1, high - low)
    return int(inside[np.argmin(level_db + _LATE_DB * early)])
