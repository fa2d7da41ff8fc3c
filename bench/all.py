"""Run every script of this folder and rewrite ``bench/RESULTS.md``; what ``make bench`` does.

python -m bench.all [--quick]
"""

from __future__ import annotations

import subprocess
import sys
import time

from bench._results import RESULTS, parser

SCRIPTS = (
    "startup",
    "bad_config",
    "prepare",
    "encode",
    "screening",
    "voice_screening",
    "duplicates",
    "facts",
    "tagger",
    "metrics",
    "objectives",
    "diffusion_geometry",
    "voice_geometry",
    "inpaint",
    "pocket_diffusion",
    "hostile",
    "kill_prepare",
    "prepare_ray",
    "peft_opens",
    "adapters",
    "engine",
    "engine_gpu",
    "mixer",
    "plan",
    "qlora_memory",
    "steps",
    "train_speed",
    "train_gpu",
    "train_parts",
    "contract",
    "small_geometry",
    "kill_resume",
    "two_processes",
    "pocket",
    "pocket_voice",
    "demo",
    "demo_voice",
    "real_voice",
    "methods",
    "pitfalls",
    "memorisation",
    "evaluate",
    "real_gap",
    "listen",
    "serve_hostile",
    "serve_ray",
    "serve_load",
    "serve_kill",
)


def main() -> None:
    args = parser(__doc__).parse_args()
    failed = []
    for name in SCRIPTS:
        print(f"== bench.{name}", flush=True)
        begin = time.perf_counter()
        command = [sys.executable, "-m", f"bench.{name}", *(["--quick"] if args.quick else [])]
        if subprocess.run(command).returncode:
            failed.append(name)
        print(f"== {time.perf_counter() - begin:.0f} s", flush=True)
    missed = RESULTS.is_file() and RESULTS.read_text(encoding="utf-8").count("✗ missed")
    if missed:
        print(f"{missed} bars missed, see {RESULTS.name}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
