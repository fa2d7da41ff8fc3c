"""LoRA training on a GPU: against ``transformers.Trainer`` + PEFT, and against the card's matrix peak.

    python -m bench.train_gpu [--only small-16] [--lines FILE] [--record FILE] [--quick]

The geometry of musicgen-small, whole, in bfloat16: Tunesmith's loop, the same with nothing recorded,
the Trainer as it comes, and with its length grouping; each in a process of its own, a round of steps at
a turn. Then musicgen-large's geometry, made on the GPU: how much of the rate of an 8192-cubed bfloat16
product its steps reach. A row is printed, and added to ``--lines``, as soon as it is there; ``--record``
writes such lines, from another machine, into the results.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bench._results import NO_GPU, Row, parser, record, spread, tell, told
from bench._turns import GEOMETRIES
from bench.train_speed import PACKAGES, Contestant, against, heat

SMALL = ("small-4", "small-8", "small-16")
BARS = {"plain": ">= 1.5x", "grouped": ">= 1.5x", "peak": ">= 35 %"}
_ROOMY = 100e9
"""Bytes of a card that holds three contestants at batch 16, or a large geometry's step at batch 8."""
_FLOPS = (
    "Counted: for each real position 4 per frozen weight that it meets, 6 per adapter weight, 12 per unit of "
    "width, layer and key (causal half); nothing for padding or the optimizer."
)


def titles(geometry: str) -> dict[str, tuple[str, str]]:
    """``{part: (what, bar)}`` of a geometry."""
    if geometry == "large":
        what = "musicgen-large's geometry (48 layers), clips of 10-30 s, bf16"
        return {
            "peak": (f"{what}: of the measured matrix peak", BARS["peak"]),
            "memory": (f"{what}: peak memory", ""),
        }
    batch = GEOMETRIES[geometry]["batch"]
    what = f"musicgen-small's geometry (24 layers), clips of 10-30 s, bf16, batch {batch}"
    return {
        "plain": (f"{what}: clips/s against the Trainer as it comes", BARS["plain"]),
        "grouped": (f"{what}: clips/s against its length grouping", BARS["grouped"]),
        "memory": (f"{what}: peak memory", ""),
        **(
            {"record": (f"{what}: clips/s against our own with nothing recorded", "")}
            if batch == 4
            else {}
        ),
    }


def arguments(who: str, geometry: str, clips: int, steps: int, rounds: int) -> list[str]:
    return [
        *(who, "--geometry", geometry, "--dtype", "bfloat16", "--clips", str(clips)),
        *("--steps", str(steps), "--rounds", str(rounds)),
    ]


def small(geometry: str, steps: int, rounds: int) -> Iterator[Row]:
    """The rows of musicgen-small's geometry at a batch."""
    size = 50 * GEOMETRIES[geometry]["batch"]
    ours = arguments("tunesmith", geometry, size, steps, rounds)
    theirs = arguments("trainer", geometry, size, steps, rounds)
    field = {
        "ours": Contestant("tunesmith", ours),
        "plain": Contestant("Trainer", theirs),
        "grouped": Contestant("Trainer, grouped", [*theirs, "--grouped"]),
    }
    what = titles(geometry)
    if "record" in what:  # where all of them fit into one card
        field["record"] = Contestant("tunesmith, nothing recorded", [*ours, "--plain"])
    heat(list(field.values()), geometry, steps, rounds, tolerance=1e-2)
    first = field.pop("ours")
    if first.told.get("refused"):
        print(f"nothing was recorded: {first.told['refused']}", flush=True)
    for part, other in field.items():
        gain, figure = against(first, other)
        figure += f"; loss of the same clips {first.told['loss']:.4f} and {other.told['loss']:.4f}"
        if part == "record":
            figure += f"; recording took {first.told.get('record_s') or 0:.1f} s once"
        yield Row(*what[part], figure, gain >= 1.5 if part != "record" else None)
    others = ", ".join(f"{one.peak_gib:.2f} ({one.name})" for one in field.values())
    yield Row(*what["memory"], f"{first.peak_gib:.2f} GiB against {others}")


def matrix_peak(size: int = 8192, repeats: int = 20) -> list[float]:
    """Rates of a square bfloat16 product on random data, in operations a second."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(repeats + 5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.mm(left, right)
        end.record()
        end.synchronize()
        rates.append(2 * size**3 / (begin.elapsed_time(end) / 1000))
    return rates[5:]


def large(steps: int, rounds: int) -> Iterator[Row]:
    """The rows of musicgen-large's geometry, at the largest batch that fits."""
    total = torch.cuda.get_device_properties(0).total_memory
    names = ("large-8", "large-4", "large-2") if total > _ROOMY else ("large-4", "large-2")
    before = matrix_peak()
    torch.cuda.empty_cache()
    for geometry in names:
        batch = GEOMETRIES[geometry]["batch"]
        one = Contestant("tunesmith", arguments("tunesmith", geometry, 50 * batch, steps, rounds))
        try:
            heat([one], geometry, steps, rounds)
        except (SystemExit, BrokenPipeError) as error:
            print(f"{geometry}: {error}", flush=True)
            continue
        peak = statistics.median([*before, *matrix_peak()])
        seconds = [steps * batch / rate for rate in one.rates]
        reached = [one.told["flops"] / each for each in seconds]
        shares = [100 * each / peak for each in reached]
        figure = (
            f"{spread(shares, ' %', digits=1)} ({statistics.median(reached) / 1e12:.0f} of "
            f"{peak / 1e12:.0f} TFLOP/s; batch {batch}, {one.clips_per_s:.2f} clips/s; whole steps, padding "
            f"and optimizer included in the time"
            + (f"; nothing recorded: {one.told['refused']}" if one.told.get("refused") else "")
            + ")"
        )
        what = titles("large")
        yield Row(*what["peak"], figure, statistics.median(shares) >= 35)
        yield Row(*what["memory"], f"{one.peak_gib:.2f} GiB at batch {batch}")
        return


def measured(geometry: str, quick: bool) -> Iterator[Row]:
    if geometry == "large":
        return large(*((2, 1) if quick else (6, 3)))
    return small(geometry, *((2, 1) if quick else (6, 3)))


def recorded(lines: Path) -> None:
    """Write what was measured on another machine."""
    every = (one for geometry in (*SMALL, "large") for one in titles(geometry).values())
    rows, measured = told(lines, every)
    record(
        "train_speed gpu",
        "Training speed on a GPU: LoRA r=16 on q, k, v",
        rows,
        notes="Random weights, cached codes; rounds of 6 steps spread evenly over an epoch's batches by length, "
        "turn about, after two rounds to warm up; fetching the next batch counts. Text: the Trainer runs the "
        f"encoder every step, ours ran once per caption before. {_FLOPS}",
        packages=PACKAGES,
        command="train_gpu",
        measured=measured,
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=[*SMALL, "large"])
    options.add_argument("--lines", type=Path, help="add each row to this file")
    options.add_argument("--record", type=Path, help="only write the rows of such a file")
    args = options.parse_args()
    if args.record:
        recorded(args.record)
        return
    if not torch.cuda.is_available():
        print(NO_GPU)
        return
    roomy = torch.cuda.get_device_properties(0).total_memory > _ROOMY
    for geometry in ("small-8", "large", "small-4", *(("small-16",) if roomy else ())):
        if args.only not in (None, geometry):
            continue
        begin = time.perf_counter()
        try:
            for row in measured(geometry, args.quick):
                tell(row, PACKAGES, args.lines)
        except (Exception, SystemExit):  # what is there is worth something
            logging.exception(geometry)
        print(f"{geometry}: {time.perf_counter() - begin:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
