"""A real ``tunesmith serve`` in a process of its own, for what is measured over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Served:
    """The server's process.

    Args:
        folder: of its jobs.
        words: further ones of the command line.
        log: what it says goes there.
    """

    def __init__(self, folder: Path, words: list[str], log: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "tunesmith", "serve", "--jobs", str(folder)]
        self._log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *words],
                stdout=output,
                stderr=output,
                env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with suppress(OSError):
                if self.get("/health").get("ready"):
                    return
            time.sleep(0.05)
        self.process.kill()
        sys.exit(f"the server did not start: {self._log.read_text()[-2000:]}")

    def get(self, path: str) -> dict[str, Any]:
        """What it answers, parsed."""
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The same of a POST."""
        data = json.dumps(body).encode()
        wanted = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(wanted, timeout=60) as answer:
            return json.load(answer)

    def memory_mb(self) -> float:
        """Resident set of the process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.process.pid, signal.SIGKILL)
        if self.process.wait() != -signal.SIGKILL:
            sys.exit("the server had ended by itself")

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def stored(folder: Path) -> list[dict[str, Any]]:
    """The jobs that a stopped server has kept, the first accepted first."""
    db = sqlite3.connect(folder / "jobs.sqlite")
    db.row_factory = sqlite3.Row
    try:
        rows = [dict(row) for row in db.execute("SELECT * FROM jobs ORDER BY seq")]
    finally:
        db.close()
    return [row | {"request": json.loads(row["request"])} for row in rows]
