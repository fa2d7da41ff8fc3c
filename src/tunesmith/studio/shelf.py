"""Sounds and reports that the page may ask for, by keys that only the studio gives out.

No path ever comes from a browser: what is not on the shelf cannot be fetched.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import soundfile

from tunesmith.errors import UserError

_MOST = 20_000
_PLAYED = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
}
"""What browsers play as it is."""


@dataclass(frozen=True, slots=True)
class Lent:
    """Something on the shelf.

    Attributes:
        kind: what it is.
        path: its file.
        start_s: where a stretch begins.
        length_s: how long it is; 0 is the whole file.
    """

    kind: Literal["sound", "page"]
    path: Path
    start_s: float = 0.0
    length_s: float = 0.0


class Shelf:
    """What is lent. The same file has the same address as long as it does not change."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._lent: dict[str, Lent] = {}
        self._lock = threading.Lock()

    def sound(self, path: str | Path, start_s: float = 0.0, length_s: float = 0.0) -> str:
        """The address of a sound, or of a stretch of it; empty if the file is not there."""
        return self._put(Lent("sound", Path(path), start_s, length_s))

    def page(self, path: str | Path) -> str:
        """The address of a report; empty if the file is not there."""
        return self._put(Lent("page", Path(path)))

    def get(self, kind: str, key: str) -> Lent | None:
        """What lies under a key."""
        found = self._lent.get(key)
        return found if found is not None and found.kind == kind else None

    def _put(self, lent: Lent) -> str:
        try:
            status = lent.path.stat()
        except OSError:
            return ""
        # With its time and size: a browser must not play what it kept of an older file.
        told = f"{lent}{status.st_mtime_ns}{status.st_size}"
        key = hmac.new(self._secret, told.encode(), hashlib.sha256).hexdigest()[:32]
        with self._lock:
            self._lent.pop(key, None)
            self._lent[key] = lent
            while len(self._lent) > _MOST:
                del self._lent[next(iter(self._lent))]
        return f"{lent.kind}/{key}"


def media_type(path: Path) -> str:
    """What a browser is told of a file that it plays as it is; empty if it does not."""
    return _PLAYED.get(path.suffix.lower(), "")


def stretch(lent: Lent) -> bytes:
    """A stretch of a sound as a wav file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with soundfile.SoundFile(lent.path) as file:
            file.seek(min(int(lent.start_s * file.samplerate), file.frames))
            frames = int((lent.length_s or 60.0) * file.samplerate)
            samples = file.read(frames, dtype="float32", always_2d=True)
            rate_hz = file.samplerate
        out = io.BytesIO()
        soundfile.write(out, samples, rate_hz, format="WAV", subtype="PCM_16")
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{lent.path.name} cannot be played ({error})") from None
    return out.getvalue()


__all__ = ["Lent", "Shelf", "media_type", "stretch"]
