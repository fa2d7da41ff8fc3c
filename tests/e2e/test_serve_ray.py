"""The server on Ray Serve for real: two replicas and two adapters give the sounds of one process without Ray.

Ray runs in a process of its own with all that it starts; what is left of it when the test ends is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NAMES = ("jazz", "swing")

DRIVER = """
import hashlib, json, sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
from tunesmith.serve.ray_app import build
from tunesmith.serve.ray_local import local_serve

port, options, wanted = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])


def ask(body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/audio/generations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=200) as reply:
        return hashlib.sha256(reply.read()).hexdigest()


with local_serve(port=port) as serve:
    serve.run(build(options), name="tunesmith")
    with ThreadPoolExecutor(4) as several:
        sounds = list(several.map(ask, wanted))
    workers = serve.status().applications["tunesmith"].deployments["worker"]
    print(json.dumps({"sounds": sounds, "replicas": sum(workers.replica_states.values())}), flush=True)
"""


def make_adapters(base: Path, top: Path) -> dict[str, Path]:
    """Two LoRAs with random weights."""
    import torch

    from tunesmith.families import find_base, load
    from tunesmith.formats.adapter import save_adapter
    from tunesmith.methods import lora

    bundle = load(find_base(str(base)))
    for seed, name in enumerate(NAMES):
        attached = lora.attach(bundle, lora.Config(rank=2))
        with torch.no_grad():
            for place, parameter in enumerate(attached.parameters().values()):
                draw = torch.Generator().manual_seed(1000 * seed + place)
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
        save_adapter(top / name, attached, bundle, {"rights": "", "trigger_tokens": []})
        attached.detach()
    return {name: top / name for name in NAMES}


def alone(
    base: Path, adapters: dict[str, Path], wanted: list[dict[str, Any]], top: Path
) -> list[str]:
    """Hashes of the same sounds of one process without Ray."""
    from fastapi.testclient import TestClient

    from tunesmith.serve import Access, Jobs, Shelf, application, open_engine

    engine = open_engine(str(base), slots=1, device="cpu")
    for name, folder in adapters.items():
        engine.add_adapter(name, folder)
    with Jobs(engine, top / "alone") as jobs:
        app = application(jobs, Shelf(engine, top, top / "alone"), Access())
        with TestClient(app, "http://localhost") as http:
            answers = [http.post("/v1/audio/generations", json=one) for one in wanted]
    assert all(answer.status_code == 200 for answer in answers)
    return [hashlib.sha256(answer.content).hexdigest() for answer in answers]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def children_of(pid: int) -> set[int]:
    """All processes below one."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except (OSError, ValueError):
            continue
    found, before = {pid}, 0
    while len(found) > before:
        before = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_replicas_and_two_adapters_give_the_sounds_of_one_process(
    tiny_base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray.serve")
    adapters = make_adapters(tiny_base, tmp_path)
    mixes = [{}, {"jazz": 1}, {"swing": 1}, {"jazz": 0.5, "swing": 0.5}] * 2
    wanted = [
        {"prompt": "ab", "seconds": 0.5, "seed": place, "adapters": mix}
        for place, mix in enumerate(mixes)
    ]
    expected = alone(tiny_base, adapters, wanted, tmp_path)
    assert len(set(expected)) == len(wanted)  # else equal sounds would say nothing
    options = {
        "base": str(tiny_base),
        "replicas": 2,
        "slots": 1,
        "held": 1,  # fewer than there are: replicas have to exchange them
        "adapters": ",".join(f"{name}={folder}" for name, folder in adapters.items()),
        "jobs": str(tmp_path / "jobs"),
    }
    words = [str(free_port()), json.dumps(options), json.dumps(wanted)]
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as driver:
        try:
            out, said = driver.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            for pid in (*children_of(driver.pid), driver.pid):
                os.kill(pid, signal.SIGKILL)
            raise
    assert driver.returncode == 0, said[-3000:]
    told = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert told == {"sounds": expected, "replicas": 2}
