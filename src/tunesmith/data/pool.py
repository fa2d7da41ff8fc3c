"""Many recordings at once, each in a process of its own.

Decoders are C code fed with strangers' files: one that crashes takes its worker with it, not the
run. The workers are plain child processes that speak JSON lines, not :mod:`multiprocessing`: that
would run the caller's script again (spawn) unless it is guarded, and would leave workers behind
when the parent is killed. These end when their standard input does, and until then they hold the
parent's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.data.cut import CutRecord, CutSettings, cut
from tunesmith.data.remote import at_hand
from tunesmith.data.sources import Source
from tunesmith.errors import ResourceError, UserError

_POLL_S = 0.2
# Below this a second process costs more to start than it saves.
_BYTES_PER_WORKER = 4 << 20
# There are as many workers as cores: threads of one would only wait for those of the others.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Job:
    """One recording to cut.

    Attributes:
        source: the recording.
        sha256: of its content.
        folder: its staging folder.
    """

    source: Source
    sha256: str
    folder: Path


def how_many(jobs: Sequence[Job], workers: int | None) -> int:
    """Worker processes to use: what was asked for, else what pays (at most the CPUs, and 16)."""
    if workers is not None:
        return min(workers, len(jobs))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pays = 1 + sum(job.source.size_bytes for job in jobs) // _BYTES_PER_WORKER
    return max(1, min(len(jobs), usable or 1, pays, 16))


def cut_all(
    jobs: Sequence[Job], settings: CutSettings, workers: int, lock: int = -1
) -> Generator[tuple[int, float, CutRecord | None], None, None]:
    """Cuts recordings, in any order.

    Args:
        jobs: what to cut.
        settings: how.
        workers: processes; 0 works in this one, which a debugger can follow.
        lock: file that the workers keep open: a lock on it lasts until the last of them is gone,
            so that no later run meets one that is still writing. -1 is none.

    Yields:
        (index of the job, share done, its record when it is done). Also ``(-1, 0, None)`` a few
        times a second while nothing happens, so that the caller can look for a wish to stop.
        Closing the generator ends the workers; finished recordings stay finished.

    Errors: :class:`~tunesmith.errors.UserError` when the staging folder cannot be written.
    """
    if workers == 0:
        for index, job in enumerate(jobs):
            yield from _here(index, job, settings)
        return
    pool = _Pool(jobs, settings, lock)
    try:
        pool.start(workers)
        yield from pool.results()
    finally:
        pool.close()


def _here(
    index: int, job: Job, settings: CutSettings
) -> Iterator[tuple[int, float, CutRecord | None]]:
    # A thread, because a generator cannot yield from inside a callback.
    news: queue.Queue[tuple[float, CutRecord | BaseException | None]] = queue.Queue()
    go_on = threading.Semaphore(0)
    stopping = False

    def on_clip(share: float) -> None:
        news.put((share, None))
        go_on.acquire()
        if stopping:
            raise SystemExit

    def work() -> None:
        try:
            with at_hand(job.source, job.sha256) as path:
                news.put((1.0, cut(path, job.folder, settings, on_clip)))
        except BaseException as error:
            news.put((0.0, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            share, result = news.get()
            if isinstance(result, BaseException):
                raise result
            yield index, share, result
            if result is not None:
                return
            go_on.release()
    finally:
        stopping = True
        go_on.release()
        thread.join()


class _Pool:
    def __init__(self, jobs: Sequence[Job], settings: CutSettings, lock: int) -> None:
        self._jobs = jobs
        self._lock_file = lock
        self._settings = settings
        self._todo = iter(range(len(jobs)))
        self._lock = threading.Lock()
        self._closing = False
        self._news: queue.Queue[tuple[int, float, CutRecord | BaseException | None]] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._workers: list[Worker] = []

    def start(self, workers: int) -> None:
        for _ in range(workers):
            thread = threading.Thread(target=self._attend, daemon=True)
            thread.start()
            self._threads.append(thread)

    def results(self) -> Iterator[tuple[int, float, CutRecord | None]]:
        left = len(self._jobs)
        while left:
            try:
                index, share, result = self._news.get(timeout=_POLL_S)
            except queue.Empty:
                yield -1, 0.0, None
                continue
            if isinstance(result, BaseException):
                raise result
            left -= result is not None
            yield index, share, result

    def close(self) -> None:
        with self._lock:
            self._closing = True
            for worker in self._workers:
                worker.kill()
        for thread in self._threads:
            thread.join()

    def _attend(self) -> None:
        """Feeds one worker, and starts another when a recording has killed it."""
        worker: Worker | None = None
        try:
            while True:
                with self._lock:
                    index = None if self._closing else next(self._todo, None)
                    if index is None:
                        return
                    if worker is None:
                        worker = Worker(self._settings, self._lock_file)
                        self._workers.append(worker)
                job = self._jobs[index]
                with at_hand(job.source, job.sha256) as path:
                    record = worker.cut(path, job.folder, partial(self._told, index))
                if record is None:
                    record, closing = worker.post_mortem(), self._forget(worker)
                    worker = None
                    if closing:
                        return
                self._news.put((index, 1.0, record))
        except BaseException as error:
            self._news.put((-1, 0.0, error))
        finally:
            if worker is not None:
                worker.close()
                self._forget(worker)

    def _told(self, index: int, share: float) -> None:
        self._news.put((index, share, None))

    def _forget(self, worker: Worker) -> bool:
        """Takes a worker that has ended off the list; whether the pool is closing."""
        with self._lock:
            self._workers.remove(worker)
            return self._closing


class Worker:
    """A child process that cuts one recording after another.

    Args:
        settings: how to cut.
        lock: as for :func:`cut_all`.
    """

    def __init__(self, settings: CutSettings, lock: int = -1) -> None:
        self._settings = settings
        self._process = _worker(lock)

    def cut(
        self, path: Path, folder: Path, on_share: Callable[[float], None] = lambda share: None
    ) -> CutRecord | None:
        """Cuts ``path`` into ``folder``; ``None`` if the process ended over it.

        Errors: those of :func:`tunesmith.data.cut.cut`; RuntimeError with the worker's traceback for
        any other.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"path": str(path), "folder": str(folder), "settings": self._settings.to_json()}
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError:
            return None
        for line in self._process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "share" in answer:
                on_share(answer["share"])
            elif "record" in answer:
                return CutRecord.from_json(answer["record"])
            else:
                kinds = {"UserError": UserError, "ResourceError": ResourceError}
                kind = kinds.get(answer["error"])
                if kind is None:
                    raise RuntimeError(answer["message"])
                raise kind(answer["message"], answer["mend"])
        return None

    def post_mortem(self) -> CutRecord:
        """What to note of the recording that it ended over."""
        # No record on disk: another run may have more memory, or a mended decoder.
        code = self.close()
        return CutRecord.unusable(
            f"the decoder crashed on it (exit code {code}): convert it to wav"
        )

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()  # staged files are whole or not there, so this loses nothing

    def close(self) -> int:
        """Lets it end; its exit code."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        code = self._process.wait()
        self._process.stdout.close()
        return code


def _worker(lock: int) -> subprocess.Popen[str]:
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # -P: a file called numpy.py in the user's folder must not be imported.
        [sys.executable, "-P", "-c", "from tunesmith.data.pool import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # mpg123 comments on every odd mp3 header
        text=True,
        encoding="utf-8",
        env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)},
        # Ctrl-C is for the parent: it decides when the workers end.
        start_new_session=True,
        pass_fds=(lock,) if lock >= 0 and os.name == "posix" else (),
    )


def serve() -> None:
    """The worker's side: orders on standard input, answers on standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    orders: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        order = json.loads(orders.get())
        try:
            record = cut(
                Path(order["path"]),
                Path(order["folder"]),
                CutSettings.from_json(order["settings"]),
                lambda share: answer({"share": share}),
            )
            answer({"record": record.to_json()})
        except BrokenPipeError:  # the parent is gone
            os._exit(1)
        except UserError as error:
            kind = type(error).__name__
            answer({"error": kind, "message": error.message, "mend": error.mend})
        except Exception:
            import traceback

            answer({"error": "bug", "message": traceback.format_exc()})


def _listen(orders: queue.Queue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    # The parent has no more orders, or is gone. A half-done recording is begun afresh anyway.
    os._exit(0)
