"""What this machine is good at: device, precision, memory, speed."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch


def best_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or device.type.upper()


_PRODUCT = 768
_ROUNDS, _CLEARLY = 8, 3.0


def _timed_product(dtype: torch.dtype) -> Callable[[], float]:
    """A square product with its transpose's layout, as linears use it; each call gives its seconds."""
    left = torch.randn(_PRODUCT, _PRODUCT).to(dtype)
    right = torch.randn(_PRODUCT, _PRODUCT).to(dtype)

    def once() -> float:
        begin = time.perf_counter()
        torch.nn.functional.linear(left, right)
        return time.perf_counter() - begin

    once()  # the first one also chooses kernels
    return once


@cache
def cpu_likes_bfloat16() -> bool:
    """Whether bf16 products are clearly faster than fp32 ones on this CPU.

    Measured rather than read from flags: without AMX or AVX512-BF16 they collapse to a fraction of
    the speed, and a flag does not tell whether the library has a kernel for it. In turns, and by the
    best of each: on a busy machine all tries of one may be slow if they follow each other, and two runs
    that are compared must not differ in precision by chance.
    """
    half, single = _timed_product(torch.bfloat16), _timed_product(torch.float32)
    half_s = single_s = float("inf")
    for done in range(_ROUNDS):
        half_s, single_s = min(half_s, half()), min(single_s, single())
        if done and half_s > _CLEARLY * single_s:
            return False  # without a kernel of its own; each further try would cost as much
    return half_s * 1.3 < single_s


def choose_dtype(wish: str, device: torch.device) -> torch.dtype:
    """Precision of the computation; weights that train stay fp32 whatever it is."""
    if wish != "auto":
        return getattr(torch, wish)  # type: ignore[no-any-return]
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    if device.type == "cpu" and cpu_likes_bfloat16():
        return torch.bfloat16
    return torch.float32


def products_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Measured multiply-adds a second in a linear of common size."""
    if device.type == "cpu":
        product = _timed_product(dtype)
        return _PRODUCT**3 / min(product() for _ in range(4))
    left = torch.randn(4096, 4096, device=device, dtype=dtype)
    torch.nn.functional.linear(left, left)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(5):
        torch.nn.functional.linear(left, left)
    torch.cuda.synchronize()
    return 5 * 4096**3 / (time.perf_counter() - begin)


def reset_peak_memory(device: torch.device) -> None:
    """Let :func:`peak_memory_bytes` begin anew from what is in use now, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Highest use so far: allocated on CUDA, resident set of the process otherwise."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def free_memory_bytes(device: torch.device) -> int:
    """What could still be taken, as far as the system tells; 0 if it does not."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
