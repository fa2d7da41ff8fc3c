"""Trials as tasks of a Ray cluster. Their folder has to be one that all machines share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.data.engines.ray import connect, import_ray
from tunesmith.errors import Stopped, UserError
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import TRIES, Job

OnEvent = Callable[[str, Mapping[str, Any]], None]

_POLL_S = 0.5


class Cluster:
    """A cluster that was joined, or started here, for as long as a sweep takes.

    Args:
        workers: jobs at a time; None as many as fit.
        stop: a stop loses what was trained since the last checkpoint.
        on_event: told ``job`` when one is done.

    Raises:
        UserError: no cluster.
    """

    def __init__(self, workers: int | None, stop: StopFlag, on_event: OnEvent) -> None:
        self._workers, self._stop, self._on_event = workers, stop, on_event
        self._ray = import_ray()
        self._own = connect(self._ray)
        gpus = 1 if self._ray.cluster_resources().get("GPU") else 0
        # A trial whose machine was lost goes on from its own last checkpoint.
        how = {"num_cpus": 1, "num_gpus": gpus, "max_retries": TRIES - 1}
        self._task = self._ray.remote(**how)(_work)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        if self._own:
            self._ray.shutdown()

    def run(self, jobs: Sequence[Job], lost: Callable[[str], Any]) -> dict[str, Any]:
        """Like :func:`tunesmith.training.workers.run_jobs`, for jobs that wait for no other.

        Args:
            jobs: what to do; each takes a GPU where the cluster has any, else a CPU.
            lost: what a job gave whose worker was lost too often, from the reason.

        Raises:
            UserError: the cluster gave up.
            Stopped: a stop was asked for.
        """
        waiting, running, results = list(jobs), {}, {}
        while waiting or running:
            while waiting and (self._workers is None or len(running) < self._workers):
                job = waiting.pop(0)
                running[self._task.remote(job.call, json.dumps(dict(job.arguments)))] = job
            done, _ = self._ray.wait(list(running), num_returns=1, timeout=_POLL_S)
            for one in done:
                job = running.pop(one)
                results[job.name] = self._result(one, lost)
                told = {"of": job.name, "done": len(results), "total": len(jobs)}
                self._on_event("job", told)
            if number := self._stop():
                for one in running:
                    self._ray.cancel(one, force=True)
                raise Stopped(number, "stopped; run the same command again to go on")
        return results

    def _result(self, one: Any, lost: Callable[[str], Any]) -> Any:
        kinds = self._ray.exceptions
        try:
            return json.loads(self._ray.get(one))
        except kinds.RayTaskError:
            raise  # a bug of ours, with its traceback
        except (kinds.WorkerCrashedError, kinds.OutOfMemoryError, kinds.NodeDiedError) as error:
            return lost(_told(error))
        except kinds.RayError as error:
            raise UserError(
                f"Ray gave up ({_told(error)})", "what is finished is kept; run again to go on"
            ) from None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _work(call: str, arguments: str) -> str:
    """A job in a worker; JSON in, JSON out."""
    import importlib

    module, _, name = call.partition(":")
    function = getattr(importlib.import_module(module), name)
    return json.dumps(
        function(**json.loads(arguments), stop=lambda: 0, on_event=lambda kind, values: None)
    )


__all__ = ["Cluster"]
