"""A sweep on a real Ray of this machine: a killed trial goes on, and the table is that of the local engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import write_data

from tunesmith.sweep import Wishes, sweep, trials_of
from tunesmith.sweep import run as run_module
from tunesmith.training.workers import run_jobs

WISHES = {"takes": 4, "seconds": 0.3, "embedding": "pocket"}
WORDS = ("train.lr=1e-3,1e-2",)

# Sweeps with two trials at a time, the first process of which is killed once.
DRIVER = """
import json, os, signal, sys, threading, time
from pathlib import Path
import ray
from tunesmith.sweep import Wishes, sweep, trials_of

words, given, wishes, out = json.loads(sys.argv[1])
killed = []


def kill_one():
    while not killed:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cmdline").read_bytes().startswith(b"ray::_work"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    killed.append(entry.name)
                    return
            except OSError:
                continue
        time.sleep(0.02)


def on_event(kind, values):
    if kind == "phase":
        threading.Thread(target=kill_one, daemon=True).start()


ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False,
         object_store_memory=128 << 20)
trials = trials_of(None, words, given, Path(out))
table = sweep(trials, Path(out), wishes=Wishes(**wishes, engine="ray", workers=2), on_event=on_event)
print(json.dumps({"killed": len(killed), "states": [row.state for row in table.rows]}), flush=True)
"""


def figures(out: Path) -> list[dict[str, Any]]:
    """What trials gave, without times."""
    keys = ("name", "state", "steps", "rungs", "kad", "interval", "loss", "p_best")
    rows = json.loads((out / "sweep.json").read_text())["trials"]
    return [{key: row[key] for key in keys} for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_trial_goes_on_and_the_table_is_the_local_one(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("ray")
    given = {
        "base": str(tiny_base),
        "method": "lora",
        "data": str(write_data(tmp_path / "noise", (0.5, 0.6) * 4, valid=4)),
        "train.steps": 4,
        "train.batch_size": 2,
        "watch": False,
    }
    asked = json.dumps([WORDS, given, WISHES, str(tmp_path / "ray")])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, asked],
        capture_output=True,
        text=True,
        env=os.environ
        | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"},
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert told == {"killed": 1, "states": ["finished", "finished"]}

    def here(jobs: Any, *, apart: bool, lost: Any, **more: Any) -> Any:
        return run_jobs(jobs, **more)

    monkeypatch.setattr(run_module, "run_jobs", here)
    trials = trials_of(None, WORDS, given, tmp_path / "local")
    sweep(trials, tmp_path / "local", wishes=Wishes(**WISHES))
    assert figures(tmp_path / "ray") == figures(tmp_path / "local") != []
