"""Ray Serve on this machine alone: to try the application of :mod:`.ray_app`, and to test it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_STORE_BYTES = 128 << 20
_PATIENCE: dict[str, str] = {
    # Ray asks a proxy three times within fifteen seconds whether it is up, and then kills it and begins
    # anew. On a busy machine its imports alone take longer, each time.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_worker_register_timeout_seconds": "300",
    # Its workers would run at the lowest priority: beside anything else they would hardly ever come to run.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextmanager
def local_serve(*, port: int = 8000, cpus: int = 2, patience_s: float = 300.0) -> Iterator[Any]:
    """Ray and its Serve on this machine; both end with it.

    Args:
        port: of the proxy, on 127.0.0.1.
        cpus: that replicas can be given; not how many there are.
        patience_s: how long its own processes may take until they are up.

    Yields:
        ``ray.serve``.

    Raises:
        TimeoutError: they were not up in time.
    """
    be_patient()
    import ray
    from ray import serve

    ray.init(
        "local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=_STORE_BYTES,
    )
    try:
        start_serve("127.0.0.1", port, patience_s)
        yield serve
    finally:
        try:
            serve.shutdown()
        finally:
            ray.shutdown()


def be_patient() -> None:
    """Gives the processes of Ray that are started after it time to come up on a busy machine."""
    for name, value in _PATIENCE.items():  # read by Ray's processes as they start
        os.environ.setdefault(name, value)


def start_serve(host: str, port: int, patience_s: float = 300.0) -> None:
    """Serve's controller and proxy; asked again while they are on their way, which makes no second one.

    Args:
        host, port: where the proxy listens.
        patience_s: how long it may take.

    Raises:
        TimeoutError: they were not up in time.
    """
    import ray.exceptions
    from ray import serve

    deadline = time.monotonic() + patience_s
    while True:
        try:
            serve.start(http_options={"host": host, "port": port})
            return
        except (TimeoutError, ray.exceptions.RayActorError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Ray Serve is not up: {error}") from error
            time.sleep(1.0)


__all__ = ["be_patient", "local_serve", "start_serve"]
