"""Jobs in processes: order, events, errors and stops come through as if they ran here."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tunesmith.errors import ResourceError, Stopped, UserError
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import Job, run_jobs

SOURCE = """
import os, time
from tunesmith.errors import ResourceError, Stopped

def double(*, value, stop, on_event):
    on_event("seen", {"value": value, "threads": os.environ.get("OMP_NUM_THREADS")})
    print("noise on stdout")
    return {"value": 2 * value, "pid": os.getpid()}

def wait(*, folder, stop, on_event):
    on_event("waiting", {})
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if number := stop():
            open(os.path.join(folder, "saved"), "w").write(str(number))
            raise Stopped(number, "saved")
        time.sleep(0.01)

def refuse(*, stop, on_event):
    raise ResourceError("the disk is full", "free space")

def break_(*, stop, on_event):
    raise KeyError("a bug")

def vanish(*, stop, on_event):
    os._exit(3)

def vanish_once(*, folder, stop, on_event):
    path = os.path.join(folder, "begun")
    if os.path.exists(path):
        return "second time"
    open(path, "w").close()
    os._exit(3)
"""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "work_for_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "work_for_test"


def jobs(*calls: str, **arguments: object) -> list[Job]:
    return [Job(f"{i} {call}", f"work_for_test:{call}", arguments) for i, call in enumerate(calls)]


def nothing(kind: str, values: object) -> None:
    pass


@pytest.mark.parametrize("workers", [1, 2])
def test_results_and_events_come_back(workers: int) -> None:
    events: list[tuple[str, dict]] = []
    made = run_jobs(
        jobs("double", "double", "double", value=4),
        workers=workers,
        stop=StopFlag(),
        on_event=lambda kind, values: events.append((kind, dict(values))),
    )
    assert [one["value"] for one in made.values()] == [8, 8, 8]
    assert sorted(values["of"] for _, values in events) == ["0 double", "1 double", "2 double"]
    processes = {one["pid"] for one in made.values()}
    assert (processes == {os.getpid()}) == (workers == 1)
    if workers == 2:
        threads = max(1, len(os.sched_getaffinity(0)) // 2)
        assert {values["threads"] for _, values in events} == {str(threads)}


def test_a_job_waits_for_those_before_it() -> None:
    events: list[str] = []
    chain = [
        Job("a", "work_for_test:double", {"value": 1}),
        Job("b", "work_for_test:double", {"value": 1}, after=("a",)),
        Job("c", "work_for_test:double", {"value": 1}, after=("b",)),
    ]
    run_jobs(
        chain, workers=2, stop=StopFlag(), on_event=lambda _, values: events.append(values["of"])
    )
    assert events == ["a", "b", "c"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_the_workers_and_they_save(number: int, tmp_path: Path) -> None:
    stop = StopFlag()

    def on_event(kind: str, values: object) -> None:
        if kind == "waiting":
            stop.set(number)

    begin = time.monotonic()
    with pytest.raises(Stopped) as stopped:
        run_jobs(
            jobs("wait", "wait", "wait", folder=str(tmp_path)),
            workers=2,
            stop=stop,
            on_event=on_event,
        )
    assert stopped.value.signal_number == number
    assert (tmp_path / "saved").read_text() == str(int(number))
    assert time.monotonic() - begin < 15


def test_one_that_fails_stops_the_others(tmp_path: Path) -> None:
    work = [*jobs("wait", folder=str(tmp_path)), Job("bad", "work_for_test:refuse")]
    with pytest.raises(ResourceError, match="disk is full") as raised:
        run_jobs(work, workers=2, stop=StopFlag(), on_event=nothing)
    assert raised.value.mend == "free space" and raised.value.exit_code == 3
    assert (tmp_path / "saved").is_file()


@pytest.mark.parametrize(("call", "word"), [("break_", "KeyError: 'a bug'"), ("vanish", "ended")])
def test_a_bug_keeps_its_traceback(call: str, word: str) -> None:
    with pytest.raises(RuntimeError, match=word):
        run_jobs(jobs(call, call), workers=2, stop=StopFlag(), on_event=nothing)


def test_in_this_process_errors_are_what_they_are() -> None:
    with pytest.raises(UserError):
        run_jobs(jobs("refuse"), workers=1, stop=StopFlag(), on_event=nothing)


def test_no_worker_and_no_thread_is_left() -> None:
    before = threading.active_count()
    run_jobs(jobs("double", "double", value=1), workers=2, stop=StopFlag(), on_event=nothing)
    assert threading.active_count() == before


def test_a_job_whose_process_is_killed_is_tried_again_and_then_told(tmp_path: Path) -> None:
    some = [
        *jobs("vanish"),
        Job("once", "work_for_test:vanish_once", {"folder": str(tmp_path)}),
        Job("after", "work_for_test:double", {"value": 1}),
    ]
    made = run_jobs(
        some, workers=1, stop=StopFlag(), on_event=nothing, apart=True, lost=lambda why: why
    )
    assert "ended (3)" in made["0 vanish"]
    assert made["once"] == "second time" and made["after"]["value"] == 2
