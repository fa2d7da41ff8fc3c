"""The engine of a Ray cluster: each stage a Ray Data pipeline, of tasks, or of actors that hold a model.

Joins the cluster that ``RAY_ADDRESS`` names or that runs here, else starts one on this machine for the
time of the run. A worker that is killed is started again and its batch done again; answers are counted
by recording, so that nothing is lost or doubled. Ray passes work between its processes in its own
form; what is written to disk is what the local engine writes.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.atomic import disk_error, write_bytes
from tunesmith.data.cut import CutRecord, CutSettings
from tunesmith.data.engines import Staged
from tunesmith.data.engines import _ray_workers as workers_of
from tunesmith.data.examine import Examined
from tunesmith.data.pool import Job
from tunesmith.data.sources import Source
from tunesmith.errors import ResourceError, Stopped, UserError
from tunesmith.types import Audio

if TYPE_CHECKING:
    from tunesmith.captioners import Captioner, Told
    from tunesmith.types import Clip

_POLL_S = 0.2
_BATCH = 16  # recordings that a worker is given at once; what is lost with it at most
_PER_WORKER = (
    8  # batches for each worker, where there are few recordings: the last one is waited for
)
_KEEP_GOING = "what is finished is kept; run again to go on"


class RayEngine:
    """An :class:`~tunesmith.data.engines.Engine`.

    Args:
        workers: at most; ``None`` takes the cluster's CPUs (its GPUs for models, where it has any).

    Errors: :class:`UserError` if Ray is missing or does not start.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UserError("--engine ray works in other processes", "give 1 worker or more")
        self._ray = import_ray()
        self._own = connect(self._ray)
        resources: Mapping[str, float] = self._ray.cluster_resources()
        self._gpus = int(resources.get("GPU", 0))
        self._workers = min(workers or 1 << 30, max(1, int(resources.get("CPU", 1))))
        self._staging = (
            "",
            "",
        )  # the folder, and the nonce of the file in it that workers look for

    def examine(
        self, sources: Sequence[Source]
    ) -> Generator[tuple[int, Examined | None], None, None]:
        jobs = [workers_of.source_to_json(source) for source in sources]
        for answer in self._answers(jobs, workers_of.examine_batch, {}):
            index = -1 if answer is None else answer.pop("index")
            yield index, None if answer is None else Examined.from_json(answer)

    def cut(
        self, jobs: Sequence[Job], settings: CutSettings, lock: int
    ) -> Generator[tuple[int, float, CutRecord | None], None, None]:
        if not jobs:
            return
        staging = jobs[0].folder.parent
        parts = staging / workers_of.PARTS
        with _shown_in(staging) as nonce:
            # Of a run that was killed. A worker of its that still lives will find its part gone.
            _empty(parts)
            self._staging = (str(staging), nonce)
            told = [
                workers_of.source_to_json(job.source)
                | {"sha256": job.sha256, "key": job.folder.name}
                for job in jobs
            ]
            given = {"settings": settings.to_json(), "staging": str(staging), "nonce": nonce}
            for answer in self._answers(told, workers_of.cut_batch, given):
                if answer is None:
                    yield -1, 0.0, None
                elif "file" in answer:
                    _receive(parts / f"received-{answer['index']}", answer)
                else:
                    index = answer["index"]
                    record = CutRecord.from_json(answer["record"])
                    received = parts / f"received-{index}"
                    if received.is_dir():
                        record = workers_of.publish(received, jobs[index].folder)
                    yield index, 1.0, record

    def open_captioner(self, name: str) -> Captioner:
        return _FarCaptioner(self._ray, name, self._gpu())

    def hear(self, captioner: Captioner, staged: Sequence[Staged]) -> Generator[int, None, None]:
        if not staged:
            return
        folder = staged[0].folder.parent
        told = [{"folder": str(one.folder), "files": one.files} for one in staged]
        with _shown_in(folder) as nonce:
            given = {
                "name": workers_of.anywhere(captioner.name),
                "fingerprint": captioner.fingerprint,
                "staging": str(folder),
                "nonce": nonce,
            }
            yield from self._counted(told, workers_of.Listener, given)

    def encode(
        self, clips: Sequence[Clip], base: str, should_stop: Callable[[], int]
    ) -> Iterator[int]:
        from tunesmith.data.encode import cache_folder

        cache = cache_folder().resolve()
        cache.mkdir(parents=True, exist_ok=True)
        told = [{"clip": asdict(clip) | {"path": str(clip.path.resolve())}} for clip in clips]
        with _shown_in(cache) as nonce:
            given = {"base": workers_of.anywhere(base), "cache": str(cache), "nonce": nonce}
            for done in self._counted(told, workers_of.Encoder, given):
                if number := should_stop():
                    raise Stopped(number, f"stopped while encoding; {_KEEP_GOING}")
                yield done

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()

    def _gpu(self) -> float:
        return 1.0 if self._gpus else 0.0

    def _counted(
        self, told: Sequence[dict[str, Any]], worker: type, given: Mapping[str, Any]
    ) -> Generator[int, None, None]:
        """Runs models over jobs; yields how many are done."""
        done: set[int] = set()
        for answer in self._answers(told, worker, given):
            if answer is not None:
                done.add(answer["index"])
            yield len(done)

    def _answers(
        self,
        told: Sequence[dict[str, Any]],
        worker: Callable[..., Any],
        given: Mapping[str, Any],
    ) -> Generator[dict[str, Any] | None, None, None]:
        """The answers to jobs, in any order, each once; None now and then while there is none.

        Errors: the first :class:`UserError` that a worker answered; a :class:`UserError` if the
        cluster gave up.
        """
        import ray.data

        models = isinstance(worker, type)
        gpus = self._gpu() if models else 0.0
        workers = min(self._workers, len(told), self._gpus if gpus else len(told))
        size = max(1, min(_BATCH, -(-len(told) // (workers * _PER_WORKER))))
        rows = [{"job": json.dumps({"index": i, **one})} for i, one in enumerate(told)]
        how: dict[str, Any] = {"num_cpus": 1, "batch_size": size}
        if models:
            pool = ray.data.ActorPoolStrategy(size=workers)
            how |= {"fn_constructor_kwargs": dict(given), "num_gpus": gpus}
        else:
            pool = ray.data.TaskPoolStrategy(size=workers)
            how |= {"fn_kwargs": dict(given)}
        blocks = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // size))
        pipeline = blocks.map_batches(worker, compute=pool, **how)
        finished: set[int] = set()
        with _followed(pipeline.iter_rows()) as found:
            for row in found:
                if row is None:
                    yield None
                    continue
                answer: dict[str, Any] = json.loads(row["answer"])
                if "error" in answer:
                    kind = ResourceError if answer["error"] == "ResourceError" else UserError
                    raise kind(answer["message"], answer["mend"])
                if answer["index"] in finished:
                    continue
                if row["file"]:
                    answer |= {"file": row["file"], "data": row["data"]}
                else:
                    finished.add(answer["index"])
                yield answer
        if len(finished) < len(told):
            raise UserError(
                f"Ray gave {len(finished):,} of {len(told):,} answers and no reason", _KEEP_GOING
            )


class _FarCaptioner:
    """A captioning model in a worker; a :class:`~tunesmith.captioners.Captioner`."""

    def __init__(self, ray: Any, name: str, gpus: float) -> None:
        self._ray, self.name = ray, name
        # Not a CPU of its own: it waits while the pool that hears everything has them.
        far = ray.remote(num_cpus=0, num_gpus=gpus)(workers_of.Listener)
        self._actor = far.remote(workers_of.anywhere(name))
        about = ray.get(self._actor.about.remote())
        if "message" in about:
            raise UserError(about["message"], about["mend"])
        self.fingerprint, self.source = about["fingerprint"], about["source"]
        if gpus:  # nor may it keep a GPU from the pool
            ray.kill(self._actor)
            self._actor = None

    def caption(self, clips: Sequence[Audio]) -> list[Told]:
        from tunesmith.captioners import Told

        assert self._actor is not None, "the pool has heard every clip"
        sounds = [(clip.samples, clip.sample_rate_hz) for clip in clips]
        return [Told(*one) for one in self._ray.get(self._actor.caption.remote(sounds))]


def import_ray() -> Any:
    """Ray, which is an extra. Errors: :class:`UserError` where it is missing."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("--engine ray needs Ray", "pip install 'tunesmith[ray]'") from None
    return ray


def connect(ray: Any) -> bool:
    """Joins a cluster or starts one here; whether it has to be shut down again.

    Errors: :class:`UserError` if neither can be.
    """
    own = not ray.is_initialized()
    if own:
        # What is prepared here is nobody else's business.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        before = _handlers()
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            where = os.environ.get("RAY_ADDRESS", "here")
            raise UserError(
                f"Ray does not start ({where}): {text}", "see `ray status`, or unset RAY_ADDRESS"
            ) from None
        finally:
            # Ray puts its own in, and the caller's wish to stop would end the process instead.
            for number, handler in before.items():
                signal.signal(number, handler)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return own


def _handlers() -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@contextmanager
def _followed(rows: Iterable[Mapping[str, Any]]) -> Iterator[Iterator[Mapping[str, Any] | None]]:
    """An iterator of Ray's in a thread of its own, with None where it makes one wait."""
    news: queue.Queue[Mapping[str, Any] | BaseException | None] = queue.Queue(maxsize=256)
    closing = threading.Event()

    def put(one: Mapping[str, Any] | BaseException | None) -> None:
        while not closing.is_set():
            with suppress(queue.Full):
                news.put(one, timeout=_POLL_S)
                return

    def follow() -> None:
        try:
            for row in rows:
                put(row)
                if closing.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    def found() -> Iterator[Mapping[str, Any] | None]:
        while True:
            try:
                one = news.get(timeout=_POLL_S)
            except queue.Empty:
                yield None
                continue
            if one is None:
                return
            if isinstance(one, BaseException):
                raise _given_up(one) from one
            yield one

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield found()
    finally:
        closing.set()
        thread.join(5.0)  # a row may be long in coming; then the cluster's end ends it


def _given_up(error: BaseException) -> BaseException:
    """What Ray raised, as one line where the cluster is at fault; a bug of ours as it is."""
    from ray.exceptions import RayError, RayTaskError

    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        text = " ".join(str(error).split())[:300]
        return UserError(f"Ray gave up ({type(error).__name__}: {text})", _KEEP_GOING)
    return error


@contextmanager
def _shown_in(folder: Path) -> Iterator[str]:
    """Puts a file into a folder by which a worker can tell that it sees the same one."""
    nonce = uuid.uuid4().hex
    path = folder / f".seen-{nonce}"
    try:
        path.touch()
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        yield nonce
    finally:
        path.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error


def _receive(folder: Path, answer: Mapping[str, Any]) -> None:
    name = Path(answer["file"]).name
    folder.mkdir(exist_ok=True)
    write_bytes(folder / name, answer["data"])


__all__ = ["RayEngine", "connect", "import_ray"]
