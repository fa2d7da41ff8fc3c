"""Where the work of preparing is done: in processes here, or on the machines of a Ray cluster.

An engine does what is done to one recording or clip without looking at any other. What needs all of
them (doubles, near-duplicates, the split, the tables) is the pipeline's, which knows no engine: so the
rows are the same whichever it is, and however many workers it has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tunesmith.data.cut import CutRecord, CutSettings
from tunesmith.data.examine import Examined
from tunesmith.data.pool import Job
from tunesmith.data.sources import Source
from tunesmith.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from tunesmith.captioners import Captioner
    from tunesmith.types import Clip

ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Staged:
    """Clips of one recording that a model has to hear.

    Attributes:
        folder: where they are staged.
        files: their names, in order.
    """

    folder: Path
    files: tuple[str, ...]


class Engine(Protocol):
    """What does the work.

    Every method that yields does so now and then, at least a few times a second where it can, so that
    the caller can look for a wish to stop; closing what it returned ends the work. What is finished
    stays finished.
    """

    def examine(
        self, sources: Sequence[Source]
    ) -> Generator[tuple[int, Examined | None], None, None]:
        """Hashes and tags, in any order: ``(index, what was read)``, or ``(-1, None)`` meanwhile."""
        ...

    def cut(
        self, jobs: Sequence[Job], settings: CutSettings, lock: int
    ) -> Generator[tuple[int, float, CutRecord | None], None, None]:
        """As :func:`tunesmith.data.pool.cut_all`."""
        ...

    def open_captioner(self, name: str) -> Captioner:
        """The captioning model by name, wherever it runs."""
        ...

    def hear(self, captioner: Captioner, staged: Sequence[Staged]) -> Generator[int, None, None]:
        """Has a model hear clips, and leaves what it said beside them; yields how many recordings are done.

        An engine may leave this undone: whoever asks for a caption then asks the model.
        """
        ...

    def encode(
        self, clips: Sequence[Clip], base: str, should_stop: Callable[[], int]
    ) -> Iterator[int]:
        """Fills the cache with what training on ``base`` reads; yields how many clips are done."""
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


def open_engine(name: str, workers: int | None = None) -> Engine:
    """An engine by name.

    Args:
        name: ``local`` or ``ray``.
        workers: processes; ``None`` takes what pays here, or what the cluster has.

    Errors: :class:`UserError` for a name that is none, a package that is missing, a cluster that does
    not answer.
    """
    if name == "local":
        from tunesmith.data.engines.local import LocalEngine

        return LocalEngine(workers)
    if name == "ray":
        from tunesmith.data.engines.ray import RayEngine

        return RayEngine(workers)
    raise UserError(f"there is no engine called {name!r}", did_you_mean(name, ENGINES))


__all__ = ["ENGINES", "Engine", "Staged", "open_engine"]
