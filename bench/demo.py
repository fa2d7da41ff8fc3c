"""The demo, as `make demo` runs it after the install: time, losses, what was forgotten.

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
            command += ["--steps", "4"]
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
    rows = [
        Row(
            "`tunesmith demo`: wall time",
            f"<= {BAR_S / 60:.0f} minutes",
            f"{wall_s / 60:.1f} minutes, training {told['train_s']:.0f} s of it "
            f"({told['steps']} steps); peak {usage.ru_maxrss / 2**20:.2f} GiB; page {page_mib:.1f} MiB",
            wall_s <= BAR_S,
        ),
        Row(
            "demo: validation loss of the held-out style",
            "adapted below base",
            f"{base['validation_loss']:.3f} -> {adapted['validation_loss']:.3f}",
            adapted["validation_loss"] < base["validation_loss"],
        ),
        Row(
            "demo: general loss",
            f"+ <= {BAR_FORGOTTEN:.0%}",
            f"{before:.3f} -> {after:.3f} ({forgotten:+.1%})",
            forgotten <= BAR_FORGOTTEN,
        ),
        Row(
            "demo: KAD and FAD to held-out clips",
            "",
            f"KAD {base['kad']:.2f} -> {adapted['kad']:.2f} (p = {told['kad_p_value']:.3g}), "
            f"FAD {base['fad']:.1f} -> {adapted['fad']:.1f}; n = {told['n']['generated']} and "
            f"{told['n']['reference']}, {told['embedding']}",
        ),
    ]
    if args.quick:
        print(*rows, sep="\n")
        return
    notes = f"State of the embedded base's weights: {state_of_pocket()}. Caches empty at the start."
    record("demo", "The demo", rows, notes=notes)


if __name__ == "__main__":
    main()
