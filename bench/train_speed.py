"""LoRA training speed and memory against ``transformers.Trainer`` + PEFT, in one run.

    python -m bench.train_speed [--only small|pocket] [--precision float32|auto|both] [--quick]

Contestants: Tunesmith's loop; the Trainer as it comes (random batches); the Trainer with its length
grouping. Same weights, cached codes, captions, batch size, rank, targets, optimizer and precision;
each in a process of its own. Two at a time take turns, one step each, in an order that rotates. The
loss of the first clips must be the same number for both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from bench._results import Row, parser, record, spread
from bench._turns import DEVICE, GEOMETRIES, WARM, block

PACKAGES = ["torch", "transformers", "peft", "accelerate"]
_TITLES = {
    "small": "musicgen-small's layers (8 of 24), clips of 10-30 s, batch 4",
    "pocket": "pocket, clips of 2-10 s, batch 8",
    "micro": "tiny",
}


@dataclass
class Contestant:
    """A process that trains one step when told to."""

    name: str
    arguments: list[str]
    told: dict[str, Any] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench._contestant", *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def until(self, key: str) -> Any:
        """Read answers until one has ``key``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            self.told |= answer
            if key in answer:
                return answer[key]
        raise SystemExit(f"{self.name} ended early, with {self.process.wait()}")

    def turn(self) -> float:
        """Seconds of one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.until("seconds"))

    def finish(self) -> None:
        self.turn()
        self.until("peak_bytes")
        self.process.communicate()

    def end(self) -> None:
        """Leave nothing behind where a heat broke off."""
        process = getattr(self, "process", None)
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    @property
    def clips_per_s(self) -> float:
        return statistics.median(self.rates)

    @property
    def peak_gib(self) -> float:
        return self.told["peak_bytes"] / 2**30

    def line(self) -> str:
        return (
            f"{self.name}: {spread(self.rates, digits=3)} clips/s, "
            f"padding {100 * self.told['padding']:.0f} %, peak {self.peak_gib:.2f} GiB"
        )


def heat(
    field: list[Contestant], geometry: str, steps: int, rounds: int, tolerance: float = 1e-3
) -> list[Contestant]:
    """Let contestants take turns; a round of ``steps`` steps gives each of them one rate."""
    try:
        return _heat(field, geometry, steps, rounds, tolerance)
    finally:
        for one in field:
            one.end()


def _heat(
    field: list[Contestant], geometry: str, steps: int, rounds: int, tolerance: float
) -> list[Contestant]:
    for one in field:
        one.start()
        if DEVICE.type == "cpu":  # one after the other: their warm-ups would slow each other down
            one.until("ready")
    for one in field:
        if "ready" not in one.told:
            one.until("ready")
    print(f"timing {geometry}: {', '.join(one.name for one in field)}", flush=True)
    for one in field:
        one.turn()
    for number in range(-WARM, rounds):
        seconds = dict.fromkeys(range(len(field)), 0.0)
        for step in range(steps // block(steps)):
            for place in range(len(field)):
                who = (place + step + number) % len(field)
                seconds[who] += field[who].turn()
        for who, total in seconds.items():
            if number >= 0:
                field[who].rates.append(steps * GEOMETRIES[geometry]["batch"] / total)
    for one in field:
        one.finish()
        print(one.line(), flush=True)
    losses = [one.told["loss"] for one in field]
    if max(losses) - min(losses) > tolerance:
        raise SystemExit(f"the contestants do not train on the same loss: {losses}")
    return field


def measure(
    geometry: str, clips: int, steps: int, rounds: int, dtype: str = "float32"
) -> list[tuple[Contestant, Contestant]]:
    """``(Tunesmith, the Trainer)`` and ``(Tunesmith, the Trainer with length grouping)``.

    Two at a time, so that what waits leaves memory enough for what runs.
    """
    common = ["--geometry", geometry, "--clips", str(clips), "--dtype", dtype]
    common += ["--steps", str(steps), "--rounds", str(rounds)]
    pairs = []
    for name, options in (("Trainer", []), ("Trainer, grouped", ["--grouped"])):
        ours = Contestant("tunesmith", ["tunesmith", *common])
        theirs = Contestant(name, ["trainer", *options, *common])
        heat([ours, theirs], geometry, steps, rounds)
        pairs.append((ours, theirs))
    return pairs


def against(ours: Contestant, theirs: Contestant) -> tuple[float, str]:
    """The median over rounds of the ratio of rates, and how to write it."""
    ratios = [mine / other for mine, other in zip(ours.rates, theirs.rates, strict=True)]
    rates = f"{ours.clips_per_s:.3f} against {theirs.clips_per_s:.3f} clips/s"
    return statistics.median(ratios), f"{spread(ratios, 'x')} ({rates})"


def titles(title: str) -> tuple[str, str, str]:
    """What the three rows of a geometry are called."""
    return (
        f"{title}: clips/s against the Trainer as it comes",
        f"{title}: clips/s against its length grouping",
        f"{title}: peak memory",
    )


def rows(title: str, pairs: list[tuple[Contestant, Contestant]], bar: float | None) -> list[Row]:
    """The rows of one geometry; without bars if ``bar`` is None."""
    (ours, plain), (again, grouped) = pairs
    gain, gain_text = against(ours, plain)
    even, even_text = against(again, grouped)
    memory, others = max(ours.peak_gib, again.peak_gib), (plain.peak_gib, grouped.peak_gib)
    memory_text = f"{memory:.2f} GiB against {others[0]:.2f} and, grouped, {others[1]:.2f}"
    bars = (f">= {bar:g}x", ">= 1.0x", "no higher") if bar else ("", "", "")
    reached = (gain >= bar, even >= 1, memory <= min(others)) if bar else (None,) * 3
    figures = (gain_text, even_text, memory_text)
    return [Row(*cells) for cells in zip(titles(title), bars, figures, reached, strict=True)]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=["small", "pocket"])
    options.add_argument("--precision", choices=["float32", "auto", "both"], default="both")
    options.add_argument("--clips", type=int, default=200)
    options.add_argument("--steps", type=int, help="timed steps a round; default 4 and 6")
    options.add_argument("--rounds", type=int, help="default 3 (small) and 5 (pocket)")
    args = options.parse_args()
    if args.quick:
        measure("micro", 16, 2, 2)
        return
    from tunesmith.training.hardware import choose_dtype

    if DEVICE.type != "cpu":
        print("on a GPU: python -m bench.train_gpu")
        return
    auto = str(choose_dtype("auto", DEVICE)).removeprefix("torch.")
    wanted = {"float32": ["float32"], "auto": [auto], "both": ["float32", auto]}[args.precision]
    for geometry, bar, steps, rounds in (("small", 1.3, 4, 3), ("pocket", 1.5, 6, 5)):
        if args.only not in (None, geometry):
            continue
        title = _TITLES[geometry]
        plan = (args.clips, args.steps or steps, args.rounds or rounds)
        for dtype in dict.fromkeys(wanted):
            found = measure(geometry, *plan, dtype)
            record(
                f"train_speed {geometry} {dtype}",
                f"Training speed: LoRA r=16 on q, k, v, {title}, {dtype}",
                rows(title, found, bar if dtype == "float32" else None),
                notes=notes(found, *plan)
                + (" This is what `auto` chooses here." if dtype == auto else ""),
                packages=PACKAGES,
                command=f"train_speed --only {geometry}",
            )


def notes(pairs: list[tuple[Contestant, Contestant]], clips: int, steps: int, rounds: int) -> str:
    """The conditions of a geometry's heats."""
    (ours, plain), (_, grouped) = pairs
    shares = ", ".join(
        f"{100 * one.told['padding']:.0f} % ({who})"
        for who, one in (("ours", ours), ("Trainer", plain), ("grouped", grouped))
    )
    return (
        f"{clips} clips of uniformly spread lengths; {rounds} rounds of {steps} steps spread evenly over "
        f"an epoch's batches by length, turn about; fetching the next batch counts. Padding: {shares}. "
        f"Text: the Trainer runs the text encoder every step ({1000 * plain.told['text_s']:.0f} ms a clip "
        f"of it); ours ran once per caption before. Loss of the same clips: {ours.told['loss']:.5f} and "
        f"{plain.told['loss']:.5f}. {ours.told['threads']} threads."
    )


if __name__ == "__main__":
    main()
