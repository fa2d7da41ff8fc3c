"""The queue: limits, listeners, ends, an orderly close, and what a kill leaves."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_engine import RATE_HZ, BusyEngine, FakeEngine, serve_until_killed, sound
from procs import CONTEXT

from tunesmith.errors import UserError
from tunesmith.formats.sound import read_made_of
from tunesmith.serve.jobs import (
    Busy,
    Closing,
    Ended,
    Gone,
    Job,
    Jobs,
    KeyTaken,
    Limits,
    Part,
    Progress,
    Unfinished,
    Unknown,
    seed_for,
)
from tunesmith.serve.live import Event
from tunesmith.serve.request import Request

WAIT_S = 60.0


def wish(seed: int = 1, prompt: str = "a tune", **more: object) -> Request:
    return Request(**{"id": "", "prompt": prompt, "duration_s": 0.5, "seed": seed} | more)  # type: ignore[arg-type]


def settled(jobs: Jobs) -> None:
    """When the keeper has done all that it was given before."""
    done = threading.Event()
    for _ in range(2):  # what it was given may have given it more
        done.clear()
        jobs._work.later(done.set)
        assert done.wait(WAIT_S)


def end_of(jobs: Jobs, id: str) -> Job:
    with jobs.listen(id, parts=False) as events:
        while True:
            event = events.take(WAIT_S)
            assert event is not None
            if isinstance(event, Ended):
                return event.job


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def jobs(engine: FakeEngine, tmp_path: Path) -> Iterator[Jobs]:
    with Jobs(engine, tmp_path / "jobs", Limits(queue=3, listeners=4)) as jobs:
        jobs.store._db.execute("PRAGMA synchronous=OFF")  # no power cut is tested here
        yield jobs


# --- from request to sound ---


def test_a_job_from_request_to_file(jobs: Jobs, engine: FakeEngine):
    job = jobs.submit(wish(seed=7, adapters={"jazz": 0.5}))
    assert job.state == "queued"
    engine.begin(job.id)
    assert jobs.get(job.id).state == "running"
    engine.give(job.id)
    assert jobs.get(job.id).progress == 0.25
    with pytest.raises(Unfinished):
        jobs.result(job.id)
    engine.finish(job.id)
    ended = end_of(jobs, job.id)
    assert (ended.state, ended.progress, ended.audio_s, ended.starts) == ("done", 1.0, 0.5, 1)
    assert jobs.get(job.id) == ended
    samples, rate = soundfile.read(jobs.result(job.id), dtype="float32")
    assert rate == RATE_HZ
    assert np.abs(samples - sound(job.request)[0]).max() < 1e-4
    said = read_made_of(jobs.result(job.id))
    assert (said["prompt"], said["seed"], said["base"]) == ("a tune", 7, "fake")
    assert said["adapter"] == {"jazz": 0.5}
    found = jobs.measures()
    assert (found.accepted, found.done, found.waiting, found.running) == (1, 1, 0, 0)
    assert (found.audio_s, found.wait_s.count, found.run_s.count) == (0.5, 1, 1)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"prompt": "x" * 4001}, "4001 characters"),
        ({"duration_s": 0.0}, "no length"),
        ({"duration_s": 11.0}, "beyond"),
        ({"duration_s": 0.001}, "less than one frame"),
        ({"duration_s": float("nan")}, "more than this server"),
        ({"duration_s": float("inf")}, "more than this server"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"adapters": {"jaz": 1.0}}, "no adapter 'jaz'"),
        ({"adapters": {"jazz": float("nan")}}, "weight"),
        ({"adapters": {"jazz": 99.0}}, "weight"),
        ({"adapters": {str(n): 1.0 for n in range(9)}}, "9 adapters"),
        ({"details": {"lyrics": "la"}}, "not conditioned on 'lyrics'"),
        ({"details": {"speaker": "/etc/passwd"}}, "a speaker is a number"),
        ({"details": {"speaker": [1.0]}}, "neither text nor a number"),
        ({"details": {"speaker": "[" + "0," * 20_000}}, "beside the prompt"),
        ({"id": "../up"}, "letters, digits"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(jobs: Jobs, bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        jobs.submit(wish(**bad))
    assert jobs.list() == []
    assert jobs.measures().waiting == 0


def test_an_engine_that_refuses_fails_the_job(jobs: Jobs):
    job = end_of(jobs, jobs.submit(wish(prompt="refuse")).id)
    assert (job.state, job.fault, job.error) == (
        "failed", "request", "no such thing - ask for another",
    )  # fmt: skip


def test_faults_of_ours_are_not_told_in_detail(
    jobs: Jobs, engine: FakeEngine, caplog: pytest.LogCaptureFixture
):
    job = jobs.submit(wish())
    engine.begin(job.id)
    engine.fail(job.id, RuntimeError("/secret/path"))
    ended = end_of(jobs, job.id)
    assert (ended.state, ended.fault) == ("failed", "server")
    assert "secret" not in ended.error
    assert "/secret/path" in caplog.text


def test_a_job_without_sound_fails(jobs: Jobs, engine: FakeEngine):
    job = jobs.submit(wish())
    engine.begin(job.id)
    engine.have.pop(job.id)[1].finished()
    assert end_of(jobs, job.id).fault == "server"


# --- the queue ---


def test_the_queue_has_an_end(jobs: Jobs, engine: FakeEngine):
    some = [jobs.submit(wish(seed)) for seed in range(3)]
    with pytest.raises(Busy) as refused:
        jobs.submit(wish(9))
    assert refused.value.retry_after_s >= 1
    engine.begin(some[0].id)  # one that runs does not wait
    assert jobs.submit(wish(9)).state == "queued"
    assert (jobs.measures().rejected, jobs.measures().waiting) == (1, 3)


def test_the_engine_gets_what_it_can_group_and_no_more(engine: FakeEngine, tmp_path: Path):
    with Jobs(engine, tmp_path) as jobs:
        some = [jobs.submit(wish(seed)).id for seed in range(6)]
        assert engine.submitted == some[:4]
        assert [jobs.ahead(id) for id in some[4:]] == [4, 5]
        engine.begin(some[0])
        engine.finish(some[0])
        settled(jobs)
        assert engine.submitted == some[:5]


def test_asking_again_with_a_key_makes_one_job(jobs: Jobs, engine: FakeEngine):
    first = jobs.submit(wish(seed_for("k")), key="k")
    for seed in range(2):
        jobs.submit(wish(seed))
    # The queue is full, but this one is in it.
    assert jobs.submit(wish(seed_for("k")), key="k").id == first.id
    with pytest.raises(KeyTaken):
        jobs.submit(wish(5), key="k")
    engine.begin(first.id)
    engine.finish(first.id)
    end_of(jobs, first.id)
    assert jobs.submit(wish(seed_for("k"), adapters={"jazz": 0.0}), key="k").state == "done"
    assert len(engine.submitted) == 3
    assert jobs.measures().repeated == 2
    assert seed_for() != seed_for()


def test_many_at_once_with_one_key_make_one_job(jobs: Jobs, engine: FakeEngine):
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(jobs.submit(wish(), key="k").id))
        for _ in range(12)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(WAIT_S)
    # With a full queue some may be refused before the first is known; nobody makes a second.
    assert len(set(found)) == 1
    assert engine.submitted == [found[0]]
    assert jobs.measures().waiting == 1


# --- calling off ---


def test_one_that_waits_is_called_off_and_never_begun(engine: FakeEngine, tmp_path: Path):
    with Jobs(engine, tmp_path) as jobs:
        some = [jobs.submit(wish(seed)).id for seed in range(6)]
        assert jobs.cancel(some[5]).state == "cancelled"  # not in the engine yet
        assert jobs.cancel(some[1]).state == "cancelled"  # in the engine
        for id in some[:1] + some[2:5]:
            engine.begin(id)
            engine.finish(id)
            settled(jobs)
        assert set(engine.submitted) == set(some[:5])
        assert engine.have == {}
        assert jobs.measures().cancelled == 2
        assert jobs.measures().done == 4


def test_one_that_runs_is_called_off(jobs: Jobs, engine: FakeEngine):
    id = jobs.submit(wish()).id
    engine.begin(id)
    engine.give(id)
    assert jobs.cancel(id).state == "cancelled"
    assert id not in engine.have
    assert jobs.cancel(id).state == "cancelled"
    assert jobs.get(id).progress == 0.25
    with pytest.raises(Unfinished):
        jobs.result(id)
    with pytest.raises(Unknown):
        jobs.cancel("nobody")


def test_one_that_is_done_stays_done(jobs: Jobs, engine: FakeEngine):
    id = jobs.submit(wish()).id
    engine.begin(id)
    engine.finish(id)
    end_of(jobs, id)
    assert jobs.cancel(id).state == "done"
    assert jobs.result(id).is_file()


def test_calling_off_against_the_end_has_one_winner(tmp_path: Path):
    with Jobs(BusyEngine(2, 0.0), tmp_path, Limits(queue=100)) as jobs:
        jobs.store._db.execute("PRAGMA synchronous=OFF")
        some = [jobs.submit(wish(seed)).id for seed in range(30)]
        said = {id: jobs.cancel(id).state for id in some}
        settled(jobs)
        for id in some:
            assert jobs.get(id).state == said[id]
            assert jobs.get(id).state in ("done", "cancelled")
        files = {path.stem for path in jobs.store.results.iterdir()}
        assert files == {id for id in some if said[id] == "done"}
        found = jobs.measures()
        assert (found.waiting, found.running) == (0, 0)
        assert found.done + found.cancelled == 30


def test_what_runs_too_long_is_ended(engine: FakeEngine, tmp_path: Path):
    with Jobs(engine, tmp_path, Limits(job_s=0.05)) as jobs:
        id = jobs.submit(wish()).id
        engine.begin(id)
        ended = end_of(jobs, id)
        assert (ended.state, ended.fault) == ("failed", "time")
        assert id not in engine.have


def test_an_engine_that_does_not_let_go_shows(engine: FakeEngine, tmp_path: Path):
    with Jobs(engine, tmp_path) as jobs:
        id = jobs.submit(wish()).id
        engine.begin(id)
        hangs = engine.have.pop(id)
        jobs.cancel(id)
        assert jobs.measures().held == 1
        hangs[1].cancelled()
        assert jobs.measures().held == 0


# --- listening ---


def test_events_come_in_order_and_whole(jobs: Jobs, engine: FakeEngine):
    job = jobs.submit(wish())
    with jobs.listen(job.id) as events:
        assert events.take(WAIT_S) == Progress("queued", 0.0)
        engine.begin(job.id)
        assert events.take(WAIT_S) == Progress("running", 0.0)
        engine.give(job.id)
        assert events.take(WAIT_S) == Progress("running", 0.25)
        first = events.take(WAIT_S)
        assert isinstance(first, Part)
        assert events.take(0.0) is None
        engine.finish(job.id)
        settled(jobs)
        rest = list(events)
    *parts, last = [first, *rest]
    assert isinstance(last, Ended)
    assert last.job.state == "done"
    whole = np.concatenate([one.audio.samples for one in parts if isinstance(one, Part)], axis=1)
    # The first from the model, the rest from the file: not a sample is lost or doubled between.
    assert whole.shape == sound(job.request).shape
    assert np.abs(whole - sound(job.request)).max() < 1e-4
    assert events.take() is None


def test_whoever_comes_late_hears_all_and_nothing_is_kept_for_it(jobs: Jobs, engine: FakeEngine):
    job = jobs.submit(wish(duration_s=3.0))
    slow = jobs.listen(job.id)
    engine.begin(job.id)
    engine.finish(job.id)
    end_of(jobs, job.id)
    assert slow._live is not None
    assert slow._live.parts == []
    for listener in (slow, jobs.listen(job.id)):
        parts = [one.audio for one in listener if isinstance(one, Part)]
        assert [one.duration_s for one in parts] == [1.0, 1.0, 1.0]
        whole = np.concatenate([one.samples for one in parts], axis=1)
        assert np.abs(whole - sound(job.request)).max() < 1e-4


def test_a_listener_without_parts_hears_how_it_fares(jobs: Jobs, engine: FakeEngine):
    job = jobs.submit(wish())
    with jobs.listen(job.id, parts=False) as events:
        engine.begin(job.id)
        engine.finish(job.id)
        settled(jobs)
        found: list[Event] = list(events)
    assert not [one for one in found if isinstance(one, Part)]
    assert isinstance(found[-1], Ended)


def test_listeners_are_counted_and_can_be_dropped(jobs: Jobs, engine: FakeEngine):
    job = jobs.submit(wish())
    some = [jobs.listen(job.id) for _ in range(4)]
    with pytest.raises(Busy):
        jobs.listen(job.id)
    some[0].close()
    some[0].close()
    del some[1]
    gc.collect()
    settled(jobs)
    assert jobs.measures().listening == 2
    engine.begin(job.id)
    engine.finish(job.id)
    assert end_of(jobs, job.id).state == "done"
    with pytest.raises(Unknown):
        jobs.listen("nobody")
    for one in some:
        one.close()
    settled(jobs)
    assert jobs.measures().listening == 0


def test_a_sound_that_is_gone_is_said_to_be(engine: FakeEngine, tmp_path: Path):
    with Jobs(engine, tmp_path, Limits(results=1)) as jobs:
        some = [jobs.submit(wish(seed)).id for seed in range(2)]
        for id in some:
            engine.begin(id)
            engine.finish(id)
            end_of(jobs, id)
        late = jobs.listen(some[0])
        jobs.store.sweep(jobs.limits)
        with pytest.raises(Gone):
            jobs.result(some[0])
        with pytest.raises(Gone):
            list(late)
        assert list(late) == []
        assert end_of(jobs, some[0]).state == "done"
        assert jobs.result(some[1]).is_file()


def test_a_loop_can_listen_to_many(tmp_path: Path):
    async def hear(jobs: Jobs, id: str) -> tuple[float, str]:
        seconds = 0.0
        async with jobs.listen(id) as events:
            async for event in events:
                if isinstance(event, Part):
                    seconds += event.audio.duration_s
                elif isinstance(event, Ended):
                    return seconds, event.job.state
        raise AssertionError("no end")

    async def all_of(jobs: Jobs) -> list[tuple[float, str]]:
        some = [jobs.submit(wish(seed)).id for seed in range(12)]
        async with jobs.listen(some[0]) as events:  # one that leaves in the middle
            await events.atake(WAIT_S)
        return await asyncio.gather(*(hear(jobs, id) for id in some))

    with Jobs(BusyEngine(3), tmp_path) as jobs:
        assert asyncio.run(all_of(jobs)) == [(0.5, "done")] * 12


def test_waiting_in_a_loop_has_an_end(jobs: Jobs):
    job = jobs.submit(wish())

    async def twice() -> list[Event | None]:
        async with jobs.listen(job.id) as events:
            return [await events.atake(WAIT_S), await events.atake(0.01)]

    assert asyncio.run(twice()) == [Progress("queued", 0.0), None]


# --- the end of the server ---


def test_an_orderly_close_ends_what_runs_and_keeps_what_waits(tmp_path: Path):
    engine = FakeEngine(1)
    jobs = Jobs(engine, tmp_path)
    jobs.start()
    some = [jobs.submit(wish(seed)).id for seed in range(4)]
    heard = jobs.listen(some[3], parts=False)
    engine.begin(some[0])
    closing = threading.Thread(target=jobs.close, args=(WAIT_S,))
    closing.start()
    while jobs.accepting or some[1] in engine.have:
        time.sleep(0.001)
    with pytest.raises(Closing):
        jobs.submit(wish())
    engine.finish(some[0])
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert engine.stopped
    last = list(heard)[-1]
    assert isinstance(last, Ended)
    assert last.job.state == "queued"
    jobs.close()
    with Jobs(BusyEngine(), tmp_path) as again:
        assert again.measures().restored == 3
        assert [end_of(again, id).state for id in some] == ["done"] * 4
        assert [again.get(id).starts for id in some] == [1, 1, 1, 1]


def test_what_does_not_end_in_time_is_made_again(tmp_path: Path):
    engine = FakeEngine(1)
    with Jobs(engine, tmp_path) as jobs:
        id = jobs.submit(wish()).id
        engine.begin(id)
        engine.give(id)
        jobs.close(0.01)
    with Jobs(BusyEngine(), tmp_path) as again:
        job = end_of(again, id)
        assert (job.state, job.starts) == ("done", 1)


def test_a_server_that_never_started_closes(tmp_path: Path):
    jobs = Jobs(FakeEngine(), tmp_path)
    with pytest.raises(Closing):
        jobs.submit(wish())
    jobs.close()
    jobs.close()


def test_a_full_disk_fails_the_job_with_a_line(
    jobs: Jobs, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
):
    def full(*words: object) -> None:
        raise UserError("the disk is full", "free some")

    monkeypatch.setattr(jobs.store, "finish", full)
    job = jobs.submit(wish())
    engine.begin(job.id)
    engine.finish(job.id)
    ended = end_of(jobs, job.id)
    assert (ended.state, ended.fault, ended.error) == (
        "failed", "server", "the disk is full - free some",
    )  # fmt: skip


def killed_after(folder: Path, done: int, work_s: float, until: Callable[[], bool]) -> list[str]:
    """Accepted ids of a server that was killed in the middle."""
    noted = folder / "accepted"
    process = CONTEXT.Process(
        target=serve_until_killed, args=(str(folder / "jobs"), 24, str(noted), work_s)
    )
    process.start()
    while not until():
        assert process.is_alive()
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(WAIT_S)
    return noted.read_text().split()


def test_after_a_kill_every_accepted_job_is_made_once(tmp_path: Path):
    noted, results = tmp_path / "accepted", tmp_path / "jobs" / "results"

    def enough() -> bool:
        have = len(list(results.glob("*.flac"))) if results.is_dir() else 0
        return noted.is_file() and len(noted.read_text().split()) >= 12 and have >= 3

    accepted = killed_after(tmp_path, 3, 0.01, enough)
    assert len(accepted) == len(set(accepted)) >= 12
    with Jobs(BusyEngine(4, 0.0), tmp_path / "jobs", Limits(queue=24)) as jobs:
        for number, id in enumerate(accepted):
            # Whoever was not told asks again, and is told of the same job.
            again = jobs.submit(wish(number, f"number {number}", duration_s=0.2), key=f"k{number}")
            assert again.id == id
            assert end_of(jobs, id).state == "done"
            samples, _ = soundfile.read(jobs.result(id), dtype="float32")
            assert np.abs(samples - sound(replace(again.request))[0]).max() < 1e-4
        known = {job.id for job in jobs.list(limit=1000)}
        assert known >= set(accepted)
        assert len(known) <= len(accepted) + 1  # one may have been killed between disk and note
        assert {path.stem for path in jobs.store.results.iterdir()} <= known
