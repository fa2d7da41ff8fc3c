"""Starts the application of :mod:`.ray_app` and ends it in order.

    python -m tunesmith.serve.ray_run base=pocket replicas=2 jobs=/shared/jobs port=8000

Joins the cluster that ``RAY_ADDRESS`` names or that runs on this machine, else starts one for as long as it
runs. ``serve run`` does so too, but ends in order on Ctrl-C alone: on SIGTERM, which is what an init system or a
container sends, Ray aborts it and the cluster that it started, with whatever was being made.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping, Sequence

from tunesmith.errors import UserError
from tunesmith.serve.ray_app import build
from tunesmith.serve.ray_local import be_patient, start_serve

APPLICATION = "tunesmith"


def run(arguments: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT; then what runs is given time to end, and the rest lies with the jobs.

    Args:
        arguments: as of :func:`.ray_app.build`; also ``host`` (127.0.0.1), ``port`` (8000) and ``drain``,
            the seconds that what runs is given (30).

    Raises:
        UserError: a setting makes no sense, or Ray is missing.
    """
    given = dict(arguments)
    host, port = given.pop("host", "127.0.0.1"), given.pop("port", "8000")
    drain_s = given.pop("drain", "30")
    for name, text in (("port", port), ("drain", drain_s)):
        if not text.isdigit():
            raise UserError(f"{name}={text} is no whole number", f"give e.g. {name}=30")
    be_patient()
    try:
        import ray
        from ray import serve
    except ImportError:
        raise UserError("this needs Ray", "pip install 'tunesmith[serve,ray]'") from None
    application = build(given)
    ray.init(include_dashboard=False)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray's own, which would abort
        signal.signal(number, lambda *_: over.set())
    try:
        start_serve(host, int(port))
        if not over.is_set():
            serve.run(application, name=APPLICATION)
            print(f"http://{host}:{port}", flush=True)
        while not over.wait(1.0):
            pass
        serve.get_app_handle(APPLICATION).close.remote(float(drain_s)).result()
    finally:
        # The application alone, whose replicas finish what runs: in a cluster that was joined, Serve may
        # have others. One that was started here ends with the second line.
        serve.delete(APPLICATION)
        ray.shutdown()


def main(words: Sequence[str]) -> None:
    """``KEY=VALUE`` words; a mistake is one line and code 2."""
    try:
        if bad := [word for word in words if "=" not in word]:
            raise UserError(f"'{bad[0]}' is no setting", "write KEY=VALUE, as base=pocket")
        run({name: value for name, _, value in (word.partition("=") for word in words)})
    except UserError as error:
        print(f"tunesmith: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
