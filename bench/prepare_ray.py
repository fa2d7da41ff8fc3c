"""Preparing on Ray against the local engine, and what time and memory do as a data set grows.

    python -m bench.prepare_ray [--clips 10000] [--no-ray] [--quick]

Short synthetic recordings (1.2 to 1.8 s at 16 kHz), each of which is one clip. The local engine prepares
a hundredth, a tenth and all of them; then a Ray cluster on this machine prepares all with two workers, one
of which is killed half-way, and the two data sets are compared file by file, hidden ones too. With --no-ray that row
keeps what it had.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bench._results import Row, parser, record
from bench.prepare import Measured, measure

RATE_HZ = 16_000
OPTIONS = {"min_s": 1.0, "max_s": 3.0}
FLAT, LINEAR = 1.25, 1.25

RAY = """
import json, os, signal, sys, time
import ray
from tunesmith.data import prepare

src, dest = sys.argv[1:3]
killed = []


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


def on_progress(at):
    if at.stage == "cutting" and at.done > at.total / 2 and not killed:
        for pid in workers()[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
begin = time.perf_counter()
made = prepare(src, dest, caption="chords with a drum", engine="ray", workers=2,
               on_progress=on_progress, min_s=1.0, max_s=3.0)
told = {"s": time.perf_counter() - begin, "clips": made.clips, "killed": len(killed)}
print(json.dumps(told), flush=True)
"""


def synthesise(folder: Path, first: int, last: int) -> None:
    """Falling tones over noise, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, last):
        rng = np.random.default_rng(number)
        time_s = np.arange(int(RATE_HZ * rng.uniform(1.2, 1.8))) / RATE_HZ
        wave = 0.05 * rng.standard_normal(len(time_s)) * np.exp(-8 * (time_s % 0.2))
        for pitch_hz in rng.uniform(100, 3000, 3):
            begin_s = rng.uniform(0, 0.5)
            wave += (
                0.1 * np.exp(-3 * np.abs(time_s - begin_s)) * np.sin(2 * np.pi * pitch_hz * time_s)
            )
        soundfile.write(folder / f"{number:05d}.wav", wave, RATE_HZ)


def hashes(folder: Path) -> dict[str, str]:
    """Of every file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def on_ray(source: Path, dest: Path) -> dict[str, Any]:
    """Prepares on a cluster in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(source), str(dest)],
        capture_output=True,
        text=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"},
    )
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def _compared(top: Path, local: Measured, clips: int, leave_out: bool) -> Row:
    """Prepares on Ray and compares with what the local engine made."""
    what = f"{clips:,} synthetic clips through Ray with two workers, one killed midway"
    bar = "same rows and hashes as the local engine, none lost or doubled"
    if leave_out:
        return Row(what, bar, None, missing="not measured")
    expected = hashes(top / f"local{clips}")
    told = on_ray(top / "recordings", top / "ray")
    found = hashes(top / "ray")
    lost, more = expected.keys() - found.keys(), found.keys() - expected.keys()
    other = sum(found[key] != expected[key] for key in expected.keys() & found.keys())
    print(f"ray: {told}; {len(lost)} lost, {len(more)} more, {other} differ", flush=True)
    return Row(
        what,
        bar,
        f"{len(lost)} files lost, {len(more)} more, {other} different of {len(expected):,} "
        f"({told['clips']:,} clips; {told['killed']} worker killed; {told['s']:.0f} s against "
        f"{local.wall_s:.0f} s of the local engine with two workers)",
        not (lost or more or other) and told["killed"] == 1,
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clips", type=int, default=10_000)
    options.add_argument("--no-ray", action="store_true", help="the local engine alone")
    args = options.parse_args()
    most = 300 if args.quick else args.clips
    sizes = [max(1, most // 100), max(1, most // 10), most]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        local: dict[int, Measured] = {}
        made, before = top / "recordings", 0
        for size in sizes:
            synthesise(made, before, size)
            before = size
            dest = top / f"local{size}"
            one = measure(made, dest, {"workers": 2, **OPTIONS})
            local[size] = one
            print(
                f"local, {size}: {one.wall_s:.1f} s, {one.cpu_s:.1f} s of CPU, {one.clips} clips, "
                f"{one.rejected} left out, {one.peak_mib:.0f} MiB",
                flush=True,
            )
        rows.append(_compared(top, local[most], most, args.no_ray))
        least, _, largest = sizes
        growth = local[largest].peak_mib / local[least].peak_mib
        kept_kib = 1024 * (local[largest].peak_mib - local[least].peak_mib) / (largest - least)
        each_cpu = [1000 * local[size].cpu_s / size for size in sizes]
        each_wall = [1000 * local[size].wall_s / size for size in sizes]
        rows.append(
            Row(
                "memory and time against data set size, "
                + ", ".join(f"{size:,}" for size in sizes)
                + " clips",
                f"memory flat (≤ {FLAT}x), time linear (CPU ≤ {LINEAR}x a clip)",
                ", ".join(f"{local[size].peak_mib:.0f} MiB" for size in sizes)
                + f" ({growth:.2f}x, {kept_kib:.1f} KiB a clip: what is known of it); "
                + ", ".join(f"{one:.1f}" for one in each_cpu)
                + " ms of CPU a clip, "
                + ", ".join(f"{one:.1f}" for one in each_wall)
                + " ms of the clock",
                growth <= FLAT and each_cpu[2] <= LINEAR * each_cpu[1],
            )
        )
    for row in rows:
        print(row)
    if not args.quick:
        notes = (
            "Recordings of 1.2 to 1.8 s at 16 kHz, a clip each; written beforehand. Local engine with two "
            "workers; memory is the parent's peak and twice the largest worker's; CPU is user and system of all its "
            "processes, which a busy machine changes less than the clock. The killed worker is a "
            "Ray worker process that cuts (SIGKILL at half of the bytes). Compared are all files of the data "
            "sets, hidden ones too."
        )
        record(
            "prepare_ray",
            "Preparation, many machines",
            rows,
            notes=notes,
            packages=["ray", "soundfile"],
        )
    if rows[0].passed is False:
        sys.exit(1)


if __name__ == "__main__":
    main()
