"""The server on Ray Serve: two replicas with the model, adapters that go where they are.

    python -m bench.serve_ray [--requests 12] [--quick]

A local Ray of two processors, `serve.run` of `tunesmith.serve.ray_app`, and the embedded base with two LoRAs.
Every request is answered over HTTP; the same seed with the same adapter has to give the same sound as a
server without Ray gives. Everything is shut down at the end.
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

from bench._results import Row, parser, record

NAMES = ("jazz", "swing")


def make_adapters(top: Path) -> dict[str, Path]:
    """Two LoRAs with random weights."""
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


def ask(port: int, body: dict) -> tuple[int, bytes]:
    """Status and sound."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/audio/generations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=500) as reply:
        return reply.status, reply.read()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--requests", type=int, default=12)
    args = options.parse_args()
    count = 4 if args.quick else args.requests
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import ray
    from ray import serve

    from tunesmith.serve.ray_app import build

    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        adapters = make_adapters(top)
        wanted = [
            {"prompt": "slow blues", "seconds": 1, "seed": place, "adapters": {NAMES[place % 2]: 1}}
            for place in range(count)
        ]
        expected = alone(adapters, wanted, top)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            begin = time.perf_counter()
            serve.start(http_options={"host": "127.0.0.1", "port": 8731})
            words = ",".join(f"{one}={folder}" for one, folder in adapters.items())
            serve.run(
                build({"replicas": 2, "slots": 1, "adapters": words, "jobs": top / "jobs"}),
                name="tunesmith",
            )
            up_s, begin = time.perf_counter() - begin, time.perf_counter()
            with ThreadPoolExecutor(4) as several:
                answers = list(several.map(lambda one: ask(8731, one), wanted))
            took_s = time.perf_counter() - begin
            state = serve.status().applications["tunesmith"]
            replicas = sum(state.deployments["worker"].replica_states.values())
        finally:
            serve.shutdown()
            ray.shutdown()
    answered = sum(status == 200 for status, _ in answers)
    same = sum(sound == other for (_, sound), other in zip(answers, expected, strict=True))
    rows = [
        Row(
            "two local replicas of Ray Serve: requests answered, sounds equal to those without Ray",
            "all",
            f"{answered} and {same} of {count}, {replicas} replicas, up in {up_s:.0f} s, "
            f"answered in {took_s:.0f} s",
            answered == same == count and replicas == 2,
        )
    ]
    for row in rows:
        print(row)
    if not args.quick:
        record("serve_ray", "Serving on Ray", rows, packages=["ray", "torch"])
    if answered != count or same != count:
        sys.exit(1)


if __name__ == "__main__":
    main()
