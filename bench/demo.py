"""The demo, as `make demo` runs it after the install: gap closed, time, losses, what was forgotten.

python -m bench.demo [--quick]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench._results import Row, parser, record
from tunesmith.families import EMBEDDED

BAR_S = 360
BAR_FORGOTTEN = 0.10
BAR_CLOSED = 0.50
BAR_P = 0.05
BAR_CLIPS = 128


def state_of_pocket() -> str:
    """What the embedded base's card says of its weights."""
    for line in (EMBEDDED["pocket"] / "README.md").read_text(encoding="utf-8").splitlines():
        if "State of this copy:" in line:
            return line.partition("State of this copy:")[2].strip(" *.")
    return "trained"


def main() -> None:
    args = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        command = [sys.executable, "-m", "tunesmith", "demo", "--out", str(out)]
        if args.quick:
            command += ["--steps", "4", "--takes", "6", "--seeds", "2"]
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=os.environ | {"TUNESMITH_CACHE": f"{folder}/cache"})
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begin
        if status:
            raise SystemExit("the demo failed")
        told = json.loads((out / "report.json").read_text())
        page_mib = (out / "report.html").stat().st_size / 2**20
    base, adapted = told["base"], told["adapted"]
    before, after = told["general_loss_before"], told["general_loss_after"]
    forgotten = after / before - 1
    closed, gap = told["gap_closed"], told["gap"]
    median, seeds = closed["median"], [share for share in closed["seeds"] if share is not None]
    each = ", ".join(f"{share:.0%}" for share in seeds) or "no clear gap"
    errors = [error for error in gap["errors"] if error is not None]
    clips = min(told["n"].values())
    rows = [
        Row(
            "demo: gap closed, median of three seeds",
            f">= {BAR_CLOSED:.0%}",
            f"{median:.0%} ({each}; standard error of each up to {max(errors):.0%})"
            if median is not None
            else f"no clear gap: {gap['width']:.2f}, give or take {gap['width_error']:.2f}",
            median is not None and median >= BAR_CLOSED,
        ),
        Row(
            "demo: every seed closes some of the gap",
            "all positive",
            each,
            len(seeds) == len(closed["seeds"]) and min(seeds) > 0,
        ),
        Row(
            "demo: permutation p of the drop in KAD",
            f"< {BAR_P}",
            f"{closed['p']:.3g}",
            closed["p"] < BAR_P and gap["base"] > max(gap["adapted"]),
        ),
        Row(
            "demo: clips that the gap stands on",
            f">= {BAR_CLIPS}",
            f"{told['n']['reference']} held out, {told['n']['generated']} takes of the base and of "
            f"each adapter; {told['embedding']}",
            clips >= BAR_CLIPS,
        ),
        Row(
            "demo: KAD to held-out clips",
            "",
            f"base {gap['base']:.2f}, adapted "
            f"{', '.join(f'{one:.2f}' for one in gap['adapted'])}, real clips through the codec "
            f"{gap['ceiling']:.2f}",
        ),
        Row(
            "`tunesmith demo`: wall time",
            f"<= {BAR_S / 60:.0f} minutes",
            f"{wall_s / 60:.1f} minutes, {usage.ru_utime + usage.ru_stime:.0f} s of processor; "
            f"{len(told['runs'])} trainings of {told['steps']} steps; "
            f"peak of a process {usage.ru_maxrss / 2**20:.2f} GiB; page {page_mib:.1f} MiB",
            wall_s <= BAR_S,
        ),
        Row(
            "demo: validation loss of the held-out style",
            "adapted below base",
            f"{base['validation_loss']:.3f} -> {adapted['validation_loss']:.3f}",
            adapted["validation_loss"] < base["validation_loss"],
        ),
        Row(
            "demo: general loss, worst seed",
            f"+ <= {BAR_FORGOTTEN:.0%}",
            f"{before:.3f} -> {after:.3f} ({forgotten:+.1%})",
            forgotten <= BAR_FORGOTTEN,
        ),
    ]
    if args.quick:
        print(*rows, sep="\n")
        return
    notes = (
        f"State of the embedded base's weights: {state_of_pocket()}. Caches empty at the start. Gap "
        "closed = (base - adapted) / (base - real clips through the codec), in KAD to held-out clips; "
        "the embedding was not trained on the style. See docs/metrics.md."
    )
    record("demo", "The demo", rows, notes=notes)


if __name__ == "__main__":
    main()
