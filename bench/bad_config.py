"""A configuration with many faults: all of them at once, each with its place and mend, exit 2.

python -m bench.bad_config
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench._results import Row, parser, record

# The line of a fault, words that name it, and words that mend it.
FAULTY = """\
base: poket
data: nowhere
out: run
method:
  name: lora
  rnk: 8
train:
  lr: fast
  batch_sise: 4
  steps: 1.5
sed: 1
"""
EXPECTED = [
    (1, "poket", "pocket"),
    (2, "nowhere", "tunesmith prepare"),
    (6, "method.rnk", "rank"),
    (8, "train.lr", "1e-4"),
    (9, "train.batch_sise", "batch_size"),
    (10, "train.steps", ""),
    (11, "sed", "seed"),
]
# A rank can only be judged on a base that is there.
HIGH_RANK = """\
base: pocket
data: nowhere
out: run
method: {name: lora, rank: 100000}
colour: blue
"""
EXPECTED_HIGH = [
    (2, "nowhere", "tunesmith prepare"),
    (4, "rank 100000 is above the layer's size", "give at most"),
    (5, "colour", ""),
]


def judge(text: str, expected: list[tuple[int, str, str]]) -> tuple[str, bool]:
    """What the command says to a file, and whether that is all it should."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tune.yaml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "tunesmith", "train", "tune.yaml"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        left = sorted(path.name for path in Path(folder).iterdir())
    print(done.stderr)
    lines = done.stderr.strip().splitlines()
    named = sum(
        any(f"tune.yaml:{line}:" in said and what in said and mend in said for said in lines)
        for line, what, mend in expected
    )
    clean = "Traceback" not in done.stderr and left == ["tune.yaml"]
    figure = f"{named} of {len(expected)} faults named in one go, {len(lines)} lines, exit {done.returncode}"
    good = named == len(expected) == len(lines) and done.returncode == 2 and clean
    return figure, good


def main() -> None:
    args = parser(__doc__).parse_args()
    rows = []
    for what, text, expected in (
        ("unknown keys, wrong types, missing data, wrong base", FAULTY, EXPECTED),
        ("rank above the layer, missing data, unknown key", HIGH_RANK, EXPECTED_HIGH),
    ):
        figure, good = judge(text, expected)
        rows.append(Row(what, "every fault, file:line, the mend; exit 2", figure, good))
    if args.quick:
        print(*rows, sep="\n")
    else:
        record("bad_config", "A bad configuration", rows, packages=["pydantic", "pyyaml"])


if __name__ == "__main__":
    main()
