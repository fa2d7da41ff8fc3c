"""Training: the loop, its sampler, checkpoints and log.

``tunesmith.train(...)`` is the public function, and this folder has its name. So the folder can be
called: what a caller gets does not depend on which of the two was imported first.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        """See :func:`tunesmith.train.start.train`."""
        from tunesmith.train.start import train

        return train(*args, **settings)


sys.modules[__name__].__class__ = _Callable
