"""1,000 requests at twice what the server can do, with askers that call off, leave and ask twice.

    python -m bench.serve_load [--requests 1000] [--seed 0] [--quick]

A real ``tunesmith serve`` on ``pocket``. First its capacity: as many askers as it has slots, each asking
again as soon as it is answered. Then requests come at random moments, twice as many a second, whatever
becomes of those before: some wait for their sound, some leave in the middle, some take a job, look at it
and call it off, some ask the same again with their key. Afterwards what was answered is laid beside what
the server has kept.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench._results import Row, parser, record
from bench._server import Served, stored

SLOTS = 8
SECONDS = (0.5, 1.0)
FLAT = 1.10
PATH = "/v1/audio/generations"
KINDS = {"wait": 0.4, "leave": 0.2, "come back": 0.15, "call off": 0.15, "ask twice": 0.1}


@dataclass(slots=True)
class Asker:
    """One request and what was answered.

    Attributes:
        number: which; its prompt says so, and no other's.
        kind: one of ``KINDS``.
        ids: of jobs that it was told.
        statuses: of all its answers.
        left: it did not wait for an answer.
        faults: answers that are not as they should be.
    """

    number: int
    kind: str
    ids: set[str] = field(default_factory=set)
    statuses: list[int] = field(default_factory=list)
    left: bool = False
    faults: list[str] = field(default_factory=list)

    @property
    def prompt(self) -> str:
        return f"piano waltz, request {self.number}"

    def body(self, seconds: float, later: bool = False) -> dict[str, Any]:
        return {"prompt": self.prompt, "seconds": seconds, "async": later}

    def heard(self, answer: httpx.Response) -> httpx.Response:
        self.statuses.append(answer.status_code)
        if "x-job-id" in answer.headers:
            self.ids.add(answer.headers["x-job-id"])
        if answer.status_code == 429 and int(answer.headers.get("retry-after", 0)) < 1:
            self.faults.append("429 without Retry-After")
        made = answer.status_code == 200 and answer.request.method == "POST"
        if made and answer.content[:4] != b"RIFF":
            self.faults.append("200 without a sound")
        return answer

    async def ask(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        seconds, key = draw.choice(SECONDS), {"Idempotency-Key": f"key-{self.number}"}
        pause_s = draw.uniform(0.05, 4)
        try:
            if self.kind == "wait":
                self.heard(await client.post(PATH, json=self.body(seconds)))
            elif self.kind == "leave":
                self.left = True
                async with asyncio.timeout(pause_s):
                    self.heard(await client.post(PATH, json=self.body(seconds)))
                    self.left = False
            elif self.kind == "ask twice":
                both = (client.post(PATH, json=self.body(seconds, True), headers=key) for _ in "ab")
                for answer in await asyncio.gather(*both):
                    self.heard(answer)
                if len(self.ids) > 1:
                    self.faults.append("two jobs for one key")
            else:
                answer = self.heard(await client.post(PATH, json=self.body(seconds, True)))
                if answer.status_code == 202:
                    await asyncio.sleep(pause_s)
                    job = f"/v1/jobs/{answer.json()['id']}"
                    self.heard(await client.get(job))
                    if self.kind == "call off":
                        self.heard(await client.delete(job))
        except TimeoutError:
            pass
        except httpx.HTTPError as error:
            self.faults.append(f"{type(error).__name__}: {error}")


async def capacity(server: Served, count: int) -> float:
    """Requests a second with all slots busy."""
    left = iter(range(count))
    async with httpx.AsyncClient(base_url=server.address, timeout=120) as client:

        async def ask() -> None:
            for number in left:
                seconds = SECONDS[number % len(SECONDS)]
                answer = await client.post(
                    PATH, json={"prompt": f"warm-up {number}", "seconds": seconds}
                )
                answer.raise_for_status()

        begin = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(SLOTS)))
        return count / (time.perf_counter() - begin)


async def load(
    server: Served, askers: list[Asker], rate: float, draw: random.Random
) -> tuple[list[float], int]:
    """Memory of the server over the run, and how many of our own looks at it went wrong."""
    memory: list[float] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=server.address, timeout=300, limits=limits) as client:

        async def watch() -> None:
            while True:
                memory.append(server.memory_mb())
                await asyncio.sleep(0.25)

        watching = asyncio.create_task(watch())
        running = []
        for asker in askers:
            running.append(asyncio.create_task(asker.ask(client, draw)))
            await asyncio.sleep(draw.expovariate(rate))
        await asyncio.gather(*running)
        bad = 0
        while True:  # what nobody waits for any more is made, too
            answer = await client.get("/v1/jobs?state=queued&state=running&limit=1")
            bad += answer.status_code != 200
            if answer.status_code == 200 and not answer.json()["jobs"]:
                break
            await asyncio.sleep(0.2)
        watching.cancel()
    return memory, bad


def audit(askers: list[Asker], jobs: list[dict[str, Any]], results: Path) -> dict[str, list[str]]:
    """What is wrong, by kind."""
    by_prompt = Counter(job["request"]["prompt"] for job in jobs)
    ids = {job["id"]: job for job in jobs}
    found: dict[str, list[str]] = {"lost": [], "doubled": [], "open": [], "sounds": []}
    for asker in askers:
        count = by_prompt[asker.prompt]
        accepted = any(status in (200, 202) for status in asker.statuses)
        if (accepted and count == 0) or any(id not in ids for id in asker.ids):
            found["lost"].append(asker.prompt)
        refused = not accepted and not asker.left
        if count > 1 or (refused and count):
            found["doubled"].append(asker.prompt)
    for job in jobs:
        if job["state"] not in ("done", "failed", "cancelled"):
            found["open"].append(job["id"])
        there = (results / f"{job['id']}.flac").is_file()
        if there != (job["state"] == "done") or there != bool(job["file"]):
            found["sounds"].append(job["id"])
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--requests", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    count, first, room = (60, 8, 10) if args.quick else (args.requests, 48, 24)
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name) / "jobs", Path(name) / "log"
        server = Served(folder, ["--slots", str(SLOTS), "--queue", str(room)], log)
        asyncio.run(capacity(server, SLOTS))  # whatever is made once
        able = asyncio.run(capacity(server, first))
        print(f"capacity: {able:.2f} requests a second", flush=True)
        kinds = draw.choices(list(KINDS), list(KINDS.values()), k=count)
        askers = [Asker(number, kind) for number, kind in enumerate(kinds)]
        begin = time.perf_counter()
        memory, bad = asyncio.run(load(server, askers, 2 * able, draw))
        wall_s = time.perf_counter() - begin
        code = server.stop()
        jobs = stored(folder)
        mine = [job for job in jobs if not job["request"]["prompt"].startswith("warm-up")]
        wrong = audit(askers, mine, folder / "results")
        said = log.read_text()
    statuses = Counter(status for asker in askers for status in asker.statuses)
    broken = sum(number for status, number in statuses.items() if status >= 500) + bad
    faults = [fault for asker in askers for fault in asker.faults]
    fifth = max(1, len(memory) // 5)
    early, late = (statistics.median(part) for part in (memory[fifth : 2 * fifth], memory[-fifth:]))
    states = Counter(job["state"] for job in mine)
    print(f"statuses: {dict(statuses)}; jobs: {dict(states)}; kinds: {Counter(kinds)}")
    print(f"wrong: { {key: value[:3] for key, value in wrong.items()} }; faults: {faults[:3]}")
    if "Traceback" in said:
        print(said[-3000:])
    told = ", ".join(f"{number} × {status}" for status, number in sorted(statuses.items()))
    left = sum(asker.left for asker in askers)
    rows = [
        Row(
            f"{count} requests at twice the capacity, with cancels and disconnects: answers of 5xx, or none",
            "0",
            f"{broken + len(faults)} ({told}; {left} left before their answer)",
            broken == 0 and not faults and "Traceback" not in said and code in (0, 143),
        ),
        Row(
            "the same: jobs lost, doubled, or left open",
            "0",
            f"{len(wrong['lost'])}, {len(wrong['doubled'])}, {len(wrong['open'])} of {len(mine)} "
            f"({', '.join(f'{number} {state}' for state, number in sorted(states.items()))})",
            not any(wrong.values()),
        ),
        Row(
            "the same: the excess is refused with 429 and Retry-After",
            "all of it",
            f"{statuses[429]} refused, {len(mine)} taken in {wall_s:.0f} s, where {able:.2f} a second "
            f"can be made",
            statuses[429] > 0 and not faults,
        ),
        Row(
            "the same: memory of the server, last fifth of the run against its second",
            f"≤ {FLAT:g}×",
            f"{late / early:.3f}× ({early:.0f} to {late:.0f} MB)",
            late <= FLAT * early,
        ),
    ]
    print(*rows, sep="\n")
    if not args.quick:
        notes = (
            f"`pocket`, {SLOTS} slots, a queue of {room}, sounds of {SECONDS[0]:g} and {SECONDS[1]:g} s. "
            f"{', '.join(f'{share:.0%} {kind}' for kind, share in KINDS.items())}. Seed {args.seed}. "
            "Askers and server share the machine's cores."
        )
        packages = ["torch", "fastapi", "uvicorn"]
        record("serve_load", "A server under twice its load", rows, notes=notes, packages=packages)
    if not all(row.passed for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
