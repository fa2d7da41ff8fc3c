"""How fast recordings become a data set, and how much memory that takes.

    python -m bench.prepare [--hours 1] [--long-hours 10] [--quick]

Synthesises 44.1 kHz stereo FLAC in recordings of five minutes, and prepares it as it is (everything
that needs no model: cutting on beats, screening, facts, near-duplicates), for a 32 kHz mono base,
normalised, with one worker, and in ten times the length.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from bench._results import Row, parser, record

RATE_HZ = 44_100
PART_S = 300
BAR_SPEED, BAR_MIB = 80, 1024


def synthesise(path: Path, seed: int) -> None:
    """Five minutes of panned, decaying chords with a drum on a steady pulse: it has all that is measured."""
    rng = np.random.default_rng(seed)
    beat = round(60 / rng.uniform(70, 170) * RATE_HZ)
    root_hz = 110 * 2 ** (rng.integers(12) / 12)
    time_s = np.arange(beat) / RATE_HZ
    drum = 0.15 * np.exp(-40 * time_s)[:, None]
    fall = np.exp(-3 * time_s)
    with soundfile.SoundFile(path, "w", RATE_HZ, 2, "PCM_16") as file:
        written = 0
        while written < PART_S * RATE_HZ:
            sound = drum * rng.standard_normal((beat, 2)) + 1e-3 * rng.standard_normal((beat, 2))
            for step in rng.choice([0, 2, 4, 5, 7, 9, 11, 12, 16, 19], 3):
                tone = 2 * np.pi * root_hz * 2 ** (step / 12) * time_s
                wave = (np.sin(tone) + 0.4 * np.sin(2 * tone) + 0.2 * np.sin(3 * tone)) * fall
                sound += 0.12 * wave[:, None] * rng.uniform(0.2, 1, 2)
            file.write(np.clip(sound, -0.99, 0.99))
            written += beat


class Measured(NamedTuple):
    """One preparing.

    Attributes:
        wall_s: it took.
        cpu_s: of all its processes together, user and system: what a busy machine changes least.
        clips, rejected: of the data set.
        peak_mib: of all processes together at the most.
    """

    wall_s: float
    cpu_s: float
    clips: int
    rejected: int
    peak_mib: float


def _measure(source: str, dest: str, options: dict[str, Any], answer: Any) -> None:
    from tunesmith.data import prepare

    start, before = time.perf_counter(), os.times()
    made = prepare(source, dest, caption="chords with a drum", **options)
    wall_s, after = time.perf_counter() - start, os.times()
    cpu_s = sum(after[:4]) - sum(before[:4])  # own and the children's, who have ended
    # Linux counts in KiB; the children's figure is that of the largest one.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    peak_mib = own + options.get("workers", 2) * child
    answer.put(Measured(wall_s, cpu_s, made.clips, made.rejected, peak_mib))


def measure(source: Path, dest: Path, options: dict[str, Any]) -> Measured:
    """Prepares in a fresh process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_measure, args=(str(source), str(dest), options, answer))
    process.start()
    measured = answer.get()
    process.join()
    return measured


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--hours", type=float, default=1.0)
    options.add_argument("--long-hours", type=float, default=10.0, help="0 leaves it out")
    args = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "recordings"
        source.mkdir()
        made = 0

        def reach(hours: float) -> float:
            nonlocal made
            parts = 1 if args.quick else max(1, round(hours * 3600 / PART_S))
            for number in range(made, parts):
                synthesise(source / f"part{number:03d}.flac", number)
            made = max(made, parts)
            return parts * PART_S

        def run(title: str, sound_s: float, settings: dict[str, Any], bar: str = "") -> None:
            dest = Path(folder) / "dataset"
            wall_s, cpu_s, clips, rejected, peak = measure(source, dest, {"workers": 2, **settings})
            figure = (
                f"{sound_s / wall_s:.0f}x real time ({sound_s / 3600:g} h in {wall_s:.1f} s, "
                f"{cpu_s:.1f} s of CPU, {clips} clips, {rejected} left out), at most {peak:.0f} MiB in all processes"
            )
            good = sound_s / wall_s >= BAR_SPEED and peak < BAR_MIB
            rows.append(Row(f"prepare, {title}", bar, figure, good if bar else None))
            print(f"{title}: {figure}", flush=True)

        sound_s = reach(args.hours)
        bar = f"≥ {BAR_SPEED}x real time, < 1 GB"
        run("one hour as recorded, two workers", sound_s, {}, bar)
        run("to 32 kHz mono, -16 LUFS", sound_s, {
            "sample_rate_hz": 32_000, "channels": 1, "normalise_lufs": -16.0,
        })  # fmt: skip
        run("one worker", sound_s, {"workers": 1})
        title = "ten hours as recorded, two workers"
        if args.long_hours and not args.quick:
            run(title, reach(args.long_hours), {}, bar)
        else:
            rows.append(Row(f"prepare, {title}", bar, None))  # what was measured last stays
    if not args.quick:
        notes = (
            "Synthetic 44.1 kHz stereo FLAC, five-minute recordings; the sound is written beforehand. "
            "Cutting, screening, measuring and near-duplicates; no encoding, no models. Memory: the "
            "parent's peak and the workers' number times the largest worker's."
        )
        record(
            "prepare",
            "Preparation",
            rows,
            notes=notes,
            packages=["soundfile", "soxr", "numpy", "scipy"],
        )


if __name__ == "__main__":
    main()
