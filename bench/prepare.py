"""How fast recordings become a data set, and how much memory that takes.

    python -m bench.prepare [--hours 1] [--quick]

Synthesises an hour of 44.1 kHz stereo FLAC in twelve recordings per hour, one at a time,
prepares them as they are, again for a 32 kHz mono base, and with one worker.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bench._results import Row, parser, record
from tunesmith.data import prepare

RATE_HZ = 44_100
PART_S = 300


def synthesise(path: Path, seed: int) -> None:
    """Five minutes of decaying notes with noise: neither silence nor incompressible."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(RATE_HZ) / RATE_HZ
    with soundfile.SoundFile(path, "w", RATE_HZ, 2, "PCM_16") as file:
        for _ in range(PART_S):
            note = np.exp(-3 * time_s) * np.sin(2 * np.pi * rng.uniform(80, 800) * time_s)
            noise = 0.01 * rng.standard_normal((RATE_HZ, 2))
            file.write(0.5 * note[:, None] * rng.uniform(0.3, 1, 2) + noise)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--hours", type=float, default=1.0)
    args = options.parse_args()
    parts = 1 if args.quick else max(1, round(args.hours * 3600 / PART_S))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "recordings"
        source.mkdir()
        for number in range(parts):
            synthesise(source / f"part{number:03d}.flac", number)
        sound_s = parts * PART_S
        runs: tuple[tuple[str, dict[str, Any]], ...] = (
            ("as recorded", {}),
            ("to 32 kHz mono", {"sample_rate_hz": 32_000, "channels": 1}),
            ("as recorded, one worker", {"workers": 1}),
        )
        for title, options in runs:
            dest = Path(folder) / title.replace(" ", "_")
            start = time.perf_counter()
            made = prepare(source, dest, caption="decaying notes", **options)
            wall_s = time.perf_counter() - start
            # Linux counts in KiB; the children's figure is that of the largest one.
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            figure = (
                f"{sound_s / wall_s:.0f}x real time ({sound_s / 3600:g} h in {wall_s:.1f} s, "
                f"{made.clips} clips), peak {own:.0f} MiB, {child:.0f} MiB in a worker"
            )
            print(f"{title}: {figure}", flush=True)
            rows.append(Row(f"prepare, {title}", "", figure))
    if not args.quick:
        notes = "Synthetic 44.1 kHz stereo FLAC, five-minute recordings; the sound is written beforehand."
        record("prepare", "Preparation", rows, notes=notes, packages=["soundfile", "soxr", "numpy"])


if __name__ == "__main__":
    main()
