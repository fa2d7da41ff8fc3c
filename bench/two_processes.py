"""Two processes against one, every method on `pocket`: the same losses, and checkpoints that move.

    python -m bench.two_processes [--steps 6] [--quick]

Everything runs on the CPU over gloo with one thread a process, in float32 and without dropout. The runs
of two processes are started by `torchrun`, those that go on with a moved checkpoint by
`accelerate launch`; the runs of one process by neither. What is compared is every loss in
metrics.jsonl: of each training step, and of each validation.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench._results import Row, parser, record
from tunesmith.demo import CLIPS

BAR = 1e-5
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": {"name": "lora", "rank": 8}, "train.lr": 1e-3},
    "qlora": {
        "method": {"name": "lora", "rank": 8},
        "train.lr": 1e-3,
        "base.quantize": "nf4",
    },
    "full": {"method": {"name": "full"}, "train.lr": 1e-4},
    "bottleneck": {"method": {"name": "bottleneck", "width": 16}, "train.lr": 1e-3},
    "prefix": {"method": {"name": "prefix", "length": 8}, "train.lr": 1e-2},
    "textual_inversion": {
        "method": {"name": "textual_inversion", "token": "[calypso]", "vectors": 4},
        "train.lr": 1e-2,
    },
}
NO_FSDP = {"qlora": "a base in four bits is not split (parallel=fsdp is refused): it is small"}


def make_data(folder: Path) -> Path:
    """Seven clips of the demo's style, two of them for validation."""
    for index in range(7):
        side = folder / ("valid" if index >= 5 else "train")
        side.mkdir(parents=True, exist_ok=True)
        for kind in ("ogg", "txt"):
            shutil.copy(CLIPS / "style" / f"style-{index:02d}.{kind}", side)
    return folder


def work(file: Path) -> None:
    """Go through the runs of a file; what a launcher starts in each process."""
    from tunesmith.config import load_config
    from tunesmith.errors import Stopped
    from tunesmith.training.run import train
    from tunesmith.training.signals import StopFlag

    for job in json.loads(file.read_text()):
        stop = StopFlag()

        def on_event(
            kind: str,
            values: Mapping[str, Any],
            stop: StopFlag = stop,
            at: int | None = job.get("stop"),
        ) -> None:
            last = int(os.environ.get("WORLD_SIZE", 1)) - 1
            if kind == "train" and values["step"] == at and int(os.environ.get("RANK", 0)) == last:
                stop.set(15)  # in one process alone

        try:
            loaded = load_config(settings=job["settings"])
            train(loaded, resume=job.get("resume", False), stop=stop, on_event=on_event)
        except Stopped:
            assert job.get("stop")


def launch(launcher: str, jobs: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Go through runs in two processes that a launcher starts; ``none``: in one, that nobody does."""
    file = folder / f"{launcher}.json"
    file.write_text(json.dumps(jobs))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    command = {
        "none": [sys.executable],
        "torchrun": [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nproc-per-node", "2", "--master-port", port),
        ],
        # It starts several processes without GPUs only if it is told that there are some.
        "accelerate": [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
            *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
            *("--dynamo_backend", "no", "--main_process_port", port),
        ],
    }[launcher]
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    words = [*command, "-m", "bench.two_processes", "--work", str(file)]
    subprocess.run(words, check=True, env=os.environ | hidden)


def losses(run: Path) -> dict[tuple[str, int], float]:
    """Every loss that a run wrote down."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {
        (f"{one['kind']} {key}", one["step"]): value
        for one in lines
        for key, value in one.items()
        if key.endswith("loss")
    }


def apart(mine: Path, theirs: Path) -> float:
    """Largest relative difference between the losses of two runs; they must be of the same steps."""
    a, b = losses(mine), losses(theirs)
    if a.keys() != b.keys():
        raise SystemExit(f"{mine.name} and {theirs.name} wrote down other steps")
    return max(abs(a[key] - b[key]) / abs(b[key]) for key in a)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--work", type=Path, help="for the processes that this starts")
    args = options.parse_args()
    if args.work is not None:
        work(args.work)
        return
    steps = 3 if args.quick else args.steps
    names = ["lora", "full"] if args.quick else list(METHODS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder / "data")

        def job(out: str, method: str, mode: str = "auto", **more: Any) -> dict[str, Any]:
            plain = {
                "base": "pocket",
                "base.dtype": "float32",
                "data": str(data),
                "out": str(folder / out),
                "parallel": mode,
                "train.steps": steps,
                # Five clips: batches of four and of one, for which the second process has none.
                "train.batch_size": 4,
                "train.accumulate": 2,
                "train.eval_every": max(1, steps // 2),
                "train.checkpoint_every": 100,
                "preview.every": 0,
            }
            return {"settings": plain | METHODS[method], **more}

        split = [one for one in names if one not in NO_FSDP]
        moves = [("ddp", "lora"), ("fsdp", "full")]
        launch("none", [job(f"one-{method}", method) for method in names], folder)
        two = [job(f"ddp-{method}", method, "ddp") for method in names]
        two += [job(f"fsdp-{method}", method, "fsdp") for method in split]
        two += [job(f"moved-{mode}", method, mode, stop=1) for mode, method in moves]
        launch("torchrun", two, folder)
        further = [
            job(f"moved-{mode}", method, mode, stop=2, resume=True) for mode, method in moves
        ]
        launch("none", further, folder)
        last = [job(f"moved-{mode}", method, mode, resume=True) for mode, method in moves]
        launch("accelerate", last, folder)

        rows = []
        for title, mode, some in (("DDP", "ddp", names), ("FSDP2", "fsdp", split)):
            found = {
                method: apart(folder / f"{mode}-{method}", folder / f"one-{method}")
                for method in some
            }
            told = ", ".join(f"{method} {value:.0e}" for method, value in found.items())
            row = f"{title}: largest relative difference of any loss to one process, {steps} steps"
            rows.append(Row(row, f"≤ {BAR:g}", told, max(found.values()) <= BAR))
        for method, why in NO_FSDP.items():
            rows.append(Row(f"FSDP2: {method}", "", f"not measured: {why}"))
        moved = {
            f"{method} under {mode}": apart(folder / f"moved-{mode}", folder / f"one-{method}")
            for mode, method in moves
        }
        told = ", ".join(f"{what} {value:.0e}" for what, value in moved.items())
        rows.append(
            Row(
                "A checkpoint moved from two processes (stopped through the second one) to one and back "
                "to two: largest relative difference of any loss to one process without a stop",
                f"≤ {BAR:g}",
                told,
                max(moved.values()) <= BAR,
            )
        )
    for row in rows:
        print(row)
    if not args.quick:
        record(
            "two_processes",
            "Two processes against one",
            rows,
            notes="pocket, clips of the demo's style, a global batch of 4 x 2 (and 1 where an epoch "
            "ends), float32, gloo, no dropout. Started by torchrun, gone on with by accelerate launch.",
            packages=["torch", "transformers", "peft", "accelerate"],
        )


if __name__ == "__main__":
    main()
