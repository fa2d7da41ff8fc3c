"""What stands between the queue and Ray, without Ray: workers are called as Ray calls them."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from pathlib import Path

import numpy as np
import pytest
from serving import Toy, adapter, bundle, tone

from tunesmith.errors import UserError
from tunesmith.serve import ray_engine
from tunesmith.serve.jobs import Jobs
from tunesmith.serve.ray_engine import RayEngine, multiplexed_id
from tunesmith.serve.ray_worker import Described, Held, Worker, described
from tunesmith.serve.request import Request


class Near(Worker):
    """A worker around a toy."""

    def __init__(self) -> None:
        self._engine, self._held, self._lock = Toy(), {}, threading.Lock()
        self._engine.start()


class Reply:
    """What a handle gives: events, as they come; can be called off."""

    def __init__(self, events) -> None:
        self._said: queue.Queue = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=[events])
        self._task: asyncio.Task | None = None
        self._begun = threading.Event()
        self._thread.start()
        self._begun.wait(20)

    def _run(self, events) -> None:
        self._loop.run_until_complete(self._read(events))
        self._loop.close()

    async def _read(self, events) -> None:
        self._task = asyncio.current_task()
        self._begun.set()
        try:
            async for event in events:
                self._said.put(event)
        except asyncio.CancelledError:
            await events.aclose()
            self._said.put(RuntimeError("cancelled"))
        self._said.put(None)

    def cancel(self) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)

    def __iter__(self):
        while (event := self._said.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event


class Handle:
    """The part of Ray's handles that is used."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.ids = worker, []

    def options(self, *, stream: bool, multiplexed_model_id: str):
        assert stream
        self.ids.append(multiplexed_model_id)
        return self

    @property
    def make(self):
        return self

    def remote(self, request: Request, id: str) -> Reply:
        return Reply(self.worker.make(request, id))


@pytest.fixture
def far(tmp_path):
    worker = Near()
    handle = Handle(worker)
    engine = RayEngine(handle, described(bundle()), 2)
    jobs = Jobs(engine, tmp_path / "jobs")
    jobs.start()
    yield jobs, handle, worker
    worker._engine.gate.set()
    jobs.close()
    worker._engine.stop()


def test_a_front_knows_its_base():
    facts = described(bundle())
    assert isinstance(facts, Described) and facts.name == "toy" and facts.max_s == 10.0


def test_sound_comes_from_the_worker(far, tmp_path):
    jobs, handle, _ = far
    adapter(tmp_path / "jazz")
    jobs.engine.add_adapter("jazz", tmp_path / "jazz")
    job = jobs.submit(Request("", "blues", 0.5, 7, adapters={"jazz": 0.5}))
    *_, last = jobs.listen(job.id)
    assert last.job.state == "done"
    import soundfile

    samples, _ = soundfile.read(jobs.result(job.id), dtype="float32")
    np.testing.assert_allclose(samples, tone(job.request)[0], atol=1e-4)
    assert [json.loads(id) for id in handle.ids] == [{"jazz": str(tmp_path / "jazz")}]
    plain = jobs.submit(Request("", "blues", 0.5, 7))
    *_, last = jobs.listen(plain.id)
    assert last.job.state == "done" and handle.ids[-1] == ""


@pytest.mark.parametrize(("prompt", "fault"), [("fail", "request"), ("break", "server")])
def test_whose_fault_it_was_is_known_at_the_front(far, prompt, fault):
    jobs, _, _ = far
    job = jobs.submit(Request("", prompt, 0.5, 7))
    *_, last = jobs.listen(job.id)
    assert (last.job.state, last.job.fault) == ("failed", fault)


def test_calling_off_reaches_the_worker(far):
    jobs, _, worker = far
    job = jobs.submit(Request("", "wait", 0.5, 7))
    assert worker._engine.began.wait(20)
    assert jobs.cancel(job.id).state == "cancelled"
    for _ in range(2000):
        if job.id in worker._engine.cancelled:
            break
        threading.Event().wait(0.01)
    assert job.id in worker._engine.cancelled


def test_an_adapter_of_another_base_is_refused_at_the_front(far, tmp_path):
    jobs, _, _ = far
    adapter(tmp_path / "other", base={"name": "toy", "hash": "c" * 64})
    with pytest.raises(UserError, match="was made for base"):
        jobs.engine.add_adapter("other", tmp_path / "other")


def test_a_worker_holds_what_somebody_needs(tmp_path):
    worker = Near()
    both = {"jazz": str(tmp_path / "jazz"), "swing": str(tmp_path / "swing")}
    one, two = Held(worker, both), Held(worker, {"jazz": both["jazz"]})
    assert set(worker._engine.adapters()) == {"jazz", "swing"}
    del one
    assert set(worker._engine.adapters()) == {"jazz"}
    with pytest.raises(UserError):
        Held(worker, {"jazz": both["jazz"], "unmixable": "x"})
    assert set(worker._engine.adapters()) == {"jazz"}
    del two
    assert worker._engine.adapters() == {}
    worker._engine.stop()


def test_what_ray_drops_stays_while_a_request_runs_with_it(far, tmp_path):
    jobs, _, worker = far
    adapter(tmp_path / "jazz")
    jobs.engine.add_adapter("jazz", tmp_path / "jazz")
    kept = Held(worker, {"jazz": str(tmp_path / "jazz")})  # as Ray keeps one between requests
    job = jobs.submit(Request("", "wait", 0.5, 7, adapters={"jazz": 1.0}))
    assert worker._engine.began.wait(20)
    kept.__del__()  # as Ray lets go of it
    kept.__del__()
    assert set(worker._engine.adapters()) == {"jazz"}
    worker._engine.gate.set()
    *_, last = jobs.listen(job.id)
    assert last.job.state == "done"
    for _ in range(2000):
        if not worker._engine.adapters():
            break
        threading.Event().wait(0.01)
    assert worker._engine.adapters() == {} and worker._held == {}


class Lost(Exception):
    """As Ray's own errors are told: by their module."""

    __module__ = "ray.exceptions"


class Failing:
    """A handle whose worker is lost some times, before or after the first part of a sound."""

    def __init__(self, times: int, after_a_part: bool = False) -> None:
        self.left, self.asked, self._after = times, 0, after_a_part

    def options(self, **_: object):
        return self

    @property
    def make(self):
        return self

    def remote(self, request: Request, id: str):
        self.asked += 1
        yield "progress", 0.0
        if self.left and not self._after:
            self.left -= 1
            raise Lost("the actor died")
        yield "part", tone(request), 8000
        if self.left:
            self.left -= 1
            raise Lost("the actor died")
        yield ("finished",)


@pytest.mark.parametrize(
    ("times", "after", "state", "asked"),
    [(2, False, "done", 3), (9, False, "failed", 4), (1, True, "failed", 1)],
)
def test_a_lost_worker_is_replaced_by_another(tmp_path, monkeypatch, times, after, state, asked):
    monkeypatch.setattr(ray_engine, "_AGAIN_S", 0.001)
    handle = Failing(times, after)
    with Jobs(RayEngine(handle, described(bundle()), 1), tmp_path / "jobs") as jobs:
        job = jobs.submit(Request("", "blues", 0.5, 7))
        *_, last = jobs.listen(job.id)
    assert (last.job.state, handle.asked) == (state, asked)


def test_what_is_lost_at_the_end_is_made_after_it(tmp_path):
    handle = Failing(9)
    jobs = Jobs(RayEngine(handle, described(bundle()), 1), tmp_path / "jobs")
    jobs.start()
    job = jobs.submit(Request("", "blues", 0.5, 7))
    while not handle.asked:
        threading.Event().wait(0.01)
    jobs.close()
    handle.left = 0
    with Jobs(RayEngine(handle, described(bundle()), 1), tmp_path / "jobs") as again:
        *_, last = again.listen(job.id)
    assert last.job.state == "done"


def test_one_blend_has_one_id():
    request = Request("", "", 1.0, 0, adapters={"b": 0.5, "a": 1.0})
    other = Request("", "", 1.0, 0, adapters={"a": 0.1, "b": 0.2})
    folders = {"a": Path("/x"), "b": Path("/y")}
    assert multiplexed_id(request, folders) == multiplexed_id(other, folders) != ""
