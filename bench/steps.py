"""One training step at the geometries of MusicGen small, medium and large: LoRA, QLoRA, full.

    python -m bench.steps [--only small] [--device cpu|cuda] [--seconds 10] [--batch 1] [--quick]

Random weights; each case is a process of its own, so that its peak is its own. A decoder's layers are alike, so
on a CPU only as many are built as fit into 4 GB, and the row says how many; on a GPU all are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch

from bench._results import NO_GPU, Row, parser, record, spread

WIDTHS = {"small": 1024, "medium": 1536, "large": 2048}
LAYERS = {"small": 24, "medium": 48, "large": 48}
METHODS = {"lora": "LoRA r=16", "qlora": "QLoRA r=16", "full": "full"}
ON_CPU = {
    "lora": {"small": 24, "medium": 8, "large": 6},
    "qlora": {"small": 24, "medium": 24, "large": 24},
    "full": {"small": 4, "medium": 2, "large": 1},
}
"""Layers that are built on a CPU; `full` holds weights, gradients and two moments of each."""


def measure(size: str, method: str, layers: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each timed step, parameters, and the peak."""
    from bench.qlora_memory import musicgen, pack
    from tunesmith.config import TrainConfig
    from tunesmith.methods import full, lora
    from tunesmith.objectives.mixture import total_loss
    from tunesmith.training.hardware import choose_dtype, peak_memory_bytes
    from tunesmith.training.measure import forward
    from tunesmith.training.optimizer import build_optimizer
    from tunesmith.types import Example

    device = torch.device(args.device)
    dtype = choose_dtype("auto", device)
    in_four_bits = method == "qlora"
    bundle = musicgen(WIDTHS[size], layers, torch.bfloat16 if in_four_bits else torch.float32)
    bundle.release_codec()
    parameters = sum(p.numel() for p in bundle.module.parameters())
    if in_four_bits:
        pack(bundle, device, dtype)
    else:
        bundle.module.to(device)
    text = bundle.encode_text(["slow blues, electric guitar, live"])[0]
    if method == "full":
        adapter: Any = full.attach(bundle, full.Config())
    else:
        adapter = lora.attach(bundle, lora.Config(rank=16))
    frames = round(args.seconds * bundle.frame_rate_hz)
    codes = torch.randint(0, 2048, (args.batch, 4, frames), dtype=torch.int16)
    examples = [Example(str(number), one, text) for number, one in enumerate(codes)]
    batch = bundle.collate(examples, range(args.batch))
    optimizer = build_optimizer(adapter.parameters(), adapter.rates(), TrainConfig(lr=1e-5))  # type: ignore[call-arg]
    counts = {name: one.sum().to(device) for name, one in bundle.module.count(batch).items()}
    bundle.module.train()
    seconds = []
    for _ in range(1 + args.steps):
        begin = time.perf_counter()
        loss = total_loss(forward(bundle, batch, dtype), counts, bundle.term_weights)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return {
        "seconds": seconds[1:],
        "parameters": parameters,
        "trained": sum(p.numel() for p in adapter.parameters().values()),
        "peak_gib": peak_memory_bytes(device) / 2**30,
        "dtype": str(dtype).removeprefix("torch."),
    }


def row(size: str, method: str, args: argparse.Namespace) -> tuple[Row, Row]:
    """The rows of a case on a CPU and on a GPU; what was not asked for keeps its figure."""
    clips = f"{args.batch} clip{'s' * (args.batch > 1)} of {args.seconds:g} s"
    on_gpu = args.device != "cpu"
    built = LAYERS[size] if on_gpu else ON_CPU[method][size]
    figure = None
    if args.only in (None, size):
        layers = min(built, 2) if args.quick else built
        command = [sys.executable, "-m", "bench.steps", "--case", size, method, str(layers)]
        command += ["--device", args.device, "--steps", str(args.steps)]
        command += ["--seconds", str(args.seconds), "--batch", str(args.batch)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rates = [args.batch * args.seconds / one for one in found["seconds"]]
        figure = (
            f"{spread(found['seconds'], ' s')} a step, {spread(rates)} s of sound a second, "
            f"{found['peak_gib']:.2f} GiB; {found['parameters']:,} parameters, "
            f"{found['trained']:,} trained; {found['dtype']}"
        )
        print(f"{size} {method}: {figure}", flush=True)
    what = f"{size}, {METHODS[method]}, {clips}"
    some = ON_CPU[method][size]
    share = "" if some == LAYERS[size] else f", {some} of {LAYERS[size]} layers"
    return (
        Row(f"{what}, CPU{share}", "", None if on_gpu else figure, missing="not measured"),
        Row(f"{what}, GPU", "", figure if on_gpu else None, missing=NO_GPU),
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=list(WIDTHS))
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--steps", type=int, default=3, help="timed steps, after one to warm up")
    options.add_argument("--case", nargs=3, help="size, method, layers: only measure that")
    args = options.parse_args()
    if args.case:
        size, method, layers = args.case
        print(json.dumps(measure(size, method, int(layers), args)))
        return
    if args.quick:
        args.seconds, args.steps, args.only = 1.0, 1, args.only or "small"
    rows = [one for size in WIDTHS for method in METHODS for one in row(size, method, args)]
    if args.quick:
        return
    record(
        "steps",
        "One training step at the geometries of MusicGen small, medium and large",
        rows,
        notes="Forward, backward and optimizer, without activation checkpointing; random weights, T5-base, "
        "caption encoded before. What the Trainer takes for the same is in the section on training speed. "
        "Peaks are of the process on the CPU, of what is allocated on a GPU.",
        packages=("torch", "transformers", "peft", "bitsandbytes"),
    )


if __name__ == "__main__":
    main()
