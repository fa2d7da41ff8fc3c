"""The contract suite: every family with every method that it supports.

python -m bench.contract [--quick]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from bench._results import Row, parser, record
from tunesmith.registry import matrix


def main() -> None:
    args = parser(__doc__).parse_args()
    what = ["tests/contract/test_families.py"] if args.quick else ["tests/contract"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", *what],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    last = done.stdout.strip().splitlines()[-1]
    counts = {
        word: int(number)
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)
    }
    cells = [f"{f} x {m}" for f, row in matrix().items() for m, said in row.items() if said == "ok"]
    good = done.returncode == 0 and counts.get("passed", 0) > 0
    figure = ", ".join(f"{number} {word}" for word, number in counts.items())
    rows = [Row(f"contract suite: {', '.join(cells)}", "all pass", figure, good)]
    if not good:
        print(done.stdout[-4000:])
    if args.quick:
        print(*rows, sep="\n")
    else:
        record("contract", "The contract suite", rows, packages=["torch", "transformers", "peft"])


if __name__ == "__main__":
    main()
