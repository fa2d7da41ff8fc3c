"""The threads that torch computes with on a CPU, which OpenMP keeps for each thread that asks for some."""

from __future__ import annotations

import ctypes
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch

_LOG = logging.getLogger(__name__)
_NAMED = re.compile(r"\S*/lib(?:gomp|iomp5|omp)[^/]*\.so\S*")
_SOFT = 1  # omp_pause_soft: what was set stays


def path_of_openmp() -> str | None:
    """The library that torch has loaded: one more beside it would keep threads of its own."""
    torch.get_num_threads()
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    found = _NAMED.findall(mapped)
    return found[0] if found else None


def rest() -> None:
    """Let go of the threads that are kept for this one; they come back when it computes again.

    While two threads of a process keep some, there are more than processors, and GNU's OpenMP puts each
    to sleep wherever it waits for another: a decoding step took twice as long in an engine's thread as
    in the one that had loaded the model, because of what that one kept.
    """
    pause = _pause()
    if pause is not None:
        pause(_SOFT)


@cache
def _pause() -> Any:
    path = path_of_openmp()
    try:
        return None if path is None else ctypes.CDLL(path).omp_pause_resource_all
    except (OSError, AttributeError) as error:  # before OpenMP 5.0
        _LOG.debug("threads of OpenMP cannot be let go: %s", error)
        return None


__all__ = ["path_of_openmp", "rest"]
