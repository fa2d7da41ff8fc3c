"""Engines without a model: one that a test drives step by step, one that works by itself."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tunesmith.errors import UserError
from tunesmith.serve.jobs import Jobs, Limits
from tunesmith.serve.request import Engine, Request, Sink
from tunesmith.types import Audio, GenerationSettings

RATE_HZ = 1600


def sound(request: Request) -> np.ndarray:
    """``[1, T]``: what a request is answered with, by its seed."""
    draw = np.random.default_rng(request.seed)
    size = round(request.duration_s * RATE_HZ)
    return draw.uniform(-0.9, 0.9, (1, size)).astype(np.float32)


class FakeEngine(Engine):
    """Does nothing by itself: :meth:`begin`, :meth:`give` and :meth:`finish` are a test's to call."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.bundle: Any = SimpleNamespace(
            name="fake", base_hash="0" * 64, licence="none", family="fake", max_s=10.0,
            frame_rate_hz=50.0, columns=("speaker",), settings=("guidance",),
            sampling=GenerationSettings(), sample_rate_hz=RATE_HZ, channels=1, free_length=False,
        )  # fmt: skip
        self.have: dict[str, tuple[Request, Sink]] = {}
        self.begun: set[str] = set()
        self.given: dict[str, int] = {}
        self.submitted: list[str] = []
        self.stopped = False

    def start(self) -> None:
        pass

    def submit(self, request: Request, sink: Sink) -> None:
        assert not self.stopped
        if request.prompt == "refuse":
            raise UserError("no such thing", "ask for another")
        self.submitted.append(request.id)
        self.have[request.id] = (request, sink)

    def cancel(self, id: str) -> None:
        if found := self.have.pop(id, None):
            found[1].cancelled()

    def stop(self, drain_s: float = 0.0) -> None:
        self.stopped = True
        for id in list(self.have):
            self.cancel(id)

    def adapters(self) -> Mapping[str, Path]:
        return {"jazz": Path("jazz")}

    def add_adapter(self, name: str, folder: Path) -> None:
        raise NotImplementedError

    def remove_adapter(self, name: str) -> None:
        raise NotImplementedError

    # --- what a test does ---

    def begin(self, id: str) -> None:
        self.begun.add(id)
        self.have[id][1].progress(0.0)

    def give(self, id: str, share: float = 0.25) -> None:
        """The next part: a quarter of the sound."""
        request, sink = self.have[id]
        whole, begin = sound(request), self.given.get(id, 0)
        end = min(whole.shape[1], begin + -(-whole.shape[1] // 4))
        self.given[id] = end
        sink.progress(end / whole.shape[1])
        if end > begin:
            sink.part(Audio(whole[:, begin:end], RATE_HZ))

    def finish(self, id: str) -> None:
        while self.given.get(id, 0) < sound(self.have[id][0]).shape[1]:
            self.give(id)
        self.have.pop(id)[1].finished()

    def fail(self, id: str, error: Exception) -> None:
        self.have.pop(id)[1].failed(error)


class BusyEngine(FakeEngine):
    """Works by itself, one request at a time in each of its slots' threads.

    Args:
        slots: threads.
        work_s: for each quarter of a sound.
    """

    def __init__(self, slots: int = 2, work_s: float = 0.002) -> None:
        super().__init__(slots)
        self._work_s = work_s
        self._some = threading.Condition()
        self._queue: deque[str] = deque()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(slots)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, request: Request, sink: Sink) -> None:
        super().submit(request, sink)
        with self._some:
            self._queue.append(request.id)
            self._some.notify()

    def cancel(self, id: str) -> None:
        with self._some:
            super().cancel(id)

    def stop(self, drain_s: float = 0.0) -> None:
        with self._some:
            super().stop(drain_s)
            self._some.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._some:
                self._some.wait_for(lambda: self._queue or self.stopped)
                if self.stopped:
                    return
                id = self._queue.popleft()
            for step in range(6):
                with self._some:
                    if id not in self.have:
                        break
                    if step == 0:
                        self.begin(id)
                    elif step < 5:
                        self.give(id)
                    else:
                        self.finish(id)
                time.sleep(self._work_s)


def serve_until_killed(folder: str, count: int, accepted: str, work_s: float) -> None:
    """In a process of its own: accept so many jobs, note each once it is accepted, and go on."""
    jobs = Jobs(BusyEngine(4, work_s), folder, Limits(queue=count))
    jobs.start()
    with open(accepted, "a", buffering=1) as file:
        for number in range(count):
            job = jobs.submit(Request("", f"number {number}", 0.2, seed=number), key=f"k{number}")
            file.write(f"{job.id}\n")
            os.fsync(file.fileno())
    threading.Event().wait()
