"""An engine whose model lies with replicas on a Ray cluster (see :mod:`.ray_app`)."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.formats.adapter import check_base
from tunesmith.serve.request import Engine, Request, Sink
from tunesmith.types import Audio

_LOG = logging.getLogger(__name__)
_TRIES, _AGAIN_S = 4, 1.0


def multiplexed_id(request: Request, folders: Mapping[str, Path]) -> str:
    """What Ray routes by: name and folder of each adapter that a request mixes; empty for the base alone."""
    if not request.adapters:
        return ""
    return json.dumps({name: str(folders[name]) for name in sorted(request.adapters)})


class _Once:
    """A sink that remembers whether anything of the sound went into it."""

    def __init__(self, sink: Sink) -> None:
        self.given = False
        self.progress, self.finished = sink.progress, sink.finished
        self.failed, self.cancelled = sink.failed, sink.cancelled
        self._sink = sink

    def part(self, audio: Audio) -> None:
        self.given = True
        self._sink.part(audio)


def _of_ray(error: Exception) -> bool:
    """Whether Ray lost a worker, or has none; what a worker itself raised is a ``RayTaskError``."""
    kinds = type(error).__mro__
    return any(kind.__module__.startswith("ray.") for kind in kinds) and not any(
        kind.__name__ in ("RayTaskError", "TaskCancelledError", "RequestCancelledError")
        for kind in kinds
    )


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
        self._ending = threading.Event()
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
        self._ending.set()
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
                self._made(request, sink)
            except Exception as error:
                if request.id in self._off or (self._ending.is_set() and _of_ray(error)):
                    sink.cancelled()
                else:
                    sink.failed(error)
            finally:
                with self._lock:
                    self._running.pop(request.id, None)
                    self._off.discard(request.id)

    def _made(self, request: Request, sink: Sink) -> None:
        """Have a worker make it; another one if that is lost, as long as nothing of the sound was given."""
        heard = _Once(sink)
        for tries in range(_TRIES):
            try:
                self._follow(request, heard)
                return
            except Exception as error:
                last = tries + 1 == _TRIES or heard.given or request.id in self._off
                if last or not _of_ray(error):
                    raise
                with self._lock:
                    self._running.pop(request.id, None)
                _LOG.warning("request %s: a worker was lost (%s)", request.id, error)
            if self._ending.wait(_AGAIN_S * 2**tries):
                sink.cancelled()
                return

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


__all__ = ["RayEngine", "multiplexed_id"]
