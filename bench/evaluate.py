"""`tunesmith evaluate` on three runs whose verdict is known: one that learns, one that does nothing,
one that is ruined.

    python -m bench.evaluate [--work DIR] [--quick]

Trained on the clips in the package and measured by the command line against clips that none has heard.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench._results import Row, parser, record
from bench.memorisation import train_run
from tunesmith.data import prepare
from tunesmith.demo import CLIPS
from tunesmith.families import base_limits
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import Job, run_jobs

RUNS = {
    "learns": ({"train.lr": 2e-3, "train.steps": 80, "train.batch_size": 8}, "better"),
    "does nothing": ({"train.lr": 1e-9, "train.steps": 4, "train.batch_size": 8}, "no change"),
    "ruined": ({"train.lr": 1.0, "train.steps": 20, "train.batch_size": 8}, "worse"),
}
"""Settings, and what the verdict has to be."""

KEYS = ("value", "interval", "n", "embedding")


def folder_of(work: Path, run: str) -> Path:
    return work / "runs" / run.replace(" ", "-")


def make(work: Path, quick: bool) -> None:
    """Data sets and trainings; what is there is left."""
    rate, channels, longest = base_limits("pocket")
    for name, share in (("style", 0.25), ("general", 0.5)):
        prepare(
            CLIPS / name, work / "data" / name, sample_rate_hz=rate, channels=channels, min_s=2.0,
            max_s=5.0, base_max_s=longest, valid_share=share, rights="composed for this package",
        )  # fmt: skip
    jobs = []
    for run, (settings, _) in RUNS.items():
        given = settings | {
            "base": "pocket",
            "method": "lora",
            "data": str(work / "data" / "style"),
            "data.general": str(work / "data" / "general"),
            "out": str(folder_of(work, run)),
            "preview.every": 0,
            # The last weights are what is to be judged, also where they are not the best.
            "train.eval_every": settings["train.steps"],
            **({"train.steps": 2, "train.eval_every": 2} if quick else {}),
        }
        jobs.append(Job(run, "bench.evaluate:train_last", {"settings": given}))
    run_jobs(jobs, workers=2, stop=StopFlag(), on_event=lambda kind, values: None)


def train_last(*, settings: dict[str, Any], stop: StopFlag, on_event: Any) -> int:
    """Train, and keep the last weights: those of step 0 are the base's, whatever they are worth."""
    step = train_run(settings=settings, stop=stop, on_event=on_event)
    folder = Path(settings["out"])
    if step == 0:
        from tunesmith.evaluation.pick import candidates, take_over

        last = max(candidates(folder, folder / "last").items())
        take_over(last[1], folder)
        step = last[0]
    return step


def evaluated(run: Path, quick: bool) -> tuple[dict[str, Any], float]:
    """``report.json`` as the command leaves it, and the seconds that it took."""
    words = ["evaluate", str(run), *(["--takes", "6", "--general-takes", "4"] if quick else [])]
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", *words], capture_output=True, text=True, env=os.environ
    )
    if done.returncode:
        raise SystemExit(f"evaluate {run} failed:\n{done.stderr}")
    seconds = time.perf_counter() - begin
    return json.loads((run / "report.json").read_text(encoding="utf-8")), seconds


def rows_of(work: Path, quick: bool) -> list[Row]:
    rows, whole, total = [], 0, 0
    for run, (_, wanted) in RUNS.items():
        told, seconds = evaluated(folder_of(work, run), quick)
        metrics = told["metrics"]
        total += len(metrics)
        whole += sum(set(KEYS) <= one.keys() for one in metrics.values())
        kad, loss = metrics["kad"], metrics["validation_loss"]
        figure = (
            f"{told['verdict']}: KAD {kad['base']['value']:.2f} -> {kad['value']:.2f} "
            f"(p = {kad['p_value']:.2g}), validation loss {loss['base']['value']:.3f} -> "
            f"{loss['value']:.3f}; copies flagged: {told['memorisation']['flagged']}; {seconds:.0f} s"
        )
        what = f"verdict on a run that {run}" if run != "ruined" else "verdict on a ruined run"
        rows.append(Row(what, wanted, figure, told["verdict"] == wanted))
    what = "`report.json`: metrics with value, interval, n and embedding"
    rows.append(Row(what, "all", f"{whole} of {total}", whole == total))
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--work", type=Path, help="keep what is made here, and go on from it")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        make(work, args.quick)
        rows = rows_of(work, args.quick)
    if args.quick:
        print(*rows, sep="\n")
        return
    record("evaluate", "`tunesmith evaluate`: verdicts that are known beforehand", rows, notes=(
        "LoRA on 34 clips of a style that the base never heard, 15 held-out clips, 64 takes a model; "
        "the last weights are judged. Seconds with everything that `evaluate` does, on cores with other work."
    ))  # fmt: skip


if __name__ == "__main__":
    main()
