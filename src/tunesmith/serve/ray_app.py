"""The same application beyond one machine: a front with the queue, and replicas with the model, on Ray Serve.

    serve run tunesmith.serve.ray_app:build base=pocket replicas=2 jobs=/shared/jobs

One replica, the front, holds the queue, its store and the web application, as one process does without
Ray. Its engine is a :class:`.ray_engine.RayEngine`, which hands each request to a replica of
:class:`.ray_worker.Worker`; Ray routes it to one that has the request's adapters in memory already
(``multiplexed_model_id``), or to one that loads them.
Folders of adapters and jobs have to be reachable from every machine under the same path. Ray itself passes
objects between its own processes as pickles; nothing that a client sends is ever one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.formats.adapter import find_adapter, home
from tunesmith.serve.jobs import Jobs
from tunesmith.serve.ray_engine import RayEngine
from tunesmith.serve.ray_worker import Worker
from tunesmith.serve.server import jobs_home
from tunesmith.serve.tokens import find_token

_DRAIN_S = 10.0
_OPEN: list[Jobs] = []  # of the front in this process


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
    return front_deployment.bind(
        worker.bind(base, {"slots": slots, "adapters": 4 * held + 2 * slots})
    )


class _Front:
    """The deployment that Ray sends HTTP to; its application is made by :func:`front`."""

    def __init__(self, workers: Any) -> None:
        pass  # named here so that Ray starts them; the application has a handle of its own

    async def close(self, drain_s: float) -> None:
        """Accept nothing more and let what runs come to its end, while there still are workers.

        Ray stops the workers of an application that is deleted as soon as the front, which would go on
        waiting for them.
        """
        for jobs in _OPEN:
            await asyncio.to_thread(jobs.close, drain_s)


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
    _OPEN.append(jobs)
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


__all__ = ["build", "front"]
