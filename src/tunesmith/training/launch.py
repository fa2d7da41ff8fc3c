"""What a launcher says of the processes that it started: ``torchrun`` and ``accelerate launch`` set these.

Without torch: the command line asks before anything heavy is imported.
"""

from __future__ import annotations

import os
import sys
import time

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that a launcher sets; all of them, or this is one process on its own."""

_GRACE_S = 20.0
"""A process waits so long for the first one to tell what is wrong, and for the launcher to end it."""


def _launched() -> bool:
    return all(os.environ.get(name) for name in NAMES)


if _launched():
    # Torch's C++ side has warnings of its own, in every process and with stack traces, about what is
    # dealt with here. It reads this when it is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if _launched() else 1


def rank() -> int:
    """Which of them this one is."""
    return int(os.environ["RANK"]) if _launched() else 0


def local_rank() -> int:
    """Which of those on this machine."""
    return int(os.environ["LOCAL_RANK"]) if _launched() else 0


def leads() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def tells() -> bool:
    """Whether this process is the one to print how a run ended: one of them does, once.

    While they are connected, it is whoever asks first. Before that a mistake is most likely everyone's,
    so the others leave it to the first one, and wait for the launcher to end them.
    """
    if world_size() == 1:
        return True
    processes = sys.modules.get("tunesmith.training.processes")
    if processes is not None and (connected := processes.connected()) is not None:
        return connected.first_to_tell()
    if not leads():
        time.sleep(_GRACE_S)
    return True


__all__ = ["NAMES", "leads", "local_rank", "rank", "tells", "world_size"]
