"""From a folder of recordings to a data set: find, cut, screen, divide, caption, write.

Work is staged beside the destination (``.NAME.partial``) and takes its place by a rename, so that
DEST is always either as it was or complete. A run that was killed goes on where it stopped, and
ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data import audiofolder, reuse
from tunesmith.data import voice as voices
from tunesmith.data.assemble import Found, Parts, assemble
from tunesmith.data.caption import Caption, Captions
from tunesmith.data.cut import PIPELINE, CutRecord, CutSettings, read_record
from tunesmith.data.load import is_intact
from tunesmith.data.pool import Job, cut_all, how_many
from tunesmith.data.screen import SAME_FILE, Screened, screen
from tunesmith.data.settings import Settings, check_settings
from tunesmith.data.sources import Rejection, Source, file_sha256, find_recordings
from tunesmith.data.split import SplitPlan, split_groups
from tunesmith.data.staging import Staging
from tunesmith.data.summary import PreparedSummary, summarise
from tunesmith.data.tell import FALLBACK, tell
from tunesmith.errors import Stopped, UserError

if TYPE_CHECKING:
    from tunesmith.captioners import Captioner


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: ``reading`` (hashing the recordings), ``cutting``, ``captioning``, or of voices ``telling
            voices apart`` and ``writing down``.
        done, total: bytes of recordings; recordings while captioning, clips of voices.
        item: the recording at hand.
    """

    stage: str
    done: float
    total: float
    item: str


def prepare(
    src: str | Path,
    dest: str | Path,
    *,
    sample_rate_hz: int | None = None,
    channels: int | None = None,
    min_s: float | None = None,
    max_s: float | None = None,
    base_max_s: float | None = None,
    on_beats: bool = True,
    normalise_lufs: float | None = None,
    keep: Sequence[str] = (),
    augment: Sequence[str] = (),
    variants: int | None = None,
    voice: bool = False,
    trigger: str | None = None,
    caption: str | None = None,
    captioner: str | None = None,
    consent: str | None = None,
    asr: str | None = None,
    language: str | None = None,
    encoder: str | None = None,
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
        min_s, max_s: bounds of a clip's length in seconds; 10 and 30, and 1 and 12 of a voice.
        base_max_s: what the base model takes at most; lowers ``max_s``, and ``min_s`` to half of
            it, where they are above.
        on_beats: cut just before a beat where a pulse is clear, else at quiet places only.
        normalise_lufs: loudness that every clip is brought to, as far as a true peak of -1 dBTP
            allows; ``None`` leaves them as loud as they are.
        keep: faults that do not keep a clip out (:data:`tunesmith.data.screen.FAULTS`, ``all``).
        augment: operations that vary the training clips (:data:`tunesmith.data.augment.OPERATIONS`).
        variants: how many varied versions of each; all operations where none is named.
        voice: the recordings are of a speaking voice: cut at pauses, screened for what spoils voices,
            captioned with what is said, and never varied in pitch (:mod:`tunesmith.data.voice`).
        trigger: rare word put before every caption, or in the place of ``{trigger}`` in it.
        caption: text for recordings without one of their own.
        captioner: model that listens to those that have none: a hub id, a folder, or ``clap``.
        consent: of a voice's owner: who agreed to what; kept in ``dataset.json``. A voice needs it.
        asr: model that writes down what a voice says: a hub id or a folder.
        language: that a voice speaks (``en``), for the recogniser and for its phonemes.
        encoder: embedding that tells voices apart; the first that is installed by default.
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
    settings, notes = check_settings(
        sample_rate_hz=sample_rate_hz,
        channels=channels,
        min_s=min_s,
        max_s=max_s,
        base_max_s=base_max_s,
        on_beats=on_beats,
        normalise_lufs=normalise_lufs,
        keep=keep,
        augment=augment,
        variants=variants,
        voice=voice,
        trigger=trigger,
        caption=caption,
        captioner=captioner,
        valid_share=valid_share,
        seed=seed,
        rights=rights,
        consent=consent,
        asr=asr,
        language=language,
        encoder=encoder,
    )
    if workers is not None and workers < 0:
        raise UserError(f"{workers} workers make no sense", "give 0 or more")
    report = on_progress or (lambda progress: None)
    dest = _destination(source_root, dest)
    sources, refused = find_recordings(source_root, skip=[dest])
    if not sources:
        reason = f" ({refused[0].file}: {refused[0].reason})" if refused else ""
        raise UserError(
            f"no recordings in {source_root}{reason}",
            "wav, flac, ogg, mp3 and aiff are read, and with ffmpeg m4a, video and more",
        )
    # What is said is held against what a recogniser hears; the trigger is no part of it.
    captions = Captions(source_root, caption, None if voice else trigger)
    found = _read(sources, captions, refused, report, should_stop)
    listener = _listener(settings, found)
    ears = voices.open_ears(settings, found) if settings.voice else None
    # Part of the fingerprint, or a caption that is lost to a wrong letter would be lost in silence.
    heeded = [*captions.warnings, *captions.unused(sources)]
    fingerprint = _fingerprint(settings, found, refused, heeded, ears or listener)
    if _stands(dest, fingerprint) and not Staging(dest).is_left_over():
        return summarise(dest, unchanged=True)
    audiofolder.check_replaceable(dest)
    with Staging(dest) as staging:
        if _stands(dest, fingerprint):
            return summarise(dest, unchanged=True)
        keys = [settings.cut.key(item.sha256) for item in found]
        reuse.restore(dest, staging.path, keys)
        records = _cut(found, staging, settings.cut, workers, report, should_stop)
        names = {item.sha256: item.source.name for item in found}
        screened = screen(records, names, settings.cut.keep)
        heard: voices.Heard | None = None
        if ears is not None:
            tongue = Captions(source_root, None, trigger)
            heard = voices.hear(
                ears,
                found,
                records,
                screened,
                staging,
                settings,
                tongue,
                _following(report, should_stop),
            )
            screened = heard.screened
        lengths = {
            sha256: [one.clip.duration_s for one in screened.kept[sha256]] for sha256 in names
        }
        plan = split_groups(lengths, screened.group, valid_share, seed)
        told = (
            _tell(found, screened, plan, staging, settings, captions, listener, report, should_stop)
            if heard is None
            else heard.told
        )
        unnamed = _unnamed(found, told) if heard is None else heard.warnings
        warnings = [*notes, *heeded, *unnamed, *plan.warnings]
        _poll(should_stop, "the clips are kept; run again to finish")
        facts = {} if heard is None else heard.facts
        parts = Parts(found, records, screened, plan, told, refused, warnings, facts)
        assemble(staging, parts, settings, fingerprint)
        reuse.keep(staging.built, staging.path, keys)
        staging.publish()
    return summarise(dest)


def _read(
    sources: Sequence[Source],
    captions: Captions,
    refused: list[Rejection],
    report: Callable[[Progress], None],
    should_stop: Callable[[], int],
) -> list[Found]:
    """Hashes and captions of the recordings, each content once."""
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
            refused.append(Rejection(source.name, 0.0, reason, SAME_FILE, 100.0, "%"))
            continue
        first_with[sha256] = source.name
        found.append(Found(source, sha256, captions.of(source)))
    return found


def _listener(settings: Settings, found: Sequence[Found]) -> Captioner | None:
    """The captioning model, if one was named and is needed."""
    if not settings.captioner or all(item.caption.source != FALLBACK for item in found):
        return None
    from tunesmith.captioners import open_captioner

    return open_captioner(settings.captioner)


def _tell(
    found: Sequence[Found],
    screened: Screened,
    plan: SplitPlan,
    staging: Staging,
    settings: Settings,
    captions: Captions,
    listener: Captioner | None,
    report: Callable[[Progress], None],
    should_stop: Callable[[], int],
) -> dict[str, dict[str, Caption]]:
    """Captions of every clip that has a side, by recording and staged file."""
    told = {}
    for number, item in enumerate(found):
        if listener is not None:
            report(Progress("captioning", number, len(found), item.source.name))
        sides = zip(screened.kept[item.sha256], plan.sides[item.sha256], strict=True)
        told[item.sha256] = tell(
            item.caption,
            [kept for kept, side in sides if side is not None],
            staging.path / settings.cut.key(item.sha256),
            captions,
            listener,
            lambda: _poll(should_stop, "clips and captions are kept; run again to go on"),
        )
    return told


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


def _fingerprint(
    settings: Settings,
    found: Sequence[Found],
    refused: Sequence[Rejection],
    heeded: Sequence[str],
    listener: Captioner | voices.Ears | None,
) -> str:
    """Everything that the data set depends on, hashed; no times, no absolute paths."""
    whole = {
        "pipeline": [PIPELINE, audiofolder.FORMAT],
        "settings": settings.plain(),
        "sources": [
            [f.source.name, f.sha256, asdict(f.caption) | {"extra": dict(f.caption.extra)}]
            for f in found
        ],
        "captioner": listener.fingerprint if listener else "",
        "refused": [[r.file, r.reason] for r in refused],
        "warnings": list(heeded),
    }
    text = json.dumps(whole, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _following(
    report: Callable[[Progress], None], should_stop: Callable[[], int]
) -> Callable[[str, int, int, str], None]:
    def follow(stage: str, done: int, total: int, item: str) -> None:
        _poll(should_stop, "clips and texts are kept; run again to go on")
        report(Progress(stage, done, total, item))

    return follow


def _unnamed(found: Sequence[Found], told: Mapping[str, Mapping[str, Caption]]) -> list[str]:
    """The lines about recordings that were used and have no caption of their own."""
    used = [(item.source.name, [*told[item.sha256].values()]) for item in found]
    used = [(name, captions) for name, captions in used if captions]
    lines = []
    for source, what in (
        ("facts", "are described by what was measured"),
        (FALLBACK, "are called by their file's name"),
    ):
        names = [name for name, captions in used if any(c.source == source for c in captions)]
        if names:
            lines.append(
                f"{len(names)} of {len(used)} recordings have no caption and {what} ({names[0]}): "
                "put x.txt beside x.wav, or give a caption"
            )
    return lines


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
