"""Who gives jobs to the engine, and sees each to its one end.

Threads: the engine's own, which only notes what it is told here, and two of this module: the *keeper*,
which does all that an end needs of the disk, in order, and the *clock*, which ends what runs too long. A
job ends once: the store's first end stands.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from tunesmith.errors import ResourceError, UserError
from tunesmith.serve.job import Fault, Job
from tunesmith.serve.limits import Limits
from tunesmith.serve.live import Live
from tunesmith.serve.measures import Measures
from tunesmith.serve.recipe import recipe
from tunesmith.serve.request import Engine, Request
from tunesmith.serve.sounds import Sounds
from tunesmith.serve.store import Store
from tunesmith.types import Audio

_LOG = logging.getLogger(__name__)
_TICK_S = 0.25
_SWEEP_S = 30.0
_SWEEP_JOBS = 16


class Dispatcher:
    """The jobs of one process; :class:`.jobs.Jobs` is the asker's side of it.

    Args:
        engine: that makes the sounds.
        store: that knows all jobs.
        sounds: that jobs are made from.
        limits: what is allowed.

    Attributes:
        lock: of all that is here; never held during work on the disk.
        live: jobs that have not ended.
        measures: counters.
        closing: nothing more is given to the engine.
        idle: notified whenever a job ends or the engine gives a place back.
    """

    def __init__(self, engine: Engine, store: Store, sounds: Sounds, limits: Limits) -> None:
        self.engine, self.store, self.limits = engine, store, limits
        self._sounds = sounds
        self.lock = threading.Lock()
        self.live: dict[str, Live] = {}
        self.measures = Measures()
        self.closing = False
        self._waiting: deque[str] = deque()
        self._places: dict[str, _Place] = {}  # what the engine has
        self._since_sweep = 0
        self._stopping = False
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tick = threading.Event()
        self.idle = threading.Condition(self.lock)
        self._threads = [
            threading.Thread(target=self._keep, name="jobs-keeper", daemon=True),
            threading.Thread(target=self._watch, name="jobs-clock", daemon=True),
        ]

    def start(self, jobs: Iterable[Job]) -> None:
        """Start the engine, and give it these jobs first."""
        with self.lock:
            for job in jobs:
                if job.request.made_from is not None:  # it has waited long enough
                    self._sounds.keep(job.request.made_from.audio)
                self.live[job.id] = Live(job)
                self._waiting.append(job.id)
            self.measures.restored = self.measures.waiting = len(self._waiting)
        self.engine.start()
        for thread in self._threads:
            thread.start()
        self.feed()

    def take(self, job: Job) -> None:
        """A job that was accepted; ``measures.waiting`` has it already."""
        with self.lock:
            self.measures.accepted += 1
            self.live[job.id] = Live(job)
            self._waiting.append(job.id)
        self.feed()

    def later(self, call: Callable[[], None]) -> None:
        """Have the keeper do something; returns at once, and takes no lock."""
        self._calls.put(call)

    def ahead(self, id: str) -> int:
        """How many jobs wait before this one; 0 if it does not wait (any more)."""
        with self.lock:
            handed = sum(1 for place in self._places.values() if place.live.began == 0)
            with suppress(ValueError):
                return handed + self._waiting.index(id)
        return 0

    def now(self) -> Measures:
        """A copy of the measures."""
        now = time.monotonic()
        with self.lock:
            found = self.measures
            held = [place.over for place in self._places.values() if place.over]
            return replace(
                found,
                wait_s=found.wait_s.copy(),
                run_s=found.run_s.copy(),
                held=len(held),
                held_s=now - min(held) if held else 0.0,
            )

    def feed(self) -> None:
        """Give the engine what it can work on, and as much again, of which it can make groups."""
        while True:
            with self.lock:
                if self.closing or len(self._places) >= 2 * self.engine.slots:
                    return
                if not self._waiting:
                    return
                id = self._waiting.popleft()
                live = self.live.get(id)
                if live is None:
                    continue
                self._places[id] = _Place(self, live)
                place = self._places[id]
            try:
                self.engine.submit(self._found(live.job.request), place)
            except Exception as error:
                place.failed(error)
            if live.closed or self.closing:  # called off before the engine knew of it
                self.engine.cancel(id)

    def _found(self, request: Request) -> Request:
        """A request whose sound the engine can open."""
        made_from = request.made_from
        if made_from is None:
            return request
        file = str(self._sounds.file(made_from.audio))
        return replace(request, made_from=replace(made_from, file=file))

    def _began(self, live: Live) -> None:
        with self.lock:
            self.measures.waiting -= 1
            self.measures.running += 1
            self.measures.wait_s.add(live.began - live.since)
        self._calls.put(lambda: self._note_beginning(live))

    def _note_beginning(self, live: Live) -> None:
        if not live.closed:
            # Now, for an adapter may be replaced before the end.
            live.made_of = recipe(live.job.request, self.engine)
            self.store.begin(live.job.id)

    def _over(self, place: _Place, act: Callable[[Live], None]) -> None:
        """The engine is done with a place; what that means for the job is seen to by the keeper."""
        with self.lock:
            self._places.pop(place.live.job.id, None)
            self.idle.notify_all()
        self._calls.put(self.feed)
        self._calls.put(lambda: act(place.live))

    def _finish(self, live: Live) -> None:
        audio = live.whole()
        if live.closed:
            return
        if audio is None or not audio.samples.size:
            self._fail(live, "server", "the engine gave no sound")
            return
        job = live.job
        try:
            made = self.store.finish(job.id, audio, live.made_of)
        except UserError as error:
            self._fail(live, "server", str(error))
            return
        self._settle(live, made)

    def _failed(self, live: Live, error: Exception) -> None:
        if self._stopping:
            self._put_back(live)
        elif isinstance(error, ResourceError) or not isinstance(error, UserError):
            _LOG.error("job %s failed", live.job.id, exc_info=error)
            told = error if isinstance(error, UserError) else type(error).__name__
            self._fail(live, "server", f"the server failed at it ({told})")
        else:
            self._fail(live, "request", str(error))

    def _cancelled(self, live: Live) -> None:
        if live.closed:  # as was asked for
            return
        if self.closing:
            self._put_back(live)
        else:
            self._fail(live, "server", "the engine called it off")

    def _fail(self, live: Live, fault: Fault, error: str) -> None:
        job = live.job
        try:
            failed = self.store.fail(job.id, fault, error, job.progress)
        except UserError as reason:  # not even that can be written: it will be made again
            _LOG.error("job %s: %s", job.id, reason)
            failed = replace(job, state="failed", fault=fault, error=error, ended_at=time.time())
        self._settle(live, failed)

    def _put_back(self, live: Live) -> None:
        self._settle(live, self.store.put_back(live.job.id))

    def _settle(self, live: Live, job: Job | None) -> None:
        """An end that the store took, or, if it had taken another one before, that one."""
        job = job or self.store.get(live.job.id)
        if job is not None:
            self.end(live, job)

    def end(self, live: Live, job: Job) -> None:
        """What every end has in common; the store knows of it already."""
        began, run_s = live.began, time.monotonic() - live.began
        if not live.close(job):
            return
        with self.lock:
            found = self.measures
            self.live.pop(job.id, None)
            if began:
                found.running -= 1
            else:
                found.waiting -= 1
            if job.state == "done":
                found.done += 1
                found.audio_s += job.audio_s
                found.run_s.add(run_s)
            elif job.state == "failed":
                found.failed += 1
            elif job.state == "cancelled":
                found.cancelled += 1
            with suppress(ValueError):
                self._waiting.remove(job.id)
            place = self._places.get(job.id)
            if place is not None:
                place.over = time.monotonic()
            self._since_sweep += 1
            self.idle.notify_all()
        live.tell()
        if place is not None:
            self.engine.cancel(job.id)

    # --- threads of our own ---

    def _keep(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                _LOG.exception("the keeper of jobs goes on after an error")

    def _watch(self) -> None:
        swept = time.monotonic()
        while not self._tick.wait(_TICK_S):
            now = time.monotonic()
            with self.lock:
                late = [
                    place.live
                    for place in self._places.values()
                    if place.live.began and not place.over
                    if now - place.live.began > self.limits.job_s
                ]
                sweep = self._since_sweep >= _SWEEP_JOBS or now - swept > _SWEEP_S
                if sweep:
                    self._since_sweep, swept = 0, now
            try:
                for live in late:
                    self._fail(live, "time", f"it ran longer than {self.limits.job_s:g} seconds")
                if sweep:
                    self.store.sweep(self.limits)
                    self._sounds.sweep()
            except Exception:
                _LOG.exception("the clock of jobs goes on after an error")

    # --- the end ---

    def close(self, drain_s: float) -> None:
        """Give out nothing more, wait for what runs, stop; what is left goes back into the store.

        Args:
            drain_s: seconds that running jobs are given.
        """
        with self.lock:
            self.closing = True
            unbegun = [id for id, place in self._places.items() if not place.live.began]
        for id in unbegun:
            self.engine.cancel(id)
        with self.lock:
            self.idle.wait_for(lambda: not self._places, drain_s)
        self._stopping = True
        self.engine.stop(0.0)
        self._tick.set()
        self._calls.put(None)
        for thread in self._threads:
            thread.join()
        with self.lock:
            rest = list(self.live.values())
        for live in rest:
            self._put_back(live)
        self.store.sweep(self.limits)


class _Place:
    """A job in the engine: what the engine tells goes through here. See :class:`.request.Sink`."""

    def __init__(self, dispatcher: Dispatcher, live: Live) -> None:
        self._dispatcher, self.live = dispatcher, live
        self.over = 0.0  # monotonic; since when the job is over for its asker

    def progress(self, share: float) -> None:
        if self.live.begin():
            self._dispatcher._began(self.live)
        self.live.advance(share)
        self.live.tell()

    def part(self, audio: Audio) -> None:
        self.live.add(audio)
        self.live.tell()

    def finished(self) -> None:
        self._dispatcher._over(self, self._dispatcher._finish)

    def failed(self, error: Exception) -> None:
        self._dispatcher._over(self, lambda live: self._dispatcher._failed(live, error))

    def cancelled(self) -> None:
        self._dispatcher._over(self, self._dispatcher._cancelled)


__all__ = ["Dispatcher"]
