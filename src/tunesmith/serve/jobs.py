"""The queue between HTTP and the model: limits, a store, those who listen, and an orderly end."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tunesmith.errors import UserError
from tunesmith.serve.dispatch import Dispatcher
from tunesmith.serve.job import Job, State, same_wish
from tunesmith.serve.limits import Limits, check_id, check_request
from tunesmith.serve.live import Ended, Event, Part, Progress, Subscription
from tunesmith.serve.measures import Measures
from tunesmith.serve.recordings import check_made_from
from tunesmith.serve.refusals import Busy, Closing, Gone, KeyTaken, Unfinished, Unknown
from tunesmith.serve.request import Engine, Request
from tunesmith.serve.sounds import Sounds
from tunesmith.serve.store import Store

_KEY_CHARS = 256


def new_id() -> str:
    """An id that cannot be guessed."""
    return secrets.token_hex(16)


def seed_for(key: str = "") -> int:
    """A seed where the asker gave none: always the same for a key, so that asking again is the same."""
    drawn = hashlib.sha256(key.encode()).digest() if key else secrets.token_bytes(4)
    return int.from_bytes(drawn[:4], "big")


class Jobs:
    """Jobs of one engine, kept in a folder; safe to use from any thread.

    Args:
        engine: not started yet; :meth:`start` and :meth:`close` do that.
        folder: of the store; each server has its own.
        limits: what is taken on.

    Raises:
        UserError: the folder cannot be used (see :class:`.store.Store`).
    """

    def __init__(self, engine: Engine, folder: str | Path, limits: Limits | None = None) -> None:
        self.engine, self.limits = engine, limits or Limits()
        self.store = Store(folder)
        self.sounds = Sounds(folder, self.limits)
        self._work = Dispatcher(engine, self.store, self.sounds, self.limits)
        self._state: Literal["new", "open", "closed"] = "new"
        self._adding = 0  # submissions that are on their way to the disk

    def start(self) -> None:
        """Start the engine, queue again what an earlier process left undone, and accept requests."""
        self._work.start(self.store.restore(self.limits.starts))
        self._state = "open"

    @property
    def accepting(self) -> bool:
        """Whether requests are taken: after :meth:`start`, before :meth:`close`."""
        return self._state == "open"

    def submit(self, request: Request, key: str = "") -> Job:
        """Accept a request; when this returns it is on the disk and will be answered.

        Args:
            request: checked here against base, adapters and limits. An empty id is chosen here.
            key: the asker's own name for it: asked again with it, the same job is returned and no
                second one made, however often and whatever has become of it. Where the asker gave no
                seed, :func:`seed_for` draws the same one again.

        Raises:
            UserError: it cannot be made (400 or 422).
            UnknownSound: the sound that it is to be made from is not there (404).
            KeyTaken: the key stands for another request (409).
            Busy: the queue is full (429).
            Closing: the server is going down, or not up (503).
            ResourceError: the disk is full (507).
        """
        if len(key) > _KEY_CHARS or not key.isprintable():
            raise UserError(
                "that is no key", f"give up to {_KEY_CHARS} characters that can be printed"
            )
        request = replace(request, id=check_id(request.id) if request.id else new_id())
        # First of all: whoever asks again was accepted, even if there is no room now.
        if key and (known := self.store.by_key(key)):
            return self._repeated(known, request)
        if request.made_from is not None:
            sound = self.sounds.use(request.made_from.audio)
            request = check_made_from(request, self.engine.bundle, sound)
        request = check_request(request, self.engine.bundle, self.engine.adapters(), self.limits)
        with self._work.lock:
            if self._state != "open":
                raise Closing
            if self._work.measures.waiting >= self.limits.queue:
                self._work.measures.rejected += 1
                raise Busy(
                    f"{self._work.measures.waiting} requests are waiting already",
                    self._retry_after_s(),
                )
            # A place is taken before the disk is asked, or all who come meanwhile would fit in, too.
            self._work.measures.waiting += 1
            self._adding += 1
        new = False
        try:
            job, new = self.store.add(request, key)
            if new:
                self._work.take(job)
        finally:
            with self._work.lock:
                self._work.measures.waiting -= not new
                self._adding -= 1
                self._work.idle.notify_all()
        return job if new else self._repeated(job, request)

    def _repeated(self, job: Job, request: Request) -> Job:
        if not same_wish(job.request, replace(request, adapters=_without_zeros(request.adapters))):
            raise KeyTaken(job.key)
        with self._work.lock:
            self._work.measures.repeated += 1
            live = self._work.live.get(job.id)
        return live.job if live else job

    def _retry_after_s(self) -> float:
        """About how long an eighth of the queue takes: others wait for the next place, too."""
        mean_s = self._work.measures.run_s.mean or 1.0
        return mean_s / self.engine.slots * max(1.0, self._work.measures.waiting / 8)

    def get(self, id: str) -> Job:
        """How a job stands.

        Raises:
            Unknown: there is none.
        """
        with self._work.lock:
            live = self._work.live.get(id)
        job = live.job if live else self.store.get(id)
        if job is None:
            raise Unknown(id)
        return job

    def list(self, states: Sequence[State] = (), limit: int = 100, before: str = "") -> list[Job]:
        """Jobs, the last accepted first; see :meth:`.store.Store.list`."""
        with self._work.lock:
            live = {id: one.job for id, one in self._work.live.items()}
        return [live.get(job.id, job) for job in self.store.list(states, limit, before)]

    def ahead(self, id: str) -> int:
        """How many jobs wait before this one; 0 if it does not wait (any more)."""
        return self._work.ahead(id)

    def cancel(self, id: str) -> Job:
        """Call a job off, waiting or running; one that has ended stays as it is.

        Returns:
            The job as it is now: ended, in any case.

        Raises:
            Unknown: there is none.
        """
        with self._work.lock:
            live = self._work.live.get(id)
        if job := self.store.cancel(id, live.job.progress if live else 0.0):
            if live is not None:
                self._work.end(live, job)
            return job
        if (found := self.store.get(id)) is None:
            raise Unknown(id)
        return found

    def listen(self, id: str, *, parts: bool = True) -> Subscription:
        """Subscribe to a job's events, from its first sound on, whenever one comes.

        The order: :class:`.live.Progress`, any number of times; :class:`.live.Part` in between, if
        ``parts``; at last one :class:`.live.Ended`. A job that has ended gives its sound, then its end.

        Raises:
            Unknown: there is none.
            Busy: too many listen already.
        """
        with self._work.lock:
            live = self._work.live.get(id)
            if self._work.measures.listening >= self.limits.listeners:
                raise Busy(f"{self._work.measures.listening} listen already", 5.0)
            self._work.measures.listening += 1
        try:
            job = live.job if live else self.get(id)
        except BaseException:
            self._left()
            raise
        return Subscription(live, job, self._place, parts=parts, on_close=self._left)

    def _left(self) -> None:
        # No lock: a dropped subscription may be collected anywhere, also in a thread that holds it.
        self._work.later(self._one_less)

    def _one_less(self) -> None:
        with self._work.lock:
            self._work.measures.listening -= 1

    def result(self, id: str) -> Path:
        """The file of a job's sound: 16-bit FLAC, its recipe in the comment.

        Raises:
            Unknown: no such job.
            Unfinished: it is not done.
            Gone: it was, but its sound is no longer kept.
        """
        job = self.get(id)
        if job.state != "done":
            raise Unfinished(id, job.state)
        path = self._place(job)
        if not job.file or not path.is_file():
            raise Gone(id)
        return path

    def _place(self, job: Job) -> Path:
        return self.store.results / (job.file or "gone")

    def measures(self) -> Measures:
        """What was counted since the start, and how things stand; a copy."""
        return self._work.now()

    def close(self, drain_s: float = 0.0) -> None:
        """Accept nothing more, let what runs come to its end, and stop; can be called twice.

        What waits, and what has not ended within ``drain_s``, stays in the store and is made after the
        next start; who listens to it hears an :class:`.live.Ended` whose job is ``queued``.

        Args:
            drain_s: seconds that running jobs are given.
        """
        with self._work.lock:
            was, self._state = self._state, "closed"
            self._work.idle.wait_for(lambda: not self._adding)
        if was == "open":
            self._work.close(drain_s)
        if was != "closed":
            self.store.close()

    def __enter__(self) -> Jobs:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def _without_zeros(adapters: Mapping[str, float]) -> dict[str, float]:
    return {name: float(weight) for name, weight in adapters.items() if weight}


__all__ = [
    "Busy",
    "Closing",
    "Ended",
    "Event",
    "Gone",
    "Job",
    "Jobs",
    "KeyTaken",
    "Limits",
    "Part",
    "Progress",
    "Subscription",
    "Unfinished",
    "Unknown",
    "new_id",
    "seed_for",
]
