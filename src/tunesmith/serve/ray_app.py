"""The same application beyond one machine: a front with the queue, and replicas with the model, on Ray Serve.

    serve run tunesmith.serve.ray_app:build base=pocket replicas=2 jobs=/shared/jobs

One replica, the front, holds the queue, its store and the web application, as one process does without
Ray. Its engine is :class:`RayEngine`, which hands each request to a replica of :class:`Worker`; Ray routes it
to one that has the request's adapters in memory already (``multiplexed_model_id``), or to one that loads them.
Folders of adapters and jobs have to be reachable from every machine under the same path. Ray itself passes
objects between its own processes as pickles; nothing that a client sends is ever one.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.formats.adapter import check_base, find_adapter, home
from tunesmith.serve.request import Engine, Request, Sink
from tunesmith.serve.server import jobs_home
from tunesmith.serve.tokens import find_token
from tunesmith.types import Audio

_FACTS = (
    *("name", "base_hash", "licence", "family", "sample_rate_hz", "channels", "max_s"),
    *("frame_rate_hz", "sampling", "settings", "columns", "free_length"),
    *("inpainting", "no_inpainting"),
)
_DRAIN_S = 10.0


@dataclass(frozen=True)
class Described:
    """What a front knows of its base; the model itself lies with the workers. As :class:`Bundle` has it."""

    name: str
    base_hash: str
    licence: str
    family: str
    sample_rate_hz: int
    channels: int
    max_s: float
    frame_rate_hz: float
    sampling: Any
    settings: tuple[str, ...]
    columns: tuple[str, ...]
    free_length: bool
    inpainting: str
    no_inpainting: str


def described(bundle: Any) -> Described:
    """What the front needs of a loaded base."""
    return Described(**{name: getattr(bundle, name) for name in _FACTS})


class _Channel:
    """What an engine says of one request, in order, for a coroutine to read; a :class:`Sink`."""

    def __init__(self) -> None:
        self._loop, self._said = asyncio.get_running_loop(), asyncio.Queue()

    def _say(self, *event: Any) -> None:
        with suppress(RuntimeError):  # the loop is gone, and nobody listens
            self._loop.call_soon_threadsafe(self._said.put_nowait, event)

    def progress(self, share: float) -> None:
        self._say("progress", share)

    def part(self, audio: Audio) -> None:
        self._say("part", audio.samples, audio.sample_rate_hz)

    def finished(self) -> None:
        self._say("finished")

    def failed(self, error: Exception) -> None:
        ours = isinstance(error, UserError)
        self._say(
            "failed", ours, error.message if ours else repr(error), error.mend if ours else ""
        )

    def cancelled(self) -> None:
        self._say("cancelled")

    async def events(self) -> AsyncIterator[tuple[Any, ...]]:
        """Until the last one."""
        while True:
            event = await self._said.get()
            yield event
            if event[0] in ("finished", "failed", "cancelled"):
                return


class Held:
    """The adapters of one multiplexed id in a worker's engine; Ray drops the one that was used least lately."""

    def __init__(self, worker: Worker, names: Mapping[str, str]) -> None:
        self._worker, self._names = worker, {}
        worker.hold(names)
        self._names = dict(names)

    def __del__(self) -> None:
        with suppress(Exception):
            self._worker.let_go(self._names)


class Worker:
    """A replica with the model.

    Args:
        base, options: as of :func:`tunesmith.serve.open_engine`.
    """

    def __init__(self, base: str, options: Mapping[str, Any]) -> None:
        from tunesmith.serve.engine import open_engine

        self._engine = open_engine(base, **options)
        self._held: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._engine.start()

    def describe(self) -> Described:
        """Of its base."""
        return described(self._engine.bundle)

    def hold(self, names: Mapping[str, str]) -> None:
        """Have these adapters in memory: ``{name: folder}``."""
        with self._lock:
            done = []
            try:
                for one in names.items():
                    if not self._held.get(one):
                        self._engine.add_adapter(one[0], Path(one[1]))
                    self._held[one] = self._held.get(one, 0) + 1
                    done.append(one)
            except UserError:
                for one in done:
                    self._drop(one)
                raise

    def let_go(self, names: Mapping[str, str]) -> None:
        """They are needed no more by one of those that held them."""
        with self._lock:
            for one in names.items():
                self._drop(one)

    def _drop(self, one: tuple[str, str]) -> None:
        self._held[one] -= 1
        if not self._held[one]:
            del self._held[one]
            # Of the same name from another folder, there may be one by now.
            if str(self._engine.adapters().get(one[0])) == one[1]:
                self._engine.remove_adapter(one[0])

    async def have(self, id: str) -> Held:
        """The adapters of a multiplexed id (see :func:`multiplexed_id`)."""
        return await asyncio.to_thread(Held, self, json.loads(id))

    async def make(self, request: Request, id: str) -> AsyncIterator[tuple[Any, ...]]:
        """What the engine says of a request, until its last word. Who stops reading calls it off."""
        channel, over = _Channel(), False
        try:
            held = await self.have(id) if id else None
        except UserError as error:
            yield ("failed", True, error.message, error.mend)
            return
        try:
            self._engine.submit(request, channel)
            async for event in channel.events():
                over = event[0] in ("finished", "failed", "cancelled")
                yield event
        finally:
            if not over:
                self._engine.cancel(request.id)
            del held


def multiplexed_id(request: Request, folders: Mapping[str, Path]) -> str:
    """What Ray routes by: name and folder of each adapter that a request mixes; empty for the base alone."""
    if not request.adapters:
        return ""
    return json.dumps({name: str(folders[name]) for name in sorted(request.adapters)})


class RayEngine(Engine):
    """An engine whose model lies with workers, on machines of a Ray cluster.

    Adding an adapter costs nothing here: its card is held against the base, and the worker that first needs
    it loads it.

    Args:
        handle: of the workers' deployment.
        bundle: what they say of their base.
        slots: requests that are worked on at once, over all workers.
    """

    def __init__(self, handle: Any, bundle: Any, slots: int) -> None:
        self.bundle, self.slots, self._handle = bundle, slots, handle
        self._folders: dict[str, Path] = {}
        self._running: dict[str, Any] = {}
        self._off: set[str] = set()
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Request, Sink] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"ray-engine-{place}", daemon=True)
            for place in range(slots)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, drain_s: float = 0.0) -> None:
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(drain_s / len(self._threads))
        with self._lock:
            rest = list(self._running.items())
        for id, _ in rest:
            self.cancel(id)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def submit(self, request: Request, sink: Sink) -> None:
        self._calls.put((request, sink))

    def cancel(self, id: str) -> None:
        with self._lock:
            self._off.add(id)
            running = self._running.get(id)
        if running is not None:
            running.cancel()

    def adapters(self) -> Mapping[str, Path]:
        with self._lock:
            return dict(self._folders)

    def add_adapter(self, name: str, folder: Path) -> None:
        check_base(folder, self.bundle)
        with self._lock:
            self._folders[name] = Path(folder)

    def remove_adapter(self, name: str) -> None:
        with self._lock:
            if self._folders.pop(name, None) is None:
                raise UserError(f"no adapter '{name}'", "it was removed already")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            request, sink = call
            try:
                self._follow(request, sink)
            except Exception as error:
                if request.id in self._off:
                    sink.cancelled()
                else:
                    sink.failed(error)
            finally:
                with self._lock:
                    self._running.pop(request.id, None)
                    self._off.discard(request.id)

    def _follow(self, request: Request, sink: Sink) -> None:
        with self._lock:
            off = request.id in self._off
            lost = [name for name in request.adapters if name not in self._folders]
            folders = dict(self._folders)
        if off:
            sink.cancelled()
            return
        if lost:
            raise UserError(f"the adapter '{lost[0]}' was removed", "add it again")
        id = multiplexed_id(request, folders)
        said = self._handle.options(stream=True, multiplexed_model_id=id).make.remote(request, id)
        with self._lock:
            self._running[request.id] = said
        for kind, *values in said:
            if kind == "progress":
                sink.progress(*values)
            elif kind == "part":
                sink.part(Audio(*values))
            elif kind == "finished":
                sink.finished()
            elif kind == "cancelled":
                sink.cancelled()
            else:
                ours, message, mend = values
                sink.failed(UserError(message, mend) if ours else RuntimeError(message))


def build(arguments: Mapping[str, Any]) -> Any:
    """The Ray Serve application, for ``serve run`` and ``serve.run``.

    Args:
        arguments: ``base`` (pocket), ``replicas`` (2), ``slots`` of each (4), ``cpus`` and ``gpus`` of each
            (1, 0), ``held`` (blends that a replica keeps in memory: 8), ``adapters`` (``NAME=WHERE``,
            separated by commas), ``adapters_folder``, ``jobs``, ``hosts`` (names that requests may call the
            server by, separated by commas; this machine's own by default). The token is
            ``$TUNESMITH_TOKEN`` of who calls this; with hosts there must be one.
    """
    from ray import serve

    from tunesmith.serve.guard import LOCAL_NAMES

    given = {name: str(value) for name, value in arguments.items()}
    base, slots = given.get("base", "pocket"), int(given.get("slots", "4"))
    replicas, held = int(given.get("replicas", "2")), int(given.get("held", "8"))
    token, _ = find_token(given.get("token_file"))
    hosts = [one for one in given.get("hosts", "").split(",") if one]
    if hosts and not token:
        raise UserError("other machines can ask, and there is no token", "set $TUNESMITH_TOKEN")
    words = [one for one in given.get("adapters", "").split(",") if one]
    first = {
        name: str(find_adapter(where)) for name, _, where in (one.partition("=") for one in words)
    }

    class Multiplexed(Worker):
        have: Any = serve.multiplexed(max_num_models_per_replica=held)(Worker.have)

    worker = serve.deployment(
        name="worker",
        num_replicas=replicas,
        max_ongoing_requests=2 * slots,
        ray_actor_options={
            "num_cpus": float(given.get("cpus", "1")),
            "num_gpus": float(given.get("gpus", "0")),
        },
    )(Multiplexed)
    kept = Path(given.get("jobs") or jobs_home(base)).expanduser()
    folder = Path(given.get("adapters_folder") or home()).expanduser()
    names = (*LOCAL_NAMES, *hosts)

    def front_app() -> Any:  # in the front's replica
        handle = serve.get_deployment_handle("worker", serve.get_replica_context().app_name)
        return front(handle, replicas * slots, kept, folder, first, token, names)

    front_deployment = serve.deployment(
        name="front",
        num_replicas=1,  # of the queue there is one
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress(front_app)(_Front))
    return front_deployment.bind(worker.bind(base, {"slots": slots, "adapters": 4 * held}))


class _Front:
    """The deployment that Ray sends HTTP to; its application is made by :func:`front`."""

    def __init__(self, workers: Any) -> None:
        pass  # named here so that Ray starts them; the application has a handle of its own


def front(
    handle: Any,
    slots: int,
    kept: Path,
    folder: Path,
    adapters: Mapping[str, str],
    token: str,
    names: Collection[str],
) -> Any:
    """The web application over workers.

    Args:
        handle: of the workers' deployment.
        slots: requests that are worked on at once, over all of them.
        kept, folder: of jobs, and of adapters that can be added by name.
        adapters: to begin with, ``{name: folder}``.
        token, names: who may ask.
    """
    from tunesmith.serve.app import Access, application
    from tunesmith.serve.jobs import Jobs
    from tunesmith.serve.shelf import Shelf

    with ThreadPoolExecutor(1) as aside:  # Ray's answers are not waited for in its own loop
        bundle = aside.submit(lambda: handle.describe.remote().result()).result()
    engine = RayEngine(handle, bundle, slots)
    for name, place in adapters.items():
        engine.add_adapter(name, Path(place))
    jobs = Jobs(engine, kept)
    shelf = Shelf(engine, folder, kept)
    shelf.restore()
    jobs.start()
    app = application(jobs, shelf, Access(token, names), closing=lambda: not jobs.accepting)

    async def with_end(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        while (message := await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await asyncio.to_thread(jobs.close, _DRAIN_S)
        await send({"type": f"{message['type']}.complete"})

    return with_end


__all__ = [
    "Described",
    "Held",
    "RayEngine",
    "Worker",
    "build",
    "described",
    "front",
    "multiplexed_id",
]
