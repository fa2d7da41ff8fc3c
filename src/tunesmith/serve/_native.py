"""Our own kernels for a decoding step on a CPU: compiled where they run, kept, and called as C.

The source is :file:`_step.cpp`. It is compiled for the very processor by the machine's own C++ compiler,
once, into ``$TUNESMITH_CACHE/native``. Where there is none, or ``TUNESMITH_NATIVE=0`` is set, everything
runs on the library's kernels, more slowly.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.atomic import write_bytes
from tunesmith.data.encode import cache_folder
from tunesmith.serve._openmp import path_of_openmp

_LOG = logging.getLogger(__name__)
_SOURCE = Path(__file__).with_name("_step.cpp")
_HEADERS = tuple(_SOURCE.with_name(name) for name in ("_step.h", "_pick.h"))
# No fast mathematics as a whole: what is no number has to stay none, and -inf is used.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
_PATIENCE_S = 120
LANES = 16
"""Sizes have to be multiples of it."""


class ProductStruct(ctypes.Structure):
    """``Product`` of the source."""

    _fields_ = [("weight", c_void_p), ("scale", c_void_p), ("d", c_int64), ("k", c_int64)]


class NormStruct(ctypes.Structure):
    """``Norm`` of the source."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("eps", c_float)]


@cache
def library() -> Any:
    """The compiled kernels; None where they cannot be had, which the log tells once."""
    if os.environ.get("TUNESMITH_NATIVE", "1") == "0":
        return None
    try:
        return _declared(ctypes.CDLL(str(_compiled())))
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        said = getattr(error, "stderr", None) or str(error)
        reason = said.decode(errors="replace") if isinstance(said, bytes) else said
        _LOG.warning("no kernels of our own, steps take the library's: %s", reason.strip()[:300])
        return None


def _compiled() -> Path:
    """The shared library for this source, compiler and processor; made if it is not there."""
    found = [shutil.which(name) for name in (os.environ.get("CXX"), "g++", "c++") if name]
    compiler = next((one for one in found if one), None)
    if compiler is None or platform.system() != "Linux":
        raise OSError("there is no C++ compiler (g++)")
    source = b"".join(one.read_bytes() for one in (_SOURCE, *_HEADERS))
    openmp = path_of_openmp()
    told = [compiler, _version(compiler), _processor(), str(openmp), *_FLAGS]
    key = hashlib.sha256(source + "\0".join(told).encode()).hexdigest()[:24]
    path = cache_folder() / "native" / f"step-{key}.so"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            part, whole = Path(folder) / "step.o", Path(folder) / "step.so"
            _call([compiler, *_FLAGS, "-fopenmp", "-c", str(_SOURCE), "-o", str(part)])
            linked = ["-fopenmp"] if openmp is None else [openmp]
            _call([compiler, "-shared", str(part), *linked, "-o", str(whole)])
            write_bytes(path, whole.read_bytes())
        path.chmod(0o755)
    kept = path.stat()
    if kept.st_uid not in (0, os.getuid()) or kept.st_mode & 0o022:
        raise OSError(f"{path} belongs to others, or they may write it")
    return path


def _call(command: list[str]) -> str:
    made = subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE_S)
    return made.stdout.decode(errors="replace")


def _version(compiler: str) -> str:
    return _call([compiler, "--version"])


def _processor() -> str:
    """What decides which instructions there are: a folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(named)))


def _declared(kernels: Any) -> Any:
    number, place = c_int64, c_void_p
    kernels.tunesmith_int8.restype = c_int64
    for name, arguments in {
        "product": (place, place, place, number, place, number, c_int),
        "embed": (place, place, place),
        "norm": (place, place, place, number, number),
        "activate": (place, number, number),
        "attend": (place, number, place, place, place, c_int),
        "attend_text": (place, number, place, number, place, c_int),
        "choose": (place, place, *[number] * 4, *[place] * 5, number, c_int),
        "step": (place, place, place, number, place, c_int),
    }.items():
        function = getattr(kernels, f"tunesmith_{name}")
        function.restype, function.argtypes = None, arguments
    return kernels


class NativeProduct:
    """``y = W x`` for an even number of rows, each of which comes out the same whatever the others are.

    In 8 bits, weights are scaled by output and inputs by row, both symmetric, to 127 steps a side.

    Args:
        weight: ``[d, k]`` float32, read in place where it is not rounded.
        int8: multiply in 8 bits.

    Attributes:
        struct: what the source calls a product.
    """

    def __init__(self, weight: Tensor, *, int8: bool) -> None:
        self.outputs, self.inputs = weight.shape
        self._held = blocks(weight) if int8 else (weight,)
        where = [one.data_ptr() for one in self._held]
        self.struct = ProductStruct(where[0], where[1] if int8 else None, *weight.shape)
        self._address = ctypes.addressof(self.struct)

    def __call__(self, x: Tensor) -> Tensor:
        """``[R, k]`` to ``[R, d]``.

        Raises:
            ValueError: x is not that, in float32 on the CPU with an even R: the source reads what it is given.
        """
        fits = x.dtype == torch.float32 and x.device.type == "cpu" and x.dim() == 2
        if not fits or x.shape[1] != self.inputs or len(x) % 2:
            raise ValueError(
                f"rows {list(x.shape)} of {x.dtype}, where an even number of {self.inputs} fits"
            )
        x, rows, threads = x.contiguous(), len(x), torch.get_num_threads()
        y = x.new_empty(rows, self.outputs)
        room = room_of(rows, self.inputs)
        scratch = x.new_empty(threads * room)
        library().tunesmith_product(
            self._address, x.data_ptr(), y.data_ptr(), rows, scratch.data_ptr(), room, threads
        )
        return y


def room_of(rows: int, inputs: int) -> int:
    """Numbers of float32 that a thread needs to round the inputs of a product."""
    return -(-(3 * rows + rows * inputs // 4) // LANES) * LANES


def native_product(weight: Tensor, *, int8: bool) -> NativeProduct | None:
    """The product, where this machine and this weight are what it is for."""
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()
    if not fits or any(size % LANES for size in weight.shape):
        return None
    kernels = library()
    if kernels is None or (int8 and not kernels.tunesmith_int8()):
        return None
    return NativeProduct(weight.detach(), int8=int8)


@torch.no_grad()
def blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``[d/16, k/4, 16, 4]`` uint8 of w + 128, and the scale ``[d]`` of each output."""
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    rounded = (weight / scale[:, None]).round().add_(128).to(torch.uint8)
    d, k = weight.shape
    laid = rounded.view(d // 16, 16, k // 4, 4).transpose(1, 2).contiguous()
    return laid, scale


__all__ = [
    "LANES",
    "NativeProduct",
    "NormStruct",
    "ProductStruct",
    "blocks",
    "library",
    "native_product",
    "room_of",
]
