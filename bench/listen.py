"""200 listeners at once, and a server that is killed three times while they answer.

    python -m bench.listen [--listeners 200] [--items 8] [--kills 3] [--quick]

A real ``tunesmith listen serve``, killed with SIGKILL and started again in the middle. Each listener
is a thread that talks HTTP as the page does: it asks for the session, fetches the sounds, answers,
and asks again with the same answer id until it is told that the answer is saved. One reply in ten is
thrown away on purpose, as a lost connection would. Afterwards the database is laid beside what was
acknowledged.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from bench._results import Row, parser, record
from tunesmith.listen.gather import Sounds, Voice
from tunesmith.listen.make import create
from tunesmith.listen.store import Store

LOST = 0.1


def make_test(folder: Path, items: int) -> None:
    """Two sides of half a second each."""
    voices = []
    for side, name in enumerate(("base", "mine")):
        files = {}
        (folder / name).mkdir(parents=True)
        for item in range(items):
            path = folder / name / f"{item:03d}.wav"
            times = np.arange(8000) / 16_000
            soundfile.write(
                path, 0.1 * np.sin(2 * np.pi * (200 + 20 * item + side) * times), 16_000
            )
            files[f"{item:03d}"] = path
        voices.append(Voice(name, files))
    create(folder / "test", Sounds(tuple(voices)), kind="ab", training=1, repeats=1)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(test: Path, port: int, listeners: int) -> tuple[subprocess.Popen[str], list[str]]:
    """The server, and its links once it listens."""
    words = ["listen", "serve", str(test), "--port", str(port), "--listeners", str(listeners)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    links = [process.stdout.readline().strip() for _ in range(listeners)]
    if not all(links):
        sys.exit("the server did not start")
    return process, [link.partition("#")[2] for link in links]


class Listener(threading.Thread):
    """Answers a whole test, whatever happens to the server."""

    def __init__(self, number: int, port: int, token: str) -> None:
        super().__init__(daemon=True)
        self.port, self.token, self.draw = port, token, random.Random(number)
        self.acknowledged: dict[int, tuple[str, str]] = {}  # place: (answer id, choice)
        self.at: list[float] = []
        self.again = 0
        self.fault = ""

    def ask(self, path: str, body: dict | None = None) -> tuple[int, bytes]:
        """One exchange, tried until there is a reply."""
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                data = json.dumps(body) if body is not None else None
                headers = {"Authorization": f"Bearer {self.token}"}
                if data:
                    headers["Content-Type"] = "application/json"
                connection.request("POST" if data else "GET", path, data, headers)
                reply = connection.getresponse()
                content = reply.read()
                if body is not None and self.draw.random() < LOST:
                    raise ConnectionError("lost on the way back, on purpose")
                if reply.status < 500:
                    return reply.status, content
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            self.again += body is not None
            time.sleep(self.draw.uniform(0.05, 0.3))

    def run(self) -> None:
        try:
            self.listen()
        except Exception as error:
            self.fault = repr(error)

    def listen(self) -> None:
        while True:
            status, content = self.ask("/api/session")
            told = json.loads(content)
            if status != 200:
                raise RuntimeError(f"session: {status} {told}")
            trial = told["trial"]
            if trial is None:
                return
            for sound in trial["sounds"]:
                status, content = self.ask(f"/api/sound/{sound['id']}")
                if status != 200 or content[:4] != b"RIFF":
                    raise RuntimeError(f"sound: {status}")
            time.sleep(self.draw.uniform(0, 0.2))
            answer = {
                "place": trial["place"],
                "answer_id": f"{self.draw.getrandbits(128):032x}",
                "choice": self.draw.choice(told["choices"]),
                "heard": {one["letter"]: trial["needed_s"] for one in trial["sounds"]},
            }
            status, content = self.ask("/api/answer", answer)
            if status != 200:
                raise RuntimeError(f"answer: {status} {content!r}")
            self.acknowledged[trial["place"]] = (answer["answer_id"], answer["choice"])
            self.at.append(time.monotonic())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--listeners", type=int, default=200)
    options.add_argument("--items", type=int, default=8)
    options.add_argument("--kills", type=int, default=3)
    args = options.parse_args()
    count, items = (20, 6) if args.quick else (args.listeners, args.items)
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        make_test(folder, items)
        test = folder / "test"
        process, tokens = start(test, port, count)
        people = [Listener(number, port, token) for number, token in enumerate(tokens)]
        total = count * (items + 1)  # a repeat is one more
        begin = time.monotonic()
        for one in people:
            one.start()
        killed_at = []
        for kill in range(args.kills):
            mark = total * (kill + 1) // (args.kills + 1)
            while sum(len(one.acknowledged) for one in people) < mark:
                if any(one.fault for one in people):
                    break
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                sys.exit("the server had ended by itself")
            killed_at.append(sum(len(one.acknowledged) for one in people))
            process, again = start(test, port, count)
            if again != tokens:
                sys.exit("the links have changed")
        for one in people:
            one.join(300)
        wall_s = time.monotonic() - begin
        process.send_signal(signal.SIGTERM)
        graceful = process.wait(20) == 128 + signal.SIGTERM
        with Store(test) as store:
            stored = store.answers()
        faults = [one.fault or "unfinished" for one in people if one.fault or one.is_alive()]
        found = {(one.listener, one.trial): (one.answer_id, one.choice) for one in stored}
        told = {
            (number, place): said
            for number, one in enumerate(people)
            for place, said in one.acknowledged.items()
        }
        lost = [key for key, said in told.items() if found.get(key) != said]
        doubled = [
            key for key, n in Counter((a.listener, a.trial) for a in stored).items() if n > 1
        ]
        extra = [key for key in found if key not in told]
    print(f"acknowledged at the kills: {killed_at}; faults: {faults[:3]}")
    times = sorted(at for one in people for at in one.at)
    rate = max(sum(1 for at in times if start_ <= at < start_ + 5) / 5 for start_ in times[::50])
    fine = not lost and not faults and len(told) == total and graceful
    rows = [
        Row(
            f"{count} listeners, server killed with SIGKILL {args.kills} times: acknowledged answers kept",
            "all",
            f"{len(told) - len(lost)} of {len(told)} ({total} questions)",
            fine,
        ),
        Row(
            "the same: answers that are there twice, or that nobody was told of",
            "0",
            f"{len(doubled)} and {len(extra)}, with {sum(one.again for one in people)} answers sent again",
            not doubled and not extra,
        ),
        Row(
            "answers a second, best 5 s, each with two sounds, one flushed transaction an answer",
            "",
            f"{rate:.0f} ({total / wall_s:.0f} over the whole run, three restarts included)",
        ),
    ]
    print(*rows, sep="\n")
    if not args.quick:
        notes = (
            f"{items} items and one repeat, two sounds of half a second each; one reply in ten to an answer "
            "is thrown away by the listener, who asks again. Listeners and server share the machine's "
            "cores."
        )
        packages = ["fastapi", "uvicorn"]
        record("listen", "Listening server", rows, notes=notes, packages=packages)
    if not fine or doubled or extra:
        sys.exit(1)


if __name__ == "__main__":
    main()
