"""The server on Ray Serve for real: two replicas and two adapters give the sounds of one process without Ray.

Ray is started by a process of its own, which SIGTERM has to end; what is left of it then is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

NAMES = ("jazz", "swing")


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


def ask(port: int, body: dict[str, Any]) -> str:
    """Hash of the sound that is answered."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/audio/generations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=200) as reply:
        return hashlib.sha256(reply.read()).hexdigest()


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
    port = free_port()
    log = (tmp_path / "log").open("w+")
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tunesmith.serve.ray_run", f"port={port}"),
            *(f"{name}={value}" for name, value in options.items()),
        ],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"},
    ) as server:
        below: set[int] = set()
        try:
            assert server.stdout is not None
            said = next((line for line in server.stdout if line.startswith("http")), "")
            assert said.strip() == f"http://127.0.0.1:{port}", (tmp_path / "log").read_text()[
                -3000:
            ]
            below = children_of(server.pid)
            with ThreadPoolExecutor(4) as several:
                sounds = list(several.map(lambda one: ask(port, one), wanted))
            replicas = sum(
                name.startswith("ray::ServeReplica:tunesmith:worker") for name in names(below)
            )
            server.send_signal(signal.SIGTERM)
            server.stdout.read()
            code = server.wait(200)
        finally:
            server.kill()
            for pid in below:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            log.close()
    assert sounds == expected and replicas == 2
    assert code == 0, (tmp_path / "log").read_text()[-3000:]


def names(pids: Iterable[int]) -> list[str]:
    """What processes call themselves."""
    found = []
    for pid in pids:
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))
    return found


@pytest.mark.parametrize(
    ("word", "fault"),
    [("pocket", "'pocket' is no setting"), ("port=x", "no whole number"), ("drain=x", "no whole")],
)
def test_a_mistake_is_one_line(word: str, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray.serve")
    from tunesmith.serve.ray_run import main

    with pytest.raises(SystemExit) as ended:
        main([word])
    assert ended.value.code == 2 and fault in capsys.readouterr().err
