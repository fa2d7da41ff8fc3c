"""Jobs in processes of their own, several at a time, that report events and stop when asked.

A small model on two cores is served better by two trainings with one thread each than by one with
two: most of its operations are too small to share. Processes rather than threads, because training
owns the global random generators.

A worker is ``python -m tunesmith.training.workers``; both sides write lines of JSON. It is not
forked or spawned by ``multiprocessing``, which would import the caller's script once more.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith import errors
from tunesmith.errors import Stopped, UserError
from tunesmith.training import launch
from tunesmith.training.signals import StopFlag

OnEvent = Callable[[str, Mapping[str, Any]], None]

TRIES = 2
"""Of a job whose process is killed, where that is not the end of all: a second time is no accident."""


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work.

    Attributes:
        name: of the job; its events carry it as ``of``.
        call: ``module:function``; called with ``arguments``, ``stop`` (a :class:`StopFlag`) and
            ``on_event``. What it returns must be JSON.
        arguments: keyword arguments; JSON.
        after: names of the jobs that must be done before.
    """

    name: str
    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    stop: StopFlag,
    on_event: OnEvent,
    apart: bool = False,
    lost: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Run all jobs, in their order as far as ``after`` allows.

    Args:
        jobs: what to do; a job stands behind those that it waits for.
        workers: processes; 1 runs all jobs in this process, with all its threads.
        stop: raising it stops every job as the job itself sees fit.
        on_event: told what happens in all of them, one at a time.
        apart: give a single worker a process of its own too.
        lost: what a job gave whose process was killed :data:`TRIES` times, from the reason; by default
            that is the end of all of them.

    Returns:
        What each job returned, by its name.

    Raises:
        UserError: the first that a job raised; the others are stopped before.
        Stopped: a stop was asked for.
        RuntimeError: a job failed by a fault of its own, with its traceback.
    """
    if workers <= 1 and not apart:
        return {
            job.name: _call(job.call, job.arguments, stop, _told(on_event, job.name))
            for job in jobs
        }
    workers = max(1, workers)
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    crew = _Crew(jobs, on_event, lost)
    hands = [_Hand(crew, threads) for _ in range(min(workers, len(jobs)))]
    try:
        told = 0
        while any(hand.thread.is_alive() for hand in hands):
            # Woken now and then: only the main thread runs the handlers of signals.
            hands[0].thread.join(0.1) if hands[0].thread.is_alive() else hands[-1].thread.join(0.1)
            number = stop() or (signal.SIGTERM if crew.error else 0)
            if number and not told:
                told = int(number)
                crew.end()
                for hand in hands:
                    hand.send({"stop": told})
    finally:
        crew.end()
        for hand in hands:
            hand.close()
    if crew.error and not (isinstance(crew.error, Stopped) and stop()):
        raise crew.error
    stop.check("stopped; run the same command again to go on")
    return crew.results


class _Crew:
    """What is to be done and what is done, shared by the threads that look after the workers."""

    def __init__(
        self, jobs: Sequence[Job], on_event: OnEvent, lost: Callable[[str], Any] | None
    ) -> None:
        self._waiting = list(jobs)
        self.lost, self.ending = lost, False
        self._changed = threading.Condition()
        self._on_event = on_event
        self.results: dict[str, Any] = {}
        self.error: Exception | None = None

    def take(self) -> Job | None:
        """The next job that can begin; waits for one; None when none is left."""
        with self._changed:
            while self._waiting:
                for job in self._waiting:
                    if self.results.keys() >= set(job.after):
                        self._waiting.remove(job)
                        return job
                self._changed.wait()
            return None

    def done(self, job: Job, result: Any) -> None:
        with self._changed:
            self.results[job.name] = result
            self._changed.notify_all()

    def failed(self, error: Exception) -> None:
        with self._changed:
            self.error = self.error or error
        self.end()

    def end(self) -> None:
        """Nothing new begins."""
        with self._changed:
            self.ending = True
            self._waiting.clear()
            self._changed.notify_all()

    def event(self, job: Job, kind: str, values: Mapping[str, Any]) -> None:
        with self._changed:
            _told(self._on_event, job.name)(kind, values)


class _Hand:
    """One worker process and the thread that feeds it."""

    def __init__(self, crew: _Crew, threads: int) -> None:
        self._crew, self._threads = crew, threads
        self._process = self._begun()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _begun(self) -> subprocess.Popen[str]:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # torch takes its number from them
        environment = os.environ | dict.fromkeys(names, str(self._threads))
        for name in launch.NAMES:
            environment.pop(
                name, None
            )  # a worker is one process on its own, whoever started its parent
        return subprocess.Popen(
            [sys.executable, "-m", "tunesmith.training.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches the parent alone, which tells them
        )

    def send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError, ValueError):  # it is gone; its thread notices
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Let the worker end, by force if it does not by itself."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.thread.join(10)
        if self._process.stdout:
            self._process.stdout.close()

    def _work(self) -> None:
        try:
            while job := self._crew.take():
                self._crew.done(job, self._tried(job))
        except Exception as error:
            self._crew.failed(error)

    def _tried(self, job: Job) -> Any:
        tries = 0
        while True:
            tries += 1
            self.send({"call": job.call, "arguments": job.arguments})
            try:
                return self._result(job)
            except _LostError as error:
                if self._crew.lost is None or self._crew.ending:
                    raise
                self._replace()
                if tries == TRIES:
                    return self._crew.lost(str(error))

    def _replace(self) -> None:
        """A new process in the place of one that is gone."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = self._begun()

    def _result(self, job: Job) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:
            told = json.loads(line)
            if "event" in told:
                self._crew.event(job, told["event"], told["values"])
            elif "result" in told:
                return told["result"]
            else:
                raise _error(told)
        raise _LostError(f"the process of '{job.name}' ended ({self._process.wait()})")


class _LostError(RuntimeError):
    """A process ended before its job did."""


def _told(on_event: OnEvent, name: str) -> OnEvent:
    return lambda kind, values: on_event(kind, {**values, "of": name})


def _call(call: str, arguments: Mapping[str, Any], stop: StopFlag, on_event: OnEvent) -> Any:
    module, _, name = call.partition(":")
    function = getattr(importlib.import_module(module), name)
    return function(**arguments, stop=stop, on_event=on_event)


def _error(told: Mapping[str, Any]) -> Exception:
    """The exception that a worker wrote down."""
    if "stopped" in told:
        return Stopped(told["stopped"], told["message"])
    if "user_error" in told:
        kind = getattr(errors, told["user_error"], UserError)
        known = kind if kind in (errors.ResourceError, errors.Diverged) else UserError
        return known(told["message"], told["mend"])
    return RuntimeError(told["traceback"])


def main() -> None:
    """The worker: jobs come in by stdin, events and results go out by what was stdout."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not end up among the lines
    stop = StopFlag()
    jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            told = json.loads(line)
            if "stop" in told:
                stop.set(told["stop"])
            else:
                jobs.put(told)
        # The other end is closed: the parent has ended, or wants nothing more.
        stop.set(stop.number or signal.SIGTERM)
        jobs.put(None)

    def say(**told: Any) -> None:
        out.write(json.dumps(told, default=str) + "\n")

    threading.Thread(target=listen, daemon=True).start()
    with stop:
        while job := jobs.get():
            try:
                result = _call(
                    job["call"],
                    job["arguments"],
                    stop,
                    lambda kind, values: say(event=kind, values=dict(values)),
                )
            except Stopped as error:
                say(stopped=error.signal_number, message=str(error))
            except UserError as error:
                message = getattr(error, "message", str(error))
                mend = getattr(error, "mend", "")
                say(user_error=type(error).__name__, message=message, mend=mend)
            except Exception:
                say(traceback=traceback.format_exc())
            else:
                say(result=result)


if __name__ == "__main__":
    main()
