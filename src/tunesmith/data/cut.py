"""One recording becomes clips on disk, and a record of what was done.

The record is written last, after every clip has reached the disk: where it stands, the recording is
finished, and a run that was killed does not do it again.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tunesmith.data.atomic import disk_error, json_line, sync_folder, write_bytes
from tunesmith.data.segment import Segmenter
from tunesmith.data.sources import BadRecording, Limits, Recording

PIPELINE = 1
"""Raised when the same sound and settings begin to give other clips."""

_FULL_16 = 32767 / 32768


@dataclass(frozen=True, slots=True)
class CutSettings:
    """What the clips of a recording depend on, besides its content.

    Attributes:
        sample_rate_hz, channels: of the clips; ``None`` keeps the recording's own.
        min_s, max_s: bounds of a clip.
        limits: what a recording may be.
    """

    sample_rate_hz: int | None
    channels: int | None
    min_s: float
    max_s: float
    limits: Limits = Limits()  # noqa: RUF009 - frozen

    def key(self, sha256: str) -> str:
        """Name of a recording's staged work: its content and these settings, hashed."""
        text = json.dumps([PIPELINE, sha256, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class CutClip:
    """A clip as staged.

    Attributes:
        file: name in the recording's staging folder.
        sha256, size_bytes: of that file.
        start_s, duration_s: where it was cut.
        gain_db: what was taken away so that nothing clips; 0 for most.
        sample_rate_hz, channels: of the file.
    """

    file: str
    sha256: str
    size_bytes: int
    start_s: float
    duration_s: float
    gain_db: float
    sample_rate_hz: int
    channels: int


@dataclass(frozen=True, slots=True)
class CutRecord:
    """What became of one recording.

    Attributes:
        clips: in order.
        rejected: (start_s, reason) of what became no clip.
        decoded_s: how much sound there was.
    """

    clips: tuple[CutClip, ...]
    rejected: tuple[tuple[float, str], ...]
    decoded_s: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> CutRecord:
        """Errors: KeyError, TypeError or ValueError for anything but a record."""
        return CutRecord(
            tuple(CutClip(**clip) for clip in value["clips"]),
            tuple((float(at), str(reason)) for at, reason in value["rejected"]),
            float(value["decoded_s"]),
        )


def read_record(folder: Path) -> CutRecord | None:
    """The record of a staging folder, if the work there is complete."""
    try:
        record = CutRecord.from_json(json.loads((folder / "record.json").read_bytes()))
        whole = all((folder / clip.file).stat().st_size == clip.size_bytes for clip in record.clips)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def cut(
    path: Path,
    folder: Path,
    settings: CutSettings,
    on_clip: Callable[[float], None] = lambda share: None,
) -> CutRecord:
    """Cuts one recording into FLAC clips in ``folder``, and writes the record.

    A recording that turns out bad, wherever in it, gives a record with no clip and one reason.

    Args:
        path: the recording.
        folder: its staging folder; what a killed run left there is removed.
        settings: what to make.
        on_clip: called after each clip with the share of the recording that is done; whatever it
            raises ends the work, without a record.

    Errors: :class:`~tunesmith.errors.UserError` when ``folder`` cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise disk_error(error, folder) from error
    try:
        record = _cut(path, folder, settings, on_clip)
    except BadRecording as error:
        for clip in folder.glob("*.flac"):
            clip.unlink()
        record = CutRecord((), ((0.0, str(error)),), 0.0)
    sync_folder(folder)
    write_bytes(folder / "record.json", json_line(record.to_json()).encode())
    sync_folder(folder)
    return record


def _cut(
    path: Path, folder: Path, settings: CutSettings, on_clip: Callable[[float], None]
) -> CutRecord:
    clips: list[CutClip] = []
    rejected: list[tuple[float, str]] = []
    frames = 0
    with Recording(
        path,
        sample_rate_hz=settings.sample_rate_hz,
        channels=settings.channels,
        limits=settings.limits,
    ) as recording:
        rate = recording.sample_rate_hz
        segmenter = Segmenter(rate, settings.min_s, settings.max_s)

        def keep(pieces) -> None:
            nonlocal frames
            for piece in pieces:
                frames += len(piece.samples)
                start_s = round(piece.start / rate, 6)
                if piece.reason:
                    rejected.append((start_s, piece.reason))
                    continue
                name = f"{len(clips):05d}.flac"
                data, gain_db = flac(piece.samples, rate, recording.bits)
                write_bytes(folder / name, data)
                clips.append(
                    CutClip(
                        file=name,
                        sha256=hashlib.sha256(data).hexdigest(),
                        size_bytes=len(data),
                        start_s=start_s,
                        duration_s=round(len(piece.samples) / rate, 6),
                        gain_db=gain_db,
                        sample_rate_hz=rate,
                        channels=recording.channels,
                    )
                )
                on_clip(recording.done)

        for block in recording.blocks():
            keep(segmenter.push(block))
        keep(segmenter.finish())
    return CutRecord(tuple(clips), tuple(rejected), frames / rate)


def flac(samples: np.ndarray, sample_rate_hz: int, bits: int) -> tuple[bytes, float]:
    """Encodes a clip; one that would clip is turned down just so far that it does not.

    Args:
        samples: float32 ``[T, C]``.
        sample_rate_hz: of the samples.
        bits: 16 or 24. What came from as many bits comes back exactly.

    Returns:
        The file, and the gain in dB (0 or less).

    Errors: :class:`BadRecording` if FLAC cannot hold such sound.
    """
    top = _FULL_16 if bits == 16 else 8388607 / 8388608
    highest, lowest = float(samples.max()), float(samples.min())
    gain = min(1.0, top / highest if highest > top else 1.0, -1 / lowest if lowest < -1 else 1.0)
    # Not left to libsndfile: it scales floats by 32767, which changes every 16-bit sample.
    if bits == 16:
        whole = np.rint(samples.astype(np.float64) * (gain * 32768))
        data = np.clip(whole, -32768, 32767).astype(np.int16)
    else:
        whole = np.rint(samples.astype(np.float64) * (gain * 8388608))
        data = np.clip(whole, -8388608, 8388607).astype(np.int32) << 8
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, data, sample_rate_hz, format="FLAC", subtype=f"PCM_{bits}")
    except (RuntimeError, ValueError) as error:
        raise BadRecording(f"cannot be kept as FLAC: {error}") from None
    return buffer.getvalue(), round(20 * math.log10(gain), 3) if gain < 1 else 0.0
