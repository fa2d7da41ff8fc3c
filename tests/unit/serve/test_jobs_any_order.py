"""Whatever is asked, called off, dropped, finished, closed or killed, in any order: no job is lost or doubled."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fake_engine import FakeEngine, sound
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from tunesmith.serve.jobs import Busy, Ended, Jobs, Limits, Part, Unfinished
from tunesmith.serve.request import Request

WAIT_S = 60.0
LIMITS = Limits(queue=4, listeners=6, starts=1_000)


class Server(RuleBasedStateMachine):
    """A queue over an engine that these rules drive, and what is known of it from outside."""

    ids = Bundle("ids")
    listeners = Bundle("listeners")

    @initialize()
    def first(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.ended: dict[str, str] = {}  # id: the end that was seen
        self.accepted: dict[str, Request] = {}
        self.keys: dict[str, str] = {}
        self.seed = 0
        self.open()

    def open(self) -> None:
        self.engine = FakeEngine(2)
        self.jobs = Jobs(self.engine, self.folder, LIMITS)
        self.jobs.store._db.execute("PRAGMA synchronous=OFF")
        self.jobs.start()

    def settle(self) -> None:
        for _ in range(2):
            done = threading.Event()
            self.jobs._work.later(done.set)
            assert done.wait(WAIT_S)

    def wish(self) -> Request:
        self.seed += 1
        return Request("", f"number {self.seed}", 0.1, self.seed)

    # --- what askers do ---

    @rule(target=ids, key=st.sampled_from(["", "", "k1", "k2", "k3"]))
    def submit(self, key: str) -> Any:
        known = self.keys.get(key)
        request = self.accepted[known] if known else self.wish()
        waiting = self.jobs.measures().waiting
        try:
            job = self.jobs.submit(request if not known else _anew(request), key)
        except Busy:
            assert waiting >= LIMITS.queue
            assert known is None
            return multiple()
        if known:
            assert job.id == known
            return multiple()
        assert waiting < LIMITS.queue
        assert job.id not in self.accepted
        self.accepted[job.id] = job.request
        if key:
            self.keys[key] = job.id
        return job.id

    @rule(id=ids)
    def call_off(self, id: str) -> None:
        before = self.ended.get(id)
        job = self.jobs.cancel(id)
        assert job.ended
        assert before in (None, job.state)

    @rule(target=listeners, id=ids, parts=st.booleans())
    def listen(self, id: str, parts: bool) -> Any:
        try:
            return self.jobs.listen(id, parts=parts)
        except Busy:
            return multiple()

    @rule(one=listeners, count=st.integers(1, 5))
    def hear(self, one: Any, count: int) -> None:
        for _ in range(count):
            event = one.take(0.0)
            if isinstance(event, Ended) and event.job.ended:
                assert self.jobs.get(event.job.id).state == event.job.state
            if isinstance(event, Part):
                assert event.audio.samples.size

    @rule(one=consumes(listeners))
    def leave(self, one: Any) -> None:
        one.close()

    @rule(one=consumes(listeners))
    def vanish(self, one: Any) -> None:
        del one

    # --- what the engine does ---

    @rule(data=st.data(), act=st.sampled_from(["begin", "give", "finish", "finish", "fail"]))
    def work(self, data: st.DataObject, act: str) -> None:
        self.settle()
        have = sorted(self.engine.have, key=list(self.accepted).index)
        if not have:
            return
        id = data.draw(st.sampled_from(have))
        if id not in self.engine.begun:
            self.engine.begin(id)
        if act == "give":
            self.engine.give(id)
        elif act == "finish":
            self.engine.finish(id)
        elif act == "fail":
            self.engine.fail(id, RuntimeError("broken"))

    # --- what befalls the server ---

    @rule()
    def close_and_start(self) -> None:
        self.jobs.close(0.0)
        self.open()

    @rule()
    def kill_and_start(self) -> None:
        # As SIGKILL leaves it: nothing is put back, the system drops the lock.
        work = self.jobs._work
        with work.lock:
            work.closing = True
        work._tick.set()
        work._calls.put(None)
        for thread in work._threads:
            thread.join()
        self.jobs._state = "closed"
        self.jobs.store.close()
        self.open()

    # --- what holds ---

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if not hasattr(self, "jobs"):
            return
        self.settle()
        listed = [job.id for job in self.jobs.list(limit=10_000)]
        assert sorted(listed) == sorted(self.accepted)
        states = {id: self.jobs.get(id).state for id in self.accepted}
        for id, state in self.ended.items():
            assert states[id] == state, "an end stands"
        self.ended |= {id: state for id, state in states.items() if self.jobs.get(id).ended}
        assert len(self.engine.submitted) == len(set(self.engine.submitted))
        found = self.jobs.measures()
        assert found.waiting == sum(state == "queued" for state in states.values())
        assert found.running == sum(state == "running" for state in states.values())
        assert found.held == 0
        done = {id for id, state in states.items() if state == "done"}
        assert {path.stem for path in self.jobs.store.results.iterdir()} == done
        # Nobody waits while the engine has room.
        free = 2 * self.engine.slots - len(self.engine.have)
        assert free == 0 or found.waiting <= len(self.engine.have)

    def teardown(self) -> None:
        if not hasattr(self, "jobs"):
            return
        self.settle()
        for _ in range(len(self.accepted) + 1):
            for id in list(self.engine.have):
                if id not in self.engine.begun:
                    self.engine.begin(id)
                self.engine.finish(id)
            self.settle()
        for id, request in self.accepted.items():
            job = self.jobs.get(id)
            assert job.ended
            if job.state == "done":
                samples, _ = soundfile.read(self.jobs.result(id), dtype="float32")
                assert np.abs(samples - sound(request)[0]).max() < 1e-4
            else:
                with pytest.raises(Unfinished):
                    self.jobs.result(id)
        self.jobs.close()
        shutil.rmtree(self.folder)


def _anew(request: Request) -> Request:
    return Request("", request.prompt, request.duration_s, request.seed)


Server.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestServer = Server.TestCase
