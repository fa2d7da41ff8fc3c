"""A job while it lasts, and those who listen to it.

A listener has a place in what the job has made, and no queue of its own: however slow it is, nothing
grows. While the job lasts it reads the parts that the job keeps anyway; afterwards it reads on in the
file.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile

from tunesmith.serve.job import Job, State
from tunesmith.serve.refusals import Gone
from tunesmith.types import Audio


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. Of several that a listener was too slow for, it hears the last.

    Attributes:
        state: ``queued`` or ``running``.
        share: 0 to 1.
    """

    state: State
    share: float


@dataclass(frozen=True, slots=True)
class Part:
    """The next piece of sound, without seam to the one before. None is left out.

    Attributes:
        audio: float32 in -1..1; quantised to 16 bits where it was read from the file.
    """

    audio: Audio


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event.

    Attributes:
        job: as it ended; still ``queued`` if the server closes and will make it after its next start.
    """

    job: Job


Event = Progress | Part | Ended


class Live:
    """A job that has not ended; what the engine's thread and everybody else touch, under ``lock``.

    Attributes:
        job: how it stands.
        parts: what was made so far; let go at the end.
        since: monotonic seconds at which it was queued by this process.
        began: the same of its beginning; 0 before.
        closed: nothing more happens to it in this process.
        made_of: the recipe of its sound.
    """

    def __init__(self, job: Job) -> None:
        self.lock = threading.Lock()
        self.job, self.parts, self.closed = job, [], False
        self.since, self.began = time.monotonic(), 0.0
        self.made_of: Mapping[str, Any] = {}
        self._listeners: weakref.WeakSet[Subscription] = weakref.WeakSet()

    def listen(self, subscription: Subscription) -> None:
        """Wake it whenever there is something new."""
        with self.lock:
            self._listeners.add(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Wake it no more."""
        with self.lock:
            self._listeners.discard(subscription)

    def tell(self) -> None:
        """Wake all who listen."""
        with self.lock:
            listeners = list(self._listeners)
        for one in listeners:
            one.wake()

    def begin(self) -> bool:
        """Whether this is its beginning; a job begins once."""
        with self.lock:
            if self.closed or self.job.state != "queued":
                return False
            self.began = time.monotonic()
            job = self.job
            self.job = replace(
                job, state="running", starts=job.starts + 1, began_at=time.time(), progress=0.0
            )
            return True

    def advance(self, share: float) -> None:
        """Note how far it is."""
        with self.lock:
            if not self.closed:
                self.job = replace(self.job, progress=min(max(share, 0.0), 1.0))

    def add(self, audio: Audio) -> None:
        """Keep the next part."""
        with self.lock:
            if not self.closed:
                self.parts.append(audio)

    def whole(self) -> Audio | None:
        """All parts as one sound; None without any."""
        with self.lock:
            parts = list(self.parts)
        if not parts:
            return None
        if len(parts) == 1:
            return parts[0]
        joined = np.concatenate([one.samples for one in parts], axis=1)
        return Audio(joined, parts[0].sample_rate_hz)

    def close(self, job: Job) -> bool:
        """It ended so; whether this is the first end."""
        with self.lock:
            if self.closed:
                return False
            self.closed, self.job, self.parts = True, job, []
            return True


class Subscription:
    """Events of one job from its beginning to its end, for a thread (``for``) or a loop (``async for``).

    Leave it by ``with``, ``async with`` or :meth:`close`; one that is merely dropped does no harm. Reading
    never blocks the engine, and events do not pile up.

    Args:
        live: the job, if it has not ended.
        job: the job as it stands.
        place: of a job's sound.
        parts: whether sound is wanted, or only how the job fares.
        on_close: called once.

    Raises (while reading):
        Gone: the sound was deleted before this listener had read it.
    """

    def __init__(
        self,
        live: Live | None,
        job: Job,
        place: Callable[[Job], Path],
        *,
        parts: bool = True,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._live, self._job, self._place, self._wanted = live, job, place, parts
        self._parts, self._samples = 0, 0  # that were handed out
        self._told: Progress | None = None
        self._file: soundfile.SoundFile | None = None
        self._ready, self._flag = threading.Event(), None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signalled = False
        self._finalize = weakref.finalize(self, on_close)
        self._finalize.atexit = False
        self.over = False  # whether the last event was handed out
        if live is not None:
            live.listen(self)

    # --- waking ---

    def wake(self) -> None:
        """There may be something new; from any thread, returns at once."""
        self._ready.set()
        loop, flag = self._loop, self._flag
        if loop is not None and flag is not None and not self._signalled:
            self._signalled = True  # one call in a loop's queue, not one an event
            with suppress(RuntimeError):  # the loop is gone, and nobody waits
                loop.call_soon_threadsafe(flag.set)

    # --- reading ---

    def poll(self) -> Event | None:
        """The next event, if there is one already."""
        if self.over:
            return None
        job, closed, part = self._job, True, None
        if self._live is not None:
            with self._live.lock:
                job, closed = self._live.job, self._live.closed
                if self._parts < len(self._live.parts):
                    part = self._live.parts[self._parts]
        if not closed:
            # Progress first: that it has begun is said before its first sound.
            said = Progress(job.state, job.progress)
            if said != self._told:
                self._told = said
                return said
            if part is not None and self._wanted:
                self._parts += 1
                self._samples += part.samples.shape[1]
                return Part(part)
            return None
        if job.state == "done" and self._wanted and (rest := self._read(job)) is not None:
            return Part(rest)
        self.over = True
        self.close()
        return Ended(job)

    def _read(self, job: Job) -> Audio | None:
        """The next second of the file; None at its end."""
        try:
            if self._file is None:
                self._file = soundfile.SoundFile(self._place(job))
                self._file.seek(min(self._samples, self._file.frames))
            block = self._file.read(self._file.samplerate, dtype="float32", always_2d=True)
        except (OSError, soundfile.SoundFileError) as error:
            self.over = True
            self.close()
            raise Gone(job.id) from error
        if not len(block):
            return None
        return Audio(np.ascontiguousarray(block.T), self._file.samplerate)

    def take(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None if none came in time, or the last one was taken. Blocks."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._ready.clear()
            if (event := self.poll()) is not None or self.over:
                return event
            left = None if end is None else end - time.monotonic()
            if (left is not None and left <= 0) or not self._ready.wait(left):
                return self.poll()

    async def atake(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None if none came in time, or the last one was taken. Only of one loop."""
        if self._flag is None:
            self._flag, self._loop = asyncio.Event(), asyncio.get_running_loop()
        loop = asyncio.get_running_loop()
        end = None if timeout_s is None else loop.time() + timeout_s
        while True:
            self._signalled = False
            self._flag.clear()
            if (event := self.poll()) is not None or self.over:
                return event
            try:
                async with asyncio.timeout_at(end):
                    await self._flag.wait()
            except TimeoutError:
                return self.poll()

    def close(self) -> None:
        """Stop listening; the job goes on."""
        self.over = True
        if self._live is not None:
            self._live.leave(self)
        if self._file is not None:
            self._file.close()
        self._finalize()
        self.wake()  # whoever waits in another thread finds that it is over

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Event:
        if (event := self.take()) is None:
            raise StopIteration
        return event

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        if (event := await self.atake()) is None:
            raise StopAsyncIteration
        return event

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


__all__ = ["Ended", "Event", "Live", "Part", "Progress", "Subscription"]
