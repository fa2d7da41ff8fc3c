"""From a folder of recordings to a data set: find, cut, caption, divide, write.

Work is staged beside the destination (``.NAME.partial``) and takes its place by a rename, so that
DEST is always either as it was or complete. A run that was killed goes on where it stopped, and
ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.data import audiofolder
from tunesmith.data.assemble import Found, Settings, assemble
from tunesmith.data.caption import Captions
from tunesmith.data.cut import PIPELINE, CutRecord, CutSettings, read_record
from tunesmith.data.load import is_intact
from tunesmith.data.pool import Job, cut_all, how_many
from tunesmith.data.segment import check_lengths
from tunesmith.data.sources import Rejection, file_sha256, find_recordings
from tunesmith.data.split import split
from tunesmith.data.staging import Staging
from tunesmith.errors import Stopped, UserError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: ``reading`` (hashing the recordings) or ``cutting``.
        done, total: bytes of recordings.
        item: the recording at hand.
    """

    stage: str
    done: float
    total: float
    item: str


@dataclass(frozen=True, slots=True)
class PreparedSummary:
    """What :func:`prepare` made.

    Attributes:
        dest: the data set.
        clips, train, valid: numbers of clips.
        seconds, train_s, valid_s: their lengths.
        recordings: how many of the recordings gave clips.
        rejected: recordings, and pieces of them, that became no clip (``rejected.jsonl``).
        first_rejections: the first ten of them, for a report.
        warnings: one line each.
        unchanged: the data set was there already, and nothing was done.
    """

    dest: Path
    clips: int
    train: int
    valid: int
    seconds: float
    train_s: float
    valid_s: float
    recordings: int
    rejected: int
    first_rejections: tuple[Rejection, ...]
    warnings: tuple[str, ...]
    unchanged: bool = False


def prepare(
    src: str | Path,
    dest: str | Path,
    *,
    sample_rate_hz: int | None = None,
    channels: int | None = None,
    min_s: float = 10.0,
    max_s: float = 30.0,
    base_max_s: float | None = None,
    trigger: str | None = None,
    caption: str | None = None,
    valid_share: float = 0.1,
    seed: int = 0,
    rights: str = "",
    workers: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> PreparedSummary:
    """Turns recordings into a data set that training reads, and `datasets` too.

    Args:
        src: a folder of recordings, or one.
        dest: folder to make. One that :func:`prepare` made before is rebuilt if anything differs.
        sample_rate_hz, channels: of the clips; ``None`` keeps each recording's own.
        min_s, max_s: bounds of a clip's length in seconds.
        base_max_s: what the base model takes at most; lowers ``max_s``, and ``min_s`` to half of
            it, where they are above.
        trigger: rare word put before every caption.
        caption: text for recordings without one of their own.
        valid_share: share of the seconds kept for validation.
        seed: of the division into train and valid.
        rights: what you may do with the recordings; kept in ``dataset.json``.
        workers: processes; 0 works in this one, ``None`` takes what pays.
        on_progress: called now and then.
        should_stop: polled between clips; a signal's number ends the run.

    Errors: :class:`~tunesmith.errors.UserError` for settings or folders that cannot be; bad
    recordings are listed in ``rejected.jsonl`` instead. :class:`~tunesmith.errors.Stopped` when
    asked to stop: running again goes on.
    """
    source_root, dest = Path(src), Path(dest)
    settings, notes = _settings(
        sample_rate_hz, channels, min_s, max_s, base_max_s, trigger, caption, valid_share, seed,
        rights,
    )  # fmt: skip
    if workers is not None and workers < 0:
        raise UserError(f"{workers} workers make no sense", "give 0 or more")
    report = on_progress or (lambda progress: None)
    dest = _destination(source_root, dest)
    sources, refused = find_recordings(source_root, skip=[dest])
    if not sources:
        reason = f" ({refused[0].file}: {refused[0].reason})" if refused else ""
        raise UserError(
            f"no recordings in {source_root}{reason}", "wav, flac, ogg, mp3 and aiff are read"
        )
    captions = Captions(source_root, caption, trigger)
    found: list[Found] = []
    first_with: dict[str, str] = {}
    total, done = float(sum(source.size_bytes for source in sources)), 0.0
    for source in sources:
        _poll(should_stop, "nothing has been written yet; run again to start over")
        report(Progress("reading", done, total, source.name))
        done += source.size_bytes
        try:
            sha256 = file_sha256(source.path)
        except OSError as error:
            refused.append(Rejection(source.name, 0.0, f"cannot be read: {error.strerror}"))
            continue
        if sha256 in first_with:
            # Twice the weight in training, or a leak into validation: neither is wanted.
            reason = f"the same file as {first_with[sha256]}"
            refused.append(Rejection(source.name, 0.0, reason))
            continue
        first_with[sha256] = source.name
        found.append(Found(source, sha256, captions.of(source)))
    fingerprint = _fingerprint(settings, found, refused)
    if _stands(dest, fingerprint) and not Staging(dest).is_left_over():
        return _summary(dest, unchanged=True)
    audiofolder.check_replaceable(dest)
    warnings = [*notes, *captions.warnings]
    with Staging(dest) as staging:
        if _stands(dest, fingerprint):
            return _summary(dest, unchanged=True)
        records = _cut(found, staging, settings.cut, workers, report, should_stop)
        warnings += _unnamed(found, records)
        lengths = {f.sha256: [c.duration_s for c in records[f.sha256].clips] for f in found}
        plan = split(lengths, valid_share, seed)
        warnings += plan.warnings
        _poll(should_stop, "the clips are kept; run again to finish")
        assemble(staging, found, records, plan, refused, warnings, settings, fingerprint)
        staging.publish()
    return _summary(dest)


def _settings(
    sample_rate_hz: int | None,
    channels: int | None,
    min_s: float,
    max_s: float,
    base_max_s: float | None,
    trigger: str | None,
    caption: str | None,
    valid_share: float,
    seed: int,
    rights: str,
) -> tuple[Settings, list[str]]:
    if sample_rate_hz is not None and not 1000 <= sample_rate_hz <= 384_000:
        raise UserError(f"a sample rate of {sample_rate_hz} Hz makes no sense", "give Hz: 44100")
    if channels not in (None, 1, 2):
        raise UserError(f"{channels} channels cannot be made", "give 1 or 2, or leave it out")
    check_lengths(min_s, max_s)
    split({}, valid_share, seed)  # refuses a bad share now rather than after an hour
    notes: list[str] = []
    if base_max_s is not None and (max_s > base_max_s or min_s > base_max_s / 2):
        if not base_max_s > 0 or math.isnan(base_max_s):
            raise UserError(f"a base cannot take at most {base_max_s} s", "give its length")
        max_s, min_s = min(max_s, base_max_s), min(min_s, base_max_s / 2)
        check_lengths(min_s, max_s)
        notes.append(
            f"the base takes at most {base_max_s:g} s: clips are {min_s:g} to {max_s:g} s long"
        )
    return Settings(
        cut=CutSettings(sample_rate_hz, channels, float(min_s), float(max_s)),
        trigger=trigger or "",
        caption=caption or "",
        valid_share=float(valid_share),
        seed=int(seed),
        rights=rights,
    ), notes


def _destination(src: Path, dest: Path) -> Path:
    # A link to a folder on another disk: the work is staged there, not beside the link.
    real = dest.resolve()
    source = src.resolve()
    if real == source or real in source.parents:
        raise UserError(
            f"{dest} would replace the recordings in {src}",
            "choose another folder for the data set",
        )
    if not real.name:
        raise UserError(f"{dest} cannot be a data set", "choose a folder with a name")
    return real


def _poll(should_stop: Callable[[], int], state: str) -> None:
    signal_number = int(should_stop() or 0)
    if signal_number:
        raise Stopped(signal_number, f"stopped: {state}")


def _fingerprint(settings: Settings, found: list[Found], refused: list[Rejection]) -> str:
    """Everything that the data set depends on, hashed; no times, no absolute paths."""
    whole = {
        "pipeline": [PIPELINE, audiofolder.FORMAT],
        "settings": asdict(settings),
        "sources": [
            [f.source.name, f.sha256, f.caption.text, f.caption.source, dict(f.caption.extra)]
            for f in found
        ],
        "refused": [[r.file, r.reason] for r in refused],
    }
    text = json.dumps(whole, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _unnamed(found: list[Found], records: dict[str, CutRecord]) -> list[str]:
    """The one line about recordings that were used and have no caption."""
    used = [f for f in found if records[f.sha256].clips]
    named = [f.source.name for f in used if f.caption.source == "name"]
    if not named:
        return []
    return [
        f"{len(named)} of {len(used)} recordings have no caption and are called by their file's "
        f"name ({named[0]}): put x.txt beside x.wav, or give a caption"
    ]


def _stands(dest: Path, fingerprint: str) -> bool:
    described = audiofolder.describe(dest)
    return described is not None and described.get("fingerprint") == fingerprint and is_intact(dest)


def _cut(
    found: list[Found],
    staging: Staging,
    settings: CutSettings,
    workers: int | None,
    report: Callable[[Progress], None],
    should_stop: Callable[[], int],
) -> dict[str, CutRecord]:
    """The records of all recordings, those of an earlier run included; keyed by content."""
    total = float(sum(f.source.size_bytes for f in found))
    records: dict[str, CutRecord] = {}
    todo: list[Found] = []
    done = 0.0
    for item in found:
        record = read_record(staging.path / settings.key(item.sha256))
        if record is None:
            todo.append(item)
        else:
            records[item.sha256] = record
            done += item.source.size_bytes
    jobs = [
        Job(f.source.path, staging.path / settings.key(f.sha256), f.source.size_bytes) for f in todo
    ]
    state = "finished recordings are kept; run again to go on"
    _poll(should_stop, state)
    parts: dict[int, float] = {}
    results = cut_all(jobs, settings, how_many(jobs, workers), staging.lock)
    try:
        for index, share, record in results:
            if index >= 0:
                parts[index] = share * jobs[index].size_bytes
                at = done + sum(parts.values())
                report(Progress("cutting", at, total, todo[index].source.name))
                if record is not None:
                    records[todo[index].sha256] = record
                    done += parts.pop(index) if share == 1.0 else 0.0
            _poll(should_stop, state)
    finally:
        results.close()
    return records


def _summary(dest: Path, unchanged: bool = False) -> PreparedSummary:
    described = audiofolder.describe(dest) or {}
    counts, seconds = described["counts"], described["seconds"]
    with open(dest / "rejected.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(10), file, strict=False)]
    return PreparedSummary(
        dest=dest,
        clips=counts["clips"],
        train=counts["train"],
        valid=counts["valid"],
        seconds=seconds["clips"],
        train_s=seconds["train"],
        valid_s=seconds["valid"],
        recordings=counts["recordings"],
        rejected=counts["rejected"],
        first_rejections=tuple(Rejection(r["file"], r["start_s"], r["reason"]) for r in rows),
        warnings=tuple(described["warnings"]),
        unchanged=unchanged,
    )
