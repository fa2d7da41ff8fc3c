"""What every stage shares: its command line, atomic files, progress lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SAMPLE_RATE_HZ = 16000
CLIP_S = 10.0
CLIP_SAMPLES = int(SAMPLE_RATE_HZ * CLIP_S)
_STARTED_S = time.monotonic()
MEASURED_BEGIN, MEASURED_END = "<!-- begin measured -->", "<!-- end measured -->"  # in model cards


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all stages share."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument(
        "--work", type=Path, default=Path("build/pocket"), help="folder for data, checkpoints, logs"
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--device", default="cpu")
    return made


def set_up(args: argparse.Namespace) -> None:
    """Apply thread count, seed and what a GPU is to compute in."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if args.device != "cpu":  # TensorFloat-32, and the fastest kernel for the few shapes there are
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    args.work.mkdir(parents=True, exist_ok=True)


def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it, else float32."""
    kind = torch.device(device).type
    flags = getattr(torch.cpu, "get_capabilities", dict)() if kind == "cpu" else {}
    able = kind == "cuda" or flags.get("avx512_bf16") or flags.get("amx_bf16")
    return torch.bfloat16 if able else torch.float32


def autocast(device: str) -> torch.autocast:
    """bfloat16 where the hardware multiplies it (about three times faster), else float32 (else it collapses)."""
    return torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16
    )


def log(message: str) -> None:
    """Print one progress line with the wall-clock time and the seconds since the start."""
    print(
        f"{time.strftime('%H:%M:%S')} +{time.monotonic() - _STARTED_S:.0f}s {message}", flush=True
    )
    sys.stdout.flush()


def write_text(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON object to a log of a curve."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy (no pickled objects) atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(temporary, path)
