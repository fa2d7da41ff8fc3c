"""``metrics.jsonl``, always; TensorBoard, Weights & Biases and Trackio when asked."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError

_EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


class MetricLog:
    """Appends one JSON object a line.

    Args:
        path: the file.
        offset: where to go on; what a killed run wrote beyond its last checkpoint is cut off, so
            that no step stands twice.
        trackers: further logs by name.
        config: settings, for those.
    """

    def __init__(
        self,
        path: Path,
        offset: int = 0,
        trackers: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        path.touch()
        with path.open("r+b") as stream:
            stream.truncate(min(offset, path.stat().st_size))
        self._stream = path.open("a", encoding="utf-8")
        self._trackers = [_tracker(name, path.parent, config or {}) for name in trackers]

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append ``{"kind", "step", "time", ...}``; what is not finite is left out."""
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        # JSON has no NaN and no infinity; one of them, and other readers refuse the file.
        told = {k: v for k, v in line.items() if not isinstance(v, float) or math.isfinite(v)}
        self._stream.write(json.dumps(told, ensure_ascii=False) + "\n")
        self._stream.flush()
        numbers = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
        for tracker in self._trackers:
            tracker(numbers, step)

    def offset(self) -> int:
        """Bytes written so far."""
        self._stream.flush()
        return self.path.stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class NoLog(MetricLog):
    """That of a process which leaves writing to another one."""

    def __init__(self) -> None:
        return

    def write(self, kind: str, step: int, **values: Any) -> None:
        return

    def offset(self) -> int:
        return 0

    def close(self) -> None:
        return


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line torn by a crash is left out.

    Where a run went back (``rollback``), the steps that it took back are left out, too; what was found
    wrong with them stays.
    """
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if line.get("kind") == "rollback":
            kept = ("pitfall", "rollback")
            lines = [x for x in lines if x["step"] <= line["to"] or x.get("kind") in kept]
        lines.append(line)
    return lines


def check_trackers(names: Sequence[str]) -> None:
    """Raise :class:`UserError` for a log whose package is not installed."""
    import importlib.util

    for name in names:
        module = "torch.utils.tensorboard" if name == "tensorboard" else name
        if importlib.util.find_spec(_EXTRAS[name]) is None:
            raise UserError(
                f"log: {name} needs the package '{module}'", f"pip install {_EXTRAS[name]}"
            )


def _tracker(name: str, folder: Path, config: Mapping[str, Any]) -> Any:
    check_trackers([name])
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder / "tensorboard"))

        def log(values: Mapping[str, float], step: int) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)
            writer.flush()

        return log
    import importlib

    module = importlib.import_module(name)
    run = module.init(project="tunesmith", name=folder.name, config=dict(config))
    return lambda values, step: (
        run.log(dict(values), step=step) if name == "wandb" else run.log(dict(values))
    )
