"""The Ray engine: the same rows and hashes as the local one, whatever dies meanwhile.

A cluster of one machine is started once, in a process of its own that can be killed with all that it
started; nothing of it outlives the test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sounds import tree, write

from tunesmith.data import prepare
from tunesmith.data.cut import CutSettings, cut
from tunesmith.data.engines import open_engine
from tunesmith.data.engines._ray_workers import publish
from tunesmith.errors import UserError

SHORT = {"min_s": 1.0, "max_s": 2.0}

# Prepares one folder several times in one cluster, each time meddling as it is told.
DRIVER = """
import contextlib, json, os, signal, sys
import ray
from tunesmith.data import prepare
from tunesmith.data.engines import ray as engine

src, runs = sys.argv[1], json.loads(sys.argv[2])


def workers():
    found = []
    for entry in os.scandir("/proc"):
        try:
            words = open(entry.path + "/cmdline").read() if entry.name.isdigit() else ""
        except OSError:
            continue
        if words.startswith("ray::") and "cut_batch" in words:
            found.append(int(entry.name))
    return found


def meddle(what, seen):
    def on_progress(at):
        seen.append(at.stage)
        if what == "kill a worker" and at.stage == "cutting" and "killed" not in seen:
            for pid in workers()[:1]:
                os.kill(pid, signal.SIGKILL)
                seen.append("killed")
        if what == "die" and seen.count("cutting") == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_progress


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
for dest, what in runs:
    if what == "share nothing":  # a file that is not there tells workers that the folder is another
        engine._shown_in = lambda folder: contextlib.nullcontext("another")
    seen = []
    made = prepare(src, dest, min_s=1.0, max_s=2.0, engine="ray", workers=2,
                   on_progress=meddle(what, seen))
    print(json.dumps({"clips": made.clips, "killed": "killed" in seen}), flush=True)
"""


@pytest.fixture(scope="module")
def src(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(8):
        write(folder / f"part{number}.wav", 1.5, seed=number)
    (folder / "part0.txt").write_text("a decaying note")
    (folder / "double.wav").write_bytes((folder / "part3.wav").read_bytes())
    (folder / "torn.wav").write_text("no sound")
    return folder


def drive(src: str | Path, *runs: tuple[Path, str]) -> tuple[int, list[dict[str, object]]]:
    words = json.dumps([[str(dest), what] for dest, what in runs])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(src), words],
        capture_output=True,
        text=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"},
        timeout=280,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    # Ray itself says between ours, whatever it was told about logs, that a worker died.
    told = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return done.returncode, [json.loads(line) for line in told]


def test_the_same_rows_and_hashes_with_a_worker_killed_and_a_driver_killed(src, tmp_path):
    pytest.importorskip("ray")
    prepare(src, tmp_path / "local", workers=0, **SHORT)
    expected = tree(tmp_path / "local")
    code, told = drive(
        src,
        (tmp_path / "killed", "kill a worker"),
        (tmp_path / "far", "share nothing"),
        (tmp_path / "dead", "die"),
    )
    assert code == -signal.SIGKILL and told[0]["killed"]
    assert tree(tmp_path / "killed") == expected
    assert tree(tmp_path / "far") == expected
    assert not (tmp_path / "dead").exists() and (tmp_path / ".dead.partial").is_dir()
    staged = tmp_path / ".dead.partial"
    assert list(staged.glob("*/record.json"))
    # Recordings by their address this time: what they are, not where, decides.
    code, told = drive(f"file://{src}", (tmp_path / "dead", ""))
    assert code == 0 and tree(tmp_path / "dead") == expected
    assert not list(tmp_path.glob(".*"))


def test_finished_work_is_put_in_its_place_once(src, tmp_path):
    settings = CutSettings(None, None, 1.0, 2.0)
    first = cut(src / "part1.wav", tmp_path / "one", settings)
    cut(src / "part1.wav", tmp_path / "two", settings)
    final = tmp_path / "final"
    assert publish(tmp_path / "one", final) == first
    before = {path: path.stat().st_ino for path in final.iterdir()}
    assert publish(tmp_path / "two", final) == first
    assert {path: path.stat().st_ino for path in final.iterdir()} == before
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()
    # What a killed worker left half done gives way.
    cut(src / "part1.wav", tmp_path / "three", settings)
    (final / "record.json").unlink()
    assert publish(tmp_path / "three", final) == first


def test_one_line_where_ray_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError) as caught:
        open_engine("ray")
    assert caught.value.mend == "pip install 'tunesmith[ray]'"
    with pytest.raises(UserError, match="did you mean 'ray'"):
        open_engine("rai")
