"""The engine of one machine: plain child processes, and models in this one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from tunesmith.data.cut import CutRecord, CutSettings
from tunesmith.data.engines import Staged
from tunesmith.data.examine import Examined, examine
from tunesmith.data.pool import Job, cut_all, how_many
from tunesmith.data.sources import Source

if TYPE_CHECKING:
    from tunesmith.captioners import Captioner
    from tunesmith.types import Clip


class LocalEngine:
    """An :class:`~tunesmith.data.engines.Engine`. ``workers`` is as in :func:`.pool.how_many`."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers

    def examine(
        self, sources: Sequence[Source]
    ) -> Generator[tuple[int, Examined | None], None, None]:
        for index, source in enumerate(sources):
            yield index, examine(source)

    def cut(
        self, jobs: Sequence[Job], settings: CutSettings, lock: int
    ) -> Generator[tuple[int, float, CutRecord | None], None, None]:
        return cut_all(jobs, settings, how_many(jobs, self._workers), lock)

    def open_captioner(self, name: str) -> Captioner:
        from tunesmith.captioners import open_captioner

        return open_captioner(name)

    def hear(self, captioner: Captioner, staged: Sequence[Staged]) -> Generator[int, None, None]:
        yield from ()  # clip by clip, when its caption is asked for

    def encode(
        self, clips: Sequence[Clip], base: str, should_stop: Callable[[], int]
    ) -> Iterator[int]:
        from tunesmith.data.encode import encode, open_frozen

        bundle = open_frozen(base)
        for done, clip in enumerate(clips, 1):
            encode([clip], bundle, should_stop=should_stop)
            yield done

    def close(self) -> None: ...
