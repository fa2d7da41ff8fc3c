"""Hostile inputs in a folder of good recordings: all named, none of the good ones lost.

    python -m bench.hostile [--quick]

Files cut short, mislabelled, lying about their length, bombs that decode to hours, playlists that
name other files, pipes and loops, names made for shells, sidecars and tags of megabytes
(`tests/hostile.py` has them all, and what has to become of each). `tunesmith prepare` runs as its
user would run it, while the memory of its processes is watched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench._results import Row, parser, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hostile import GOOD, build, judge

LEAST, MOST_GIB = 60, 1.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of a process and all that it started (shared pages counted in each)."""
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text()
            except OSError:
                continue  # it has ended
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    family, grew = {pid}, True
    while grew:
        more = {child for child, parent in parents.items() if parent in family} - family
        family |= more
        grew = bool(more)
    total = 0
    for member in family:
        try:
            total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * PAGE_BYTES
        except (OSError, IndexError):
            continue
    return total


def watched(command: list[str], where: Path) -> tuple[int, str, float, float]:
    """Runs a command; exit code, all output, seconds, and the most memory it had (GiB)."""
    begin, most = time.perf_counter(), 0
    with (where / "output").open("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=where, stdout=output, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        while process.poll() is None:
            most = max(most, tree_rss_bytes(process.pid))
            time.sleep(0.02)
        output.seek(0)
        return process.returncode, output.read(), time.perf_counter() - begin, most / 2**30


def main() -> None:
    args = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        made = build(top / "recordings", slow=not args.quick)
        command = [sys.executable, "-m", "tunesmith", "prepare", "recordings", "data"]
        command += ["--min-seconds", "2", "--max-seconds", "5"]
        code, output, wall_s, most_gib = watched(command, top)
        faults = [f"exit code {code}: {output[-2000:]}"] if code else judge(top / "data", made)
        if "Traceback" in output:
            faults.append("a traceback was printed")
        strange = [path.name for path in top.iterdir()]
        faults += [
            f"{path} was made" for path in strange if path not in ("recordings", "data", "output")
        ]
        for fault in faults:
            print(fault, flush=True)
    fates = Counter(case.fate for case in made)
    told = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))
    right = len(made) - len(faults)
    rows = [
        Row(
            "hostile inputs named, nothing else lost, no traceback",
            f"all of >= {LEAST}",
            f"{right} of {len(made)} ({told}), {len(GOOD)} good recordings kept, {wall_s:.0f} s",
            not faults and len(made) >= LEAST,
        ),
        Row(
            "peak memory of all processes meanwhile",
            f"< {MOST_GIB:g} GiB",
            f"{most_gib:.2f} GiB",
            most_gib < MOST_GIB,
        ),
    ]
    for row in rows:
        print(row)
    if not args.quick:
        notes = (
            "Fates by `tests/hostile.py`: rejected with a reason, used (odd but sound), either, "
            "warned (one line, the recording used), silent (not text or sound)."
        )
        record("hostile", "Hostile inputs", rows, notes=notes, packages=["soundfile", "tinytag"])
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
