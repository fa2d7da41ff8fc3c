"""Runs in several processes at a time, as a launcher would start them, without paying for torch's import.

A launcher sets five environment variables and starts the same command so often; so does this, from the
fork server. One start can go through several runs.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from procs import CONTEXT

LIMIT_S = 280


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What a launcher on one machine says to a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    """One run in this process; ``stop`` is a rank and a step at which that one gets a SIGTERM.

    Returns:
        ``ended`` (``done``, ``stopped`` or the error's line), ``step``, and how many files it wrote.
    """
    from tunesmith.config import load_config
    from tunesmith.errors import Stopped, UserError
    from tunesmith.training.run import train

    seen = []

    def on_event(kind: str, values: Mapping[str, Any]) -> None:
        seen.append(kind)
        if kind == "train" and [int(os.environ.get("RANK", 0)), values["step"]] == job.get("stop"):
            os.kill(os.getpid(), 15)

    try:
        loaded = load_config(settings=job["settings"])
        result = train(loaded, resume=job.get("resume", False), on_event=on_event)
        return {"ended": "done", "step": result.state.step, "events": seen}
    except Stopped as stopped:
        return {"ended": "stopped", "said": str(stopped), "events": seen}
    except UserError as error:
        return {"ended": str(error), "events": seen}


def _main(rank: int, world: int, port: int, jobs: Sequence[Mapping[str, Any]], folder: str) -> None:
    os.environ.update(environment(rank, world, port))
    sys.stdout = sys.stderr = open(f"{folder}/{rank}.log", "w")  # noqa: SIM115
    try:
        found = [run(job) for job in jobs]
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()


def together(
    jobs: Sequence[Mapping[str, Any]], folder: Path, world: int = 2
) -> list[list[dict[str, Any]]]:
    """Go through some runs in several processes; what :func:`run` gave, by process and run."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    some = [
        CONTEXT.Process(target=_main, args=(rank, world, port, jobs, str(folder)))
        for rank in range(world)
    ]
    for one in some:
        one.start()
    for one in some:
        one.join(LIMIT_S)
    for one in some:
        if one.exitcode is None:
            one.kill()
            one.join()
    logs = [(folder / f"{rank}.log").read_text() for rank in range(world)]
    assert [one.exitcode for one in some] == [0] * world, "\n".join(logs)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
