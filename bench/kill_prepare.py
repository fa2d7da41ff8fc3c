"""`prepare` killed at random moments and run again: the same data set, byte for byte.

    python -m bench.kill_prepare [--kills 20] [--seed 0] [--quick]

A folder of recordings of many lengths, with doubles, faults and sidecars, is prepared once without
interruption. Then it is prepared again and again through the command line, each time killed
(SIGKILL to it and to every process that it started) at a random moment, every third time twice, and
run to its end. A quarter of the kills come before it has written anything, the others after.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import soundfile

from bench._results import Row, parser, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hostile_bytes import RATE_HZ, encoded, sound

OPTIONS = ["--min-seconds", "2", "--max-seconds", "6", "--trigger", "ohwx", "--workers", "2"]


def make_recordings(folder: Path) -> None:
    """Two dozen recordings of 3 to 60 s, doubles, faults, captions of every kind."""
    (folder / "more").mkdir(parents=True)
    draw = random.Random(0)
    for number in range(20):
        suffix = draw.choice(["wav", "flac", "flac", "ogg"])
        path = folder / ("more" if number % 3 == 0 else ".") / f"{number:02d}.{suffix}"
        soundfile.write(path, sound(number, draw.uniform(3, 60), draw.choice([1, 2])), RATE_HZ)
        if number % 4 == 0:
            path.with_suffix(".txt").write_text(f"melody number {number}")
        if number % 4 == 1:
            words = {"description": f"a melody, take {number}", "bpm": 240, "genre": "test"}
            path.with_suffix(".json").write_text(json.dumps(words))
    for name in ("00", "04"):
        (original,) = folder.rglob(f"{name}.[wfo]*")
        shutil.copy(original, folder / f"double of {name}{original.suffix}")
    whole = encoded(100, "WAV", 20)
    (folder / "cut short.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.flac").touch()
    (folder / "zeros.mp3").write_bytes(bytes(10_000))
    soundfile.write(folder / "short.wav", sound(101, 0.5), RATE_HZ)
    (folder / "empty.txt").write_text(" ")


def start(source: Path, dest: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tunesmith", "prepare", str(source), str(dest), *OPTIONS],
            stdout=output, stderr=output, cwd=dest.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def family(pid: int) -> list[int]:
    """A process and all that it started, and they."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        try:
            stat = Path(entry.path, "stat").read_text() if entry.name.isdigit() else ""
        except OSError:
            continue
        if stat:
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:  # grows while it is gone through
        found += children.get(member, [])
    return found


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Ends it and its workers at once; whether it had still been running."""
    # Stopped first: what is forked meanwhile would be missed.
    os.kill(process.pid, signal.SIGSTOP)
    for member in family(process.pid)[::-1]:
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return process.wait() == -signal.SIGKILL


def tree(folder: Path) -> dict[str, str]:
    """Hashes of every file under a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def wait_for_work(process: subprocess.Popen[bytes], dest: Path) -> None:
    """Until it has begun to write: imports and hashing take a good part of the time before."""
    while process.poll() is None and not dest.with_name(f".{dest.name}.partial").exists():
        time.sleep(0.002)


def state(dest: Path) -> str:
    """How far a killed run had come, by what it left."""
    partial = dest.with_name(f".{dest.name}.partial")
    if dest.exists():
        return "publishing or after"
    if not partial.exists():
        return "finding and hashing"
    done = len(list(partial.glob("*/record.json")))
    return "cutting" if done else "beginning to cut"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    runs = 3 if args.quick else args.kills
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        make_recordings(top / "recordings")
        log, reference = top / "log", top / "reference"
        reference.mkdir()
        begin = time.perf_counter()
        process = start(top / "recordings", reference / "data", log)
        wait_for_work(process, reference / "data")
        before_s = time.perf_counter() - begin
        if process.wait():
            sys.exit(log.read_text()[-2000:])
        whole_s = time.perf_counter() - begin
        expected = tree(reference)
        print(f"{len(expected)} files in {whole_s:.1f} s", flush=True)
        same, where = 0, Counter()
        for number in range(runs):
            victim = top / f"victim{number}"
            wanted, killed = 1 + (number % 3 == 2), 0
            while killed < wanted:
                victim.mkdir(exist_ok=True)
                process = start(top / "recordings", victim / "data", log)
                if draw.random() < 0.25:
                    time.sleep(draw.uniform(0.05, 1) * before_s)
                else:
                    wait_for_work(process, victim / "data")
                    # What a first kill left done makes the second run shorter.
                    time.sleep(draw.random() * (whole_s - before_s) / (1 + killed))
                if process.poll() is None and kill(process):
                    killed += 1
                    where[state(victim / "data")] += 1
                elif process.wait():
                    sys.exit(log.read_text()[-2000:])
                else:  # it was over before it could be killed: once more from the start
                    shutil.rmtree(victim)
                    killed = 0
            if start(top / "recordings", victim / "data", log).wait():
                print(log.read_text()[-2000:])
            found = tree(victim)
            differing = [
                key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)
            ]
            same += not differing
            verdict = f"differs in {sorted(differing)[:5]}" if differing else "the same"
            print(f"{number + 1:2d} killed {killed} times: {verdict}", flush=True)
            shutil.rmtree(victim)
    told = ", ".join(f"{state} {count}" for state, count in sorted(where.items()))
    row = Row(
        f"killed {runs} times at random and run again",
        "the same data set, byte for byte",
        f"{same} of {runs} ({len(expected)} files; killed while {told})",
        same == runs,
    )
    print(row)
    if not args.quick:
        notes = f"SIGKILL to it and its workers, every third run twice. Seed {args.seed}."
        record("kill_prepare", "Preparation, killed", [row], notes=notes, packages=["soundfile"])
    if same != runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
