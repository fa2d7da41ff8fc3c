"""What is asked of a server, and what an engine that answers it looks like.

The path of a request: ``app`` (HTTP) → ``jobs`` (queue, limits, store) → an :class:`Engine` (the model) →
its :class:`Sink`, which ``jobs`` holds. Nothing flows the other way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from tunesmith.families._bundle import Bundle
from tunesmith.types import Audio, Details, GenerationSettings

Task = Literal["continue", "inpaint", "edit"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """The sound that another is made from, and how.

    Attributes:
        task: ``continue`` (the result begins with it), ``inpaint`` (spans of it are made anew) or ``edit``
            (all of it is, by degrees).
        audio: id of the sound.
        spans: of ``inpaint``, ``(begin, end)`` in seconds.
        strength: of ``edit``, 0 (it stays) to 1 (nothing of it stays).
        sha256: of its file; known once the request is accepted.
        file: where it lies; known while the request is in the engine.
    """

    task: Task
    audio: str
    spans: tuple[tuple[float, float], ...] = ()
    strength: float = 0.6
    sha256: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One sound that is wanted; checked before it is made.

    Attributes:
        id: opaque, unique; chosen by who accepted it.
        prompt: text.
        duration_s: length; the most, where the text decides it.
        seed: what, with everything else here, makes the same sound again.
        settings: sampling; None is the base's own.
        adapters: ``{name: weight}`` of what is mixed in; empty is the base.
        details: what is said beside the prompt, in the base's ``columns``.
        streamed: whether parts are wanted before the whole is there.
        made_from: the sound that it begins from; None makes one of the text alone.
    """

    id: str
    prompt: str
    duration_s: float
    seed: int
    settings: GenerationSettings | None = None
    adapters: Mapping[str, float] = field(default_factory=dict)
    details: Details | None = None
    streamed: bool = False
    made_from: MadeFrom | None = None


class Sink(Protocol):
    """Where an engine puts what becomes of a request; called from the engine's own thread, quickly."""

    def progress(self, share: float) -> None:
        """0 to 1 of it is done; the first call says that it has begun."""

    def part(self, audio: Audio) -> None:
        """The next piece of sound, without seam to the one before; one piece if not streamed."""

    def finished(self) -> None:
        """No piece follows."""

    def failed(self, error: Exception) -> None:
        """Nothing follows: a ``UserError`` is the asker's fault, anything else ours."""

    def cancelled(self) -> None:
        """It was called off, and nothing follows."""


class Engine(ABC):
    """A loaded base that answers many requests at a time. One thread of its own does the work.

    Attributes:
        bundle: the base.
        slots: requests that are worked on at once.
    """

    bundle: Bundle
    slots: int

    @abstractmethod
    def start(self) -> None:
        """Begin to work; compile and warm up what has to be."""

    @abstractmethod
    def stop(self, drain_s: float = 0.0) -> None:
        """Finish what was submitted within that time, then stop; the rest fails or is cancelled."""

    @abstractmethod
    def submit(self, request: Request, sink: Sink) -> None:
        """Take a request; returns at once. The engine's queue has no limit: ``jobs`` keeps it short."""

    @abstractmethod
    def cancel(self, id: str) -> None:
        """Call a request off, waiting or running; unknown ones are ignored. The sink is told."""

    @abstractmethod
    def adapters(self) -> Mapping[str, Path]:
        """``{name: folder}`` of what requests can name."""

    @abstractmethod
    def add_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter, or replace the one of that name, while requests run.

        Raises:
            UserError: it is not there, of another base, of a kind this engine cannot mix, or no slot
                is free; nothing has changed then.
        """

    @abstractmethod
    def remove_adapter(self, name: str) -> None:
        """Forget an adapter; requests that run with it end as they began.

        Raises:
            UserError: no such adapter.
        """


__all__ = ["TASKS", "Engine", "MadeFrom", "Request", "Sink", "Task"]
