"""Where a data set grows until it is whole: a folder beside its destination."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from tunesmith.atomic import disk_error, sync_folder
from tunesmith.errors import UserError

_LOCK_TRIES, _LOCK_WAIT_S = 30, 0.1


class Staging:
    """The folder beside DEST where work is kept, and the exchange of the two.

    Only one run at a time may hold it.
    """

    def __init__(self, dest: Path) -> None:
        self.dest = dest
        self.path = dest.with_name(f".{dest.name}.partial")
        self.built = self.path / "built"
        self._old = dest.with_name(f".{dest.name}.old")
        self._lock_path = self.path / "lock"
        self.lock = -1

    def is_left_over(self) -> bool:
        """Whether an earlier run did not come to its end."""
        return self.path.exists() or self._old.exists()

    def __enter__(self) -> Staging:
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self.lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise disk_error(error, self.path) from error
            _lock(self.lock, self.dest)
            # The run that held it may have finished meanwhile, and removed the file.
            try:
                if os.path.samestat(os.fstat(self.lock), os.stat(self._lock_path)):
                    break
            except FileNotFoundError:
                pass
            os.close(self.lock)
        # A run killed between the two renames of publish() has left no DEST.
        if self._old.exists() and not self.dest.exists():
            os.rename(self._old, self.dest)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            shutil.rmtree(self._old, ignore_errors=True)
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)

    def publish(self) -> None:
        """Puts what was built in DEST's place."""
        try:
            shutil.rmtree(self._old, ignore_errors=True)
            if self.dest.exists():
                os.rename(self.dest, self._old)
            os.rename(self.built, self.dest)
        except OSError as error:
            raise disk_error(error, self.dest) from error
        sync_folder(self.dest.parent)


def _lock(handle: int, dest: Path) -> None:
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows: two runs at once are the user's affair
        return
    for attempt in range(_LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            # The workers of a run that has just been killed need a moment to notice.
            time.sleep(_LOCK_WAIT_S if attempt + 1 < _LOCK_TRIES else 0)
    os.close(handle)
    raise UserError(f"another run is preparing {dest}", "wait for it, or choose another folder")
