"""How long ``tunesmith --help`` and ``ls`` take, and that they do not import torch.

python -m bench.startup
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench._results import Row, parser, record, spread

BAR_S = 0.5
VERBS = {
    "tunesmith --help": ["--help"],
    "tunesmith ls": ["ls"],
    "tunesmith ls --json": ["ls", "--json"],
}


def wall_s(words: list[str], repeats: int) -> list[float]:
    """Seconds of each repeat, after one to warm the file cache."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        command = [sys.executable, "-m", "tunesmith", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return times[1:]


def imports_torch(words: list[str]) -> bool:
    """Whether torch stands among the modules when the verb ends."""
    program = (
        "import sys, atexit\n"
        f"sys.argv = ['tunesmith', *{words!r}]\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "from tunesmith.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return done.stderr.strip().endswith("True")


def main() -> None:
    args = parser(__doc__).parse_args()
    rows = []
    for name, words in VERBS.items():
        times = wall_s(words, 2 if args.quick else 7)
        heavy = imports_torch(words)
        rows.append(
            Row(
                f"`{name}`",
                f"< {BAR_S} s, no torch",
                f"{spread(times, ' s')}, torch {'imported' if heavy else 'not imported'}",
                statistics.median(times) < BAR_S and not heavy,
            )
        )
    if args.quick:
        print(*rows, sep="\n")
    else:
        record("startup", "Start-up", rows, notes="Median of 7 processes, files cached.")


if __name__ == "__main__":
    main()
