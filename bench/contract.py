"""The contract suite: every family with every method that it supports; families against their pipelines.

python -m bench.contract [--quick]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence

from bench._results import Row, parser, record
from tunesmith.registry import matrix

DIFFUSERS = ("test_stable_audio.py", "test_stable_audio_3.py", "test_ace_step.py")
CLAIMS = (
    (
        "conditioning tensors of stable_audio, stable_audio_3, ace_step against their pipelines' own",
        "bit-equal",
        DIFFUSERS,
        "conditioning_is_the_pipelines_own_bit_for_bit",
    ),
    (
        "what the transformers say, seams in place, against diffusers' own",
        "bit-equal",
        DIFFUSERS,
        "diffusers_own_bit_for_bit",
    ),
    (
        "sampling from the same noise against the pipelines, guidance on and off",
        "within 1e-4",
        DIFFUSERS,
        "sampling_is_the_pipelines_own",
    ),
    (
        "ACE-Step LoRA exported, in `AceStepPipeline.load_lora_weights`: plain, scaled, rsLoRA",
        "opens; same output",
        ("test_ace_step_folders.py",),
        "opens_in_the_pipelines_own_loader",
    ),
)
"""What it shows, the bar, the files and the part of the tests' names."""


def counted(what: Sequence[str]) -> tuple[dict[str, int], bool, str]:
    """How the tests ended, whether all is well, and what they printed."""
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
    return counts, done.returncode == 0 and counts.get("passed", 0) > 0, done.stdout


def row_of(claim: str, bar: str, what: Sequence[str]) -> Row:
    counts, good, said = counted(what)
    if not good:
        print(said[-4000:])
    return Row(claim, bar, ", ".join(f"{number} {word}" for word, number in counts.items()), good)


def main() -> None:
    args = parser(__doc__).parse_args()
    rows = [
        row_of(claim, bar, [*(f"tests/contract/{file}" for file in files), "-k", name])
        for claim, bar, files, name in CLAIMS
    ]
    what = ["tests/contract/test_families.py"] if args.quick else ["tests/contract"]
    cells = [f"{f} x {m}" for f, row in matrix().items() for m, said in row.items() if said == "ok"]
    rows.insert(0, row_of(f"contract suite: {', '.join(cells)}", "all pass", what))
    if args.quick:
        print(*rows, sep="\n")
    else:
        record(
            "contract",
            "The contract suite",
            rows,
            packages=["torch", "transformers", "diffusers", "peft"],
        )


if __name__ == "__main__":
    main()
