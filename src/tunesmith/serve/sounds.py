"""Sounds that clients sent, to be continued or changed: under random names, looked at before they are kept.

No part of a client's words is ever part of a path, and a sound is told by its content alone. Each is a file
and a card beside it; the card is written last, so that what a death of the server left half done is known.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from tunesmith.atomic import disk_error, sync_folder, write_json
from tunesmith.data.recording import BadRecording, Recording
from tunesmith.data.recording import Limits as RecordingLimits
from tunesmith.errors import UserError
from tunesmith.serve.limits import Limits
from tunesmith.serve.refusals import Busy, TooLarge, UnknownSound

FOLDER = "sounds"
_CARD, _SOUND = (
    ".json",
    ".sound",
)  # no suffix of a format: only libsndfile is to read it, by content
_BLOCK = 1 << 20
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound that was sent.

    Attributes:
        id: opaque; 32 hexadecimal digits.
        bytes: of the file, as it was sent.
        frames, sample_rate_hz, channels: as decoded.
        sha256: of the file.
        made_at: seconds since 1970.
    """

    id: str
    bytes: int
    frames: int
    sample_rate_hz: int
    channels: int
    sha256: str
    made_at: float

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate_hz


class Sounds:
    """The sounds of one server; safe to use from several threads.

    Args:
        kept: a folder of the server's own.
        limits: how large they may be, how many, and for how long.
    """

    def __init__(self, kept: str | Path, limits: Limits) -> None:
        self.folder, self._limits = Path(kept) / FOLDER, limits
        self._lock = threading.Lock()
        self._known: dict[str, Sound] = {}
        self._used: dict[str, float] = {}  # when each was asked for last
        self._coming = self._coming_bytes = 0
        self._restore()

    def _restore(self) -> None:
        if not self.folder.is_dir():
            return
        for card in self.folder.glob(f"*{_CARD}"):
            with suppress(OSError, ValueError, TypeError):
                sound = Sound(**json.loads(card.read_text(encoding="utf-8")))
                if sound.id == card.stem and self._file(sound.id).stat().st_size == sound.bytes:
                    self._known[sound.id] = sound
                    self._used[sound.id] = self._file(sound.id).stat().st_mtime
        for path in self.folder.iterdir():
            if path.stem not in self._known or path.suffix not in (_CARD, _SOUND):
                with suppress(OSError):
                    path.unlink()

    def _file(self, id: str) -> Path:
        return self.folder / f"{id}{_SOUND}"

    def add(self, stream: BinaryIO) -> Sound:
        """Keep a sound, if it is one.

        Args:
            stream: the file.

        Raises:
            TooLarge: it has more bytes, or decodes to more samples, than are taken.
            Busy: as many are kept as may be.
            UserError: it is no sound, torn, or of a format that is not taken.
            ResourceError: the disk is full.
        """
        size = stream.seek(0, os.SEEK_END)
        if size > self._limits.upload_bytes:
            raise TooLarge(
                f"{size} bytes", f"at most {self._limits.upload_bytes} are taken; send flac or mp3"
            )
        self.sweep()
        with self._lock:
            self._check_room(size)
            self._coming += 1
            self._coming_bytes += size
        try:
            return self._added(stream, size)
        finally:
            with self._lock:
                self._coming -= 1
                self._coming_bytes -= size

    def _check_room(self, size: int) -> None:
        count = len(self._known) + self._coming
        total = sum(one.bytes for one in self._known.values()) + self._coming_bytes
        if count < self._limits.uploads and total + size <= self._limits.uploads_bytes:
            return
        oldest = min(self._used.values(), default=time.time())
        raise Busy(
            f"{count} sounds of {total} bytes are kept, and there is no room for more: delete one",
            oldest + self._limits.upload_age_s - time.time(),
        )

    def _added(self, stream: BinaryIO, size: int) -> Sound:
        id = secrets.token_hex(16)
        file = self._file(id)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            digest = _copied(stream, file)
            sound = Sound(id, size, *self._heard(file), digest, time.time())
            with self._lock:
                write_json(file.with_suffix(_CARD), asdict(sound))
                sync_folder(self.folder)
                self._known[id], self._used[id] = sound, sound.made_at
            return sound
        except OSError as error:
            self._unlink(id)
            raise disk_error(error, Path("the sound")) from error
        except BaseException:
            self._unlink(id)
            raise

    def _heard(self, file: Path) -> tuple[int, int, int]:
        """``(frames, rate, channels)``, of all of it decoded: a header may say anything."""
        most, frames = self._limits.upload_samples, 0
        limits = RecordingLimits(max_channels=2, max_sample_rate_hz=192_000)
        try:
            with Recording(file, limits=limits) as recording:
                if recording.sample_rate_hz < 8_000:
                    raise BadRecording(f"has {recording.sample_rate_hz} Hz, 8000 are the least")
                for block in recording.blocks():
                    frames += len(block)
                    if frames * recording.channels > most:
                        raise TooLarge(
                            f"it decodes to more than {most} samples", "send the part that matters"
                        )
                return frames, recording.sample_rate_hz, recording.channels
        except BadRecording as error:
            raise UserError(
                f"not a sound that can be used: it {error}", "send wav, flac, ogg or mp3"
            ) from None

    def get(self, id: str) -> Sound:
        """A sound by its id.

        Raises:
            UnknownSound: there is none, or none any more.
        """
        with self._lock:
            sound = self._known.get(id)
        if sound is None or self._expires_at(sound) < time.time():
            raise UnknownSound(id)
        return sound

    def use(self, id: str) -> Sound:
        """The same, and its time begins anew."""
        sound = self.get(id)
        self.keep(id)
        return sound

    def keep(self, id: str) -> None:
        """Let a sound's time begin anew, also if it was over; unknown ones are ignored."""
        now = time.time()
        with self._lock:
            if id in self._known:
                self._used[id] = now
        with suppress(OSError):  # for the next process; this one knows
            os.utime(self._file(id), (now, now))

    def file(self, id: str) -> Path:
        """Where a sound lies.

        Raises:
            UnknownSound: there is none, or none any more.
        """
        return self._file(self.get(id).id)

    def expires_at(self, id: str) -> float:
        """When a sound goes if nobody asks for it, in seconds since 1970."""
        return self._expires_at(self.get(id))

    def _expires_at(self, sound: Sound) -> float:
        return self._used.get(sound.id, 0.0) + self._limits.upload_age_s

    def remove(self, id: str) -> Sound:
        """Forget a sound. A job that waits for it fails; one that has read it goes on.

        Raises:
            UnknownSound: there is none.
        """
        with self._lock:
            sound = self._known.pop(id, None)
            self._used.pop(id, None)
        if sound is None:
            raise UnknownSound(id)
        self._unlink(id)
        return sound

    def sweep(self) -> int:
        """Forget what nobody has asked for in time.

        Returns:
            How many.
        """
        now = time.time()
        with self._lock:
            old = [id for id, one in self._known.items() if self._expires_at(one) < now]
        for id in old:
            with suppress(UnknownSound):
                self.remove(id)
        return len(old)

    def _unlink(self, id: str) -> None:
        for suffix in (_CARD, _SOUND):  # the card first: a file without one is known as nobody's
            try:
                self._file(id).with_suffix(suffix).unlink(missing_ok=True)
            except OSError as error:
                _LOG.warning("a sound that was deleted still lies there: %s", error)


def _copied(stream: BinaryIO, file: Path) -> str:
    """Write a stream to a new file; its SHA-256."""
    digest = hashlib.sha256()
    stream.seek(0)
    with file.open("xb") as target:
        os.fchmod(target.fileno(), 0o600)
        for block in _blocks(stream):
            digest.update(block)
            target.write(block)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


__all__ = ["FOLDER", "Sound", "Sounds"]
