"""The server on Ray Serve: two replicas with the model, adapters that go where they are, an orderly end.

    python -m bench.serve_ray [--requests 12] [--quick]

A local Ray of two processors, `serve.run` of `tunesmith.serve.ray_app`, and the embedded base with three LoRAs, of
which a replica keeps one in memory at a time. Every request is answered over HTTP; the same seed with the same adapter
has to give the same sound as a server without Ray gives. Then jobs are accepted, and the application is deleted
under them: after the next start every one has to be done, once. Everything is shut down at the end.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench._results import Row, parser, record

NAMES = ("jazz", "swing", "bop")
PORT = 8731


def make_adapters(top: Path) -> dict[str, Path]:
    """Three LoRAs with random weights."""
    import torch

    from tunesmith.families import find_base, load
    from tunesmith.formats.adapter import save_adapter
    from tunesmith.methods import lora

    bundle, found = load(find_base("pocket")), {}
    for seed, name in enumerate(NAMES):
        attached = lora.attach(bundle, lora.Config(rank=4))
        with torch.no_grad():
            for place, parameter in enumerate(attached.parameters().values()):
                draw = torch.Generator().manual_seed(1000 * seed + place)
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
        save_adapter(top / name, attached, bundle, {"rights": "", "trigger_tokens": []})
        attached.detach()
        found[name] = top / name
    return found


def alone(adapters: dict[str, Path], wanted: list[dict], top: Path) -> list[bytes]:
    """The same sounds of one process without Ray."""
    from fastapi.testclient import TestClient

    from tunesmith.serve import Access, Jobs, Shelf, application, open_engine

    engine = open_engine("pocket", slots=1, device="cpu")
    for name, folder in adapters.items():
        engine.add_adapter(name, folder)
    with Jobs(engine, top / "alone") as jobs:
        app = application(jobs, Shelf(engine, top, top / "alone"), Access())
        with TestClient(app, "http://localhost") as http:
            return [http.post("/v1/audio/generations", json=one).content for one in wanted]


def ask(path: str, body: dict | None = None) -> tuple[int, bytes]:
    """Status and body of an answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=500) as reply:
        return reply.status, reply.read()


def make(body: dict) -> tuple[int, bytes]:
    """Ask for a sound."""
    return ask("/v1/audio/generations", body)


def job(id: str) -> dict[str, Any]:
    """How a job stands."""
    return json.loads(ask(f"/v1/jobs/{id}")[1])


def deleted_under_jobs(serve: Any, start: Any, wanted: list[dict]) -> tuple[list[str], list[str]]:
    """States of jobs after the application was deleted under them, and after it was started again."""
    ids = [json.loads(make(one | {"seconds": 4, "async": True})[1])["id"] for one in wanted]
    while all(job(id)["state"] == "queued" for id in ids):
        time.sleep(0.05)
    serve.delete("tunesmith")
    start()
    first = [job(id)["state"] for id in ids]
    end = time.monotonic() + 300
    while any(job(id)["state"] in ("queued", "running") for id in ids) and time.monotonic() < end:
        time.sleep(0.2)
    last = [job(id) for id in ids]
    for one in last:
        if one["error"]:
            print(one["id"], one["error"])
    return first, [one["state"] for one in last]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--requests", type=int, default=12)
    args = options.parse_args()
    count = 6 if args.quick else args.requests
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tunesmith.serve.ray_app import build
    from tunesmith.serve.ray_local import local_serve

    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        adapters = make_adapters(top)
        wanted = [
            {"prompt": "slow blues", "seconds": 1, "seed": place, "adapters": {NAMES[place % 3]: 1}}
            for place in range(count)
        ]
        expected = alone(adapters, wanted, top)
        begin = time.perf_counter()
        words = ",".join(f"{one}={folder}" for one, folder in adapters.items())
        with local_serve(port=PORT) as serve:

            def start() -> None:
                options = {"replicas": 2, "slots": 1, "held": 1, "adapters": words}
                serve.run(build({**options, "jobs": top / "jobs"}), name="tunesmith")

            start()
            up_s, begin = time.perf_counter() - begin, time.perf_counter()
            with ThreadPoolExecutor(4) as several:
                answers = list(several.map(make, wanted))
            took_s = time.perf_counter() - begin
            state = serve.status().applications["tunesmith"]
            replicas = sum(state.deployments["worker"].replica_states.values())
            first, last = deleted_under_jobs(serve, start, wanted[:6])
    answered = sum(status == 200 for status, _ in answers)
    same = sum(sound == other for (_, sound), other in zip(answers, expected, strict=True))
    rows = [
        Row(
            "two local replicas of Ray Serve, three adapters of which each holds one: requests answered, "
            "sounds equal to those without Ray",
            "all",
            f"{answered} and {same} of {count}, {replicas} replicas, up in {up_s:.0f} s, "
            f"answered in {took_s:.0f} s",
            answered == same == count and replicas == 2,
        ),
        Row(
            "the application deleted under jobs and started again: jobs done",
            "all",
            f"{last.count('done')} of {len(last)}, {first.count('done')} of them before the start",
            last.count("done") == len(last),
        ),
    ]
    for row in rows:
        print(row)
    if not args.quick:
        record("serve_ray", "Serving on Ray", rows, packages=["ray", "torch"])
    if not all(row.passed for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
