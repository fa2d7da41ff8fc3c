"""What a server counts, as plain numbers."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)


@dataclass(slots=True)
class Histogram:
    """How often values fell between bounds.

    Attributes:
        bounds: upper bounds, ascending, each included; beyond the last one stands infinity.
        counts: one more than bounds; values of each interval alone, not added up.
        total: sum of all values.
    """

    bounds: tuple[float, ...] = BOUNDS_S
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """Values in all."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Of all values; 0 without any."""
        return self.total / self.count if self.count else 0.0

    def copy(self) -> Histogram:
        """Another one that stands still."""
        return Histogram(self.bounds, list(self.counts), self.total)


@dataclass(slots=True)
class Measures:
    """What has happened since the start of the process, and how things stand.

    Attributes:
        waiting: jobs that have not begun.
        running: jobs that have.
        held: places in the engine whose job is over for its asker (called off, out of time) and that
            the engine has not given back yet.
        held_s: how long the longest of those has been held: minutes say that the engine hangs.
        listening: subscriptions.
        accepted, repeated, rejected: requests taken, recognised by their key, refused for lack of room.
        done, failed, cancelled: jobs that ended.
        restored: jobs of an earlier process that were queued again at the start.
        audio_s: seconds of sound of the jobs that were done.
        wait_s: from acceptance (or the start, for restored ones) to the beginning.
        run_s: from the beginning to the end, of jobs that were done.
    """

    waiting: int = 0
    running: int = 0
    held: int = 0
    held_s: float = 0.0
    listening: int = 0
    accepted: int = 0
    repeated: int = 0
    rejected: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    restored: int = 0
    audio_s: float = 0.0
    wait_s: Histogram = field(default_factory=Histogram)
    run_s: Histogram = field(default_factory=Histogram)


__all__ = ["BOUNDS_S", "Histogram", "Measures"]
