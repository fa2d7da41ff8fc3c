"""One recording becomes clips on disk, measured and screened, and a record of what was done.

The record is written last, after every clip has reached the disk: where it stands, the recording is
finished, and a run that was killed does not do it again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.analysis.facts import SURE_TEMPO, Facts, measure
from tunesmith.analysis.faults import Fault, bandwidth_hz, find_faults
from tunesmith.analysis.fingerprint import fingerprint
from tunesmith.analysis.rhythm import find_beats
from tunesmith.atomic import disk_error, json_line, sync_folder, write_bytes
from tunesmith.data import voice_faults
from tunesmith.data.conform import conform, flac, normalising_gain_db
from tunesmith.data.recording import BadRecording, Limits, Recording
from tunesmith.data.segment import Piece, Segmenter
from tunesmith.data.voice_segment import SpokenPiece, SpokenPieces
from tunesmith.data.words import facts_follow

PIPELINE = 2
"""Raised when the same sound and settings begin to give other clips."""

RECORD = "record.json"
"""Written last into a recording's staging folder."""


@dataclass(frozen=True, slots=True)
class CutSettings:
    """What the clips of a recording depend on, besides its content.

    Attributes:
        sample_rate_hz, channels: of the clips; ``None`` keeps the recording's own.
        min_s, max_s: bounds of a clip.
        on_beats: cut just before a beat where a pulse is clear.
        normalise_lufs: loudness that every clip is brought to; ``None`` leaves them as they are.
        keep: names of faults that do not keep a clip out.
        variants: further versions of each clip, varied by ``operations`` and drawn from ``seed``.
        limits: what a recording may be.
        voice: it is speech: cut at pauses, and screen as :mod:`tunesmith.data.voice_faults` does.
    """

    sample_rate_hz: int | None
    channels: int | None
    min_s: float
    max_s: float
    on_beats: bool = True
    normalise_lufs: float | None = None
    keep: tuple[str, ...] = ()
    variants: int = 0
    operations: tuple[str, ...] = ()
    seed: int = 0
    limits: Limits = Limits()  # noqa: RUF009 - frozen
    voice: bool = False

    def key(self, sha256: str) -> str:
        """Name of a recording's staged work: its content and these settings, hashed."""
        text = json.dumps([PIPELINE, sha256, self.to_json()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``voice`` only where it is so, or the clips of music would change their names."""
        value = asdict(self)
        return value if self.voice else {name: v for name, v in value.items() if name != "voice"}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CutSettings:
        """The settings that :meth:`to_json` wrote."""
        tuples = {name: tuple(value[name]) for name in ("keep", "operations")}
        return CutSettings(**{**value, **tuples, "limits": Limits(**value["limits"])})


@dataclass(frozen=True, slots=True)
class CutClip:
    """A clip as staged.

    Attributes:
        file: name in the recording's staging folder.
        sha256, size_bytes: of that file.
        start_s, duration_s: where it was cut.
        gain_db: by how much it was turned up or down; 0 for most.
        sample_rate_hz, channels: of the file.
        facts: what was measured, of the file as it is.
        bandwidth_hz: where the recording's sound ends here, before any resampling.
        fingerprint: base64; empty where there is too little to tell it by.
        faults: those that it is kept in spite of.
        variant_of: for a varied version, the file that it was made from.
        operations: what was done to it then.
        voice: what was measured of speech (:func:`tunesmith.data.voice_faults.measures`); empty of music.
    """

    file: str
    sha256: str
    size_bytes: int
    start_s: float
    duration_s: float
    gain_db: float
    sample_rate_hz: int
    channels: int
    facts: Facts
    bandwidth_hz: float
    fingerprint: str
    faults: tuple[Fault, ...] = ()
    variant_of: str = ""
    operations: Mapping[str, float] = field(default_factory=dict)
    voice: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CutClip:
        faults = tuple(Fault(**fault) for fault in value["faults"])
        return CutClip(**{**value, "facts": Facts.from_json(value["facts"]), "faults": faults})


@dataclass(frozen=True, slots=True)
class Refused:
    """A stretch of a recording that became no clip.

    Attributes:
        start_s: where it begins.
        reason: one line.
        fault: short name of the reason; empty where the recording could not be read at all.
        figure, unit: what was measured; ``None`` where there is nothing to measure.
    """

    start_s: float
    reason: str
    fault: str = ""
    figure: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class CutRecord:
    """What became of one recording.

    Attributes:
        clips: in order, each followed by its variants.
        refused: what became no clip.
        decoded_s: how much sound there was.
        lossy: whether it was stored by a codec that loses something.
    """

    clips: tuple[CutClip, ...]
    refused: tuple[Refused, ...]
    decoded_s: float
    lossy: bool = False

    @staticmethod
    def unusable(reason: str) -> CutRecord:
        """The record of a recording that gave nothing."""
        return CutRecord((), (Refused(0.0, reason),), 0.0)

    def to_json(self) -> dict[str, Any]:
        rows = []
        for clip in self.clips:
            row = {name: getattr(clip, name) for name in CutClip.__slots__}
            row |= {"facts": clip.facts.to_json(), "faults": [asdict(one) for one in clip.faults]}
            row |= {"operations": dict(clip.operations), "voice": dict(clip.voice)}
            rows.append(row if clip.voice else {k: v for k, v in row.items() if k != "voice"})
        return {
            "clips": rows,
            "refused": [asdict(one) for one in self.refused],
            "decoded_s": self.decoded_s,
            "lossy": self.lossy,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CutRecord:
        """Errors: KeyError, TypeError or ValueError for anything but a record."""
        return CutRecord(
            tuple(CutClip.from_json(clip) for clip in value["clips"]),
            tuple(Refused(**one) for one in value["refused"]),
            float(value["decoded_s"]),
            bool(value["lossy"]),
        )


def read_record(folder: Path) -> CutRecord | None:
    """The record of a staging folder, if the work there is complete."""
    try:
        record = CutRecord.from_json(json.loads((folder / RECORD).read_bytes()))
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
        record = CutRecord.unusable(str(error))
    sync_folder(folder)
    value = record.to_json()
    write_bytes(folder / RECORD, json_line(value).encode())
    sync_folder(folder)
    # Rounded as it was written: a run that goes on from the file must decide the same.
    return CutRecord.from_json(value)


def _cut(
    path: Path, folder: Path, settings: CutSettings, on_clip: Callable[[float], None]
) -> CutRecord:
    clips: list[CutClip] = []
    refused: list[Refused] = []
    frames = originals = 0
    with Recording(path, limits=settings.limits) as recording:
        rate = recording.sample_rate_hz
        spoken = None
        if settings.voice:
            spoken = SpokenPieces(path, recording, settings.min_s, settings.max_s, settings.limits)
        for piece in spoken or _pieces(recording, settings):
            frames += len(piece.samples)
            heard: dict[str, float] = {}
            if isinstance(piece, SpokenPiece) and not piece.reason:
                heard = voice_faults.measures(piece, rate)
            faults = _faults(piece, rate, settings, heard)
            against = [fault for fault in faults if fault.name not in settings.keep]
            if against:
                start_s = round(piece.start / rate, 6)
                refused += [Refused(start_s, f.reason, f.name, f.figure, f.unit) for f in against]
                continue
            made = _clips(piece, faults, recording, settings, f"{originals:05d}", heard)
            originals += 1
            for data, clip in made:
                write_bytes(folder / clip.file, data)
                clips.append(clip)
            on_clip(recording.done)
    decoded_s = frames / rate if spoken is None else spoken.decoded_s
    return CutRecord(tuple(clips), tuple(refused), decoded_s, recording.lossy)


def _pieces(recording: Recording, settings: CutSettings) -> Iterator[Piece]:
    beats = _beat_times if settings.on_beats else None
    segmenter = Segmenter(recording.sample_rate_hz, settings.min_s, settings.max_s, beats)
    for block in recording.blocks():
        yield from segmenter.push(block)
    yield from segmenter.finish()


def _beat_times(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray | None:
    beats = find_beats(samples, sample_rate_hz)
    # A beat that is not there would be a worse place to cut than a quiet one.
    return beats.times_s if beats is not None and beats.confidence >= SURE_TEMPO else None


def _faults(
    piece: Piece, rate: int, settings: CutSettings, heard: Mapping[str, float]
) -> list[Fault]:
    # What is too short to be a clip is none, whatever is kept; `keep` never holds its name.
    if piece.reason and piece.fault not in settings.keep:
        return [Fault(piece.fault, piece.figure, piece.unit, piece.reason)]
    found = find_faults(piece.samples, rate)
    if heard:
        found += voice_faults.find(heard, float(bandwidth_hz(piece.samples, rate)), rate)
    return [one for one in found if not _gone(one, settings)]


def _gone(fault: Fault, settings: CutSettings) -> bool:
    """Whether a fault is none for the clips that are made."""
    if fault.name == "mono_as_stereo":
        return settings.channels == 1
    # Where the clips end lower themselves, nothing is missing in them.
    made_hz = settings.sample_rate_hz
    return fault.name == "false_bandwidth" and bool(made_hz) and fault.figure >= 0.4 * made_hz


def _clips(
    piece: Piece,
    faults: list[Fault],
    recording: Recording,
    settings: CutSettings,
    name: str,
    heard: Mapping[str, float],
) -> Iterator[tuple[bytes, CutClip]]:
    """The clip and its variants, each with the bytes of its file.

    Like the faults, bandwidth and fingerprint are taken before channels and rate are changed: mixing down
    hides clipping, and resampling moves the edge of the band.
    """
    source_hz = recording.sample_rate_hz
    rate = settings.sample_rate_hz or source_hz
    band_hz = round(float(bandwidth_hz(piece.samples, source_hz)), 1)
    print_ = b64encode(fingerprint(piece.samples, source_hz)).decode()
    sound = conform(piece.samples, source_hz, settings.sample_rate_hz, settings.channels)
    facts = measure(sound, rate)
    gain_db = normalising_gain_db(
        facts.loudness_lufs, facts.true_peak_dbtp, settings.normalise_lufs
    )
    data, gain_db = flac(sound, rate, recording.bits, gain_db)
    original = CutClip(
        file=f"{name}.flac",
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        start_s=round(piece.start / source_hz, 6),
        duration_s=round(len(sound) / rate, 6),
        gain_db=gain_db,
        sample_rate_hz=rate,
        channels=sound.shape[1],
        facts=_louder(facts, gain_db),
        bandwidth_hz=band_hz,
        fingerprint=print_,
        faults=tuple(faults),
        voice=heard,
    )
    yield data, original
    for number in range(1, settings.variants + 1):
        yield _variant(sound, original, recording.bits, settings, number)


def _variant(
    sound: np.ndarray, original: CutClip, bits: int, settings: CutSettings, number: int
) -> tuple[bytes, CutClip]:
    from tunesmith.data.augment import vary

    rate = original.sample_rate_hz
    drawn = hashlib.sha256(f"{settings.seed}:{original.sha256}:{number}".encode()).digest()
    turned = sound * np.float32(10 ** (original.gain_db / 20)) if original.gain_db else sound
    varied = vary(
        turned,
        rate,
        settings.operations,
        int.from_bytes(drawn[:4], "little"),
        min_s=settings.min_s,
        max_s=settings.max_s,
    )
    data, gain_db = flac(varied.samples, rate, bits)
    # Tempo and key are known from what was done; heard anew they might come out otherwise.
    followed = facts_follow(
        original.facts,
        pitch_semitones=varied.operations.get("pitch_semitones", 0.0),
        stretch=varied.operations.get("tempo_factor", 1.0),
    )
    heard = _louder(measure(varied.samples, rate), gain_db)
    facts = replace(
        heard,
        tempo_bpm=followed.tempo_bpm,
        tempo_confidence=followed.tempo_confidence,
        key=followed.key,
        key_confidence=followed.key_confidence,
    )
    return data, replace(
        original,
        file=original.file.replace(".flac", f"-v{number}.flac"),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        duration_s=round(len(varied.samples) / rate, 6),
        gain_db=gain_db,
        facts=facts,
        variant_of=original.file,
        operations=varied.operations,
    )


def _louder(facts: Facts, gain_db: float) -> Facts:
    if not gain_db:
        return facts
    loudness = facts.loudness_lufs
    return replace(
        facts,
        loudness_lufs=None if loudness is None else loudness + gain_db,
        true_peak_dbtp=facts.true_peak_dbtp + gain_db,
    )
