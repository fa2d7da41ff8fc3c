"""Tunesmith adapts pre-trained audio generation models to someone's own recordings.

What the command line does, a few lines of Python do as well::

    import tunesmith

    tunesmith.prepare("recordings/", "data/", **tunesmith.limits("pocket"))
    print(tunesmith.check("data/", "lora").verdict)
    result = tunesmith.train(base="pocket", method="lora", data="data/", out="runs/mine")
    model = tunesmith.open("pocket", adapter="runs/mine")
    for take in model.generate(["slow blues, electric guitar"], duration_s=4.0):
        tunesmith.write_sound(f"{take.seed}.wav", take.audio)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

# Imported by PEFT wherever it is installed, it reports kernels that are missing before any is wanted.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tunesmith.api import (
        Model,
        blend,
        check,
        evaluate,
        extract,
        limits,
        merge,
        open,
        prepare,
        read_sound,
        train,
        write_sound,
    )

__all__ = [
    "Model",
    "__version__",
    "blend",
    "check",
    "evaluate",
    "extract",
    "limits",
    "merge",
    "open",
    "prepare",
    "read_sound",
    "train",
    "write_sound",
]


def __getattr__(name: str) -> Any:
    # Importing the package stays instant; torch comes with the first function that is used.
    if name in __all__:
        from tunesmith import api

        return getattr(api, name)
    raise AttributeError(f"module 'tunesmith' has no attribute '{name}'")
