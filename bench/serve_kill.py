"""A server killed with 20 jobs running, started again: what becomes of every job it had accepted.

    python -m bench.serve_kill [--kills 3] [--seconds 3] [--quick]

A real ``tunesmith serve`` on ``pocket`` with 20 slots takes 28 jobs. When 20 of them run it is killed
(SIGKILL) and started again, each time at another moment of their making. One of the runs is repeated
without a kill: the sounds have to be the same, sample for sample, for each is made from its seed.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bench._results import Row, parser, record
from bench._server import Served, stored

SLOTS, EXTRA = 20, 8
PATH = "/v1/audio/generations"


def submit(server: Served, count: int, seconds: float) -> list[str]:
    """Ids of jobs that were accepted."""
    found = []
    for number in range(count):
        body = {"prompt": f"jazz, number {number}", "seconds": seconds, "seed": number}
        found.append(server.post(PATH, body | {"async": True})["id"])
    return found


def states(server: Served) -> dict[str, dict[str, Any]]:
    return {job["id"]: job for job in server.get("/v1/jobs?limit=1000")["jobs"]}


def until_ended(server: Served, ids: list[str], limit_s: float = 280) -> dict[str, dict[str, Any]]:
    """The jobs when all of them have ended, or the time is over."""
    end = time.monotonic() + limit_s
    while True:
        found = states(server)
        open_ = [id for id in ids if found.get(id, {}).get("state") in ("queued", "running")]
        if not open_ or time.monotonic() > end:
            return found
        time.sleep(0.1)


def sounds(folder: Path, ids: list[str]) -> list[np.ndarray]:
    files = [folder / "results" / f"{id}.flac" for id in ids]
    return [soundfile.read(file)[0] if file.is_file() else np.zeros(0) for file in files]


def run(top: Path, name: str, seconds: float, share: float | None) -> dict[str, Any]:
    """One run; killed when the running jobs are ``share`` done on the mean, or not at all."""
    folder, log = top / name, top / f"{name}.log"
    words = ["--slots", str(SLOTS), "--queue", "64", "--seconds", "30"]
    server = Served(folder, words, log)
    ids = submit(server, SLOTS + EXTRA, seconds)
    running, mean, restart_s = 0, 0.0, 0.0
    if share is not None:
        while True:
            some = [job for job in states(server).values() if job["state"] == "running"]
            mean = sum(job["progress"] for job in some) / max(1, len(some))
            if len(some) >= SLOTS and mean >= share:
                break
            if all(job["state"] == "done" for job in states(server).values()):
                raise SystemExit("it was done before it could be killed; give more --seconds")
            time.sleep(0.02)
        running = len(some)
        server.kill()
        begin = time.perf_counter()
        server = Served(folder, words, log)
        restart_s = time.perf_counter() - begin
    found = until_ended(server, ids)
    server.stop()
    kept = stored(folder)
    return {
        "ids": ids,
        "running": running,
        "share": mean,
        "restart_s": restart_s,
        "lost": [id for id in ids if id not in found],
        "open": [id for id in ids if found.get(id, {}).get("state") not in ("done", "failed")],
        "done": sum(found.get(id, {}).get("state") == "done" for id in ids),
        "failed": sum(found.get(id, {}).get("state") == "failed" for id in ids),
        "doubled": len(kept) - len({job["request"]["prompt"] for job in kept}),
        "begun": sum(job["starts"] for job in kept),
        "sounds": sounds(folder, ids),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=3)
    options.add_argument("--seconds", type=float, default=3.0)
    args = options.parse_args()
    kills, seconds = (1, 1.0) if args.quick else (args.kills, args.seconds)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        plain = run(top, "plain", seconds, None)
        killed = []
        for number in range(kills):
            share = 0.8 * number / max(1, kills - 1)
            one = run(top, f"killed{number}", seconds, share)
            told = {key: one[key] for key in ("running", "share", "done", "failed", "restart_s")}
            print(f"killed at {share:.0%}: {told}", flush=True)
            killed.append(one)
    total = sum(len(one["ids"]) for one in killed)
    ended = sum(one["done"] + one["failed"] for one in killed)
    same = sum(
        np.array_equal(mine, other)
        for one in killed
        for mine, other in zip(one["sounds"], plain["sounds"], strict=True)
    )
    running = min(one["running"] for one in killed)
    lost = sum(len(one["lost"]) + len(one["open"]) + one["doubled"] for one in killed)
    rows = [
        Row(
            f"SIGKILL during {SLOTS} running jobs, restart: accepted jobs that finish or are reported failed",
            "every one",
            f"{ended} of {total} ({sum(one['done'] for one in killed)} done; {kills} kills with "
            f"{running} running, {EXTRA} waiting; none asked twice)",
            ended == total and lost == 0 and running >= SLOTS,
        ),
        Row(
            "the same: sounds equal, sample for sample, to those of a server that was not killed",
            "all",
            f"{same} of {total}",
            same == total,
        ),
        Row(
            "the same: from the start of the process until it takes requests again",
            "",
            f"{max(one['restart_s'] for one in killed):.1f} s at most",
        ),
    ]
    print(*rows, sep="\n")
    if not args.quick:
        notes = (
            f"`pocket`, {SLOTS} slots, sounds of {seconds:g} s, killed when the running jobs were "
            f"{', '.join(format(one['share'], '.0%') for one in killed)} done on the mean."
        )
        packages = ["torch", "fastapi", "uvicorn"]
        record("serve_kill", "A server killed", rows, notes=notes, packages=packages)
    if not all(row.passed is not False for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
