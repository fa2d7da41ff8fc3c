"""Trials as tasks of a Ray cluster. Their folder has to be one that all machines share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.data.engines.ray import connect, import_ray
from tunesmith.errors import Stopped, UserError
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import Job

OnEvent = Callable[[str, Mapping[str, Any]], None]

_POLL_S = 0.5
_RETRIES = 3  # of a trial whose machine was lost; it goes on from its own last checkpoint


def run_on_ray(
    jobs: Sequence[Job], *, workers: int | None, stop: StopFlag, on_event: OnEvent
) -> dict[str, Any]:
    """Like :func:`tunesmith.training.workers.run_jobs`, for jobs that wait for no other.

    Args:
        jobs: what to do; each takes a GPU where the cluster has any, else a CPU.
        workers: jobs at a time; None as many as fit.
        stop: a stop loses what was trained since the last checkpoint.
        on_event: told ``job`` when one is done.

    Raises:
        UserError: no cluster, or one that gave up.
        Stopped: a stop was asked for.
    """
    ray = import_ray()
    own = connect(ray)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)(_work)
        waiting, running, results = list(jobs), {}, {}
        while waiting or running:
            while waiting and (workers is None or len(running) < workers):
                job = waiting.pop(0)
                running[task.remote(job.call, json.dumps(dict(job.arguments)))] = job
            done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
            for one in done:
                job = running.pop(one)
                results[job.name] = _result(ray, one)
                on_event("job", {"of": job.name, "done": len(results), "total": len(jobs)})
            if number := stop():
                for one in running:
                    ray.cancel(one, force=True)
                raise Stopped(number, "stopped; run the same command again to go on")
        return results
    finally:
        if own:
            ray.shutdown()


def _work(call: str, arguments: str) -> str:
    """A job in a worker; JSON in, JSON out."""
    import importlib

    module, _, name = call.partition(":")
    function = getattr(importlib.import_module(module), name)
    return json.dumps(
        function(**json.loads(arguments), stop=lambda: 0, on_event=lambda kind, values: None)
    )


def _result(ray: Any, one: Any) -> Any:
    try:
        return json.loads(ray.get(one))
    except ray.exceptions.RayTaskError:
        raise  # a bug of ours, with its traceback
    except ray.exceptions.RayError as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"Ray gave up ({type(error).__name__}: {text})",
            "what is finished is kept; run again to go on",
        ) from None
