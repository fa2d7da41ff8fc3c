"""From a folder of recordings to a data set: find, cut, screen, divide, caption, write.

Work is staged beside the destination (``.NAME.partial``) and takes its place by a rename, so that
DEST is always either as it was or complete. A run that was killed goes on where it stopped, and
ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data import audiofolder, reuse, stages
from tunesmith.data import voice as voices
from tunesmith.data.assemble import Found, Parts, assemble
from tunesmith.data.caption import Caption, Captions
from tunesmith.data.cut import PIPELINE
from tunesmith.data.engines import open_engine
from tunesmith.data.load import is_intact
from tunesmith.data.remote import find_remote, is_url
from tunesmith.data.screen import screen
from tunesmith.data.settings import Settings, check_settings
from tunesmith.data.sources import Rejection, Source, find_recordings
from tunesmith.data.split import split_groups
from tunesmith.data.stages import Progress, Work
from tunesmith.data.staging import Staging
from tunesmith.data.summary import PreparedSummary, summarise
from tunesmith.data.tell import FALLBACK
from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.captioners import Captioner


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
    engine: str = "local",
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> PreparedSummary:
    """Turns recordings into a data set that training reads, and `datasets` too.

    Args:
        src: a folder of recordings, or one; also a URL that fsspec opens (:mod:`tunesmith.data.remote`).
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
        engine: ``local``, or ``ray`` for a cluster; the data set is the same.
        on_progress: called now and then.
        should_stop: polled between clips; a signal's number ends the run.

    Errors: :class:`~tunesmith.errors.UserError` for settings or folders that cannot be; bad
    recordings are listed in ``rejected.jsonl`` instead. :class:`~tunesmith.errors.Stopped` when
    asked to stop: running again goes on.
    """
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
    dest = _destination(src, dest)
    with ExitStack() as held:
        place = Path(src)
        if is_url(src):
            place = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tunesmith-")))
            sources, refused = find_remote(str(src), place)
        else:
            sources, refused = find_recordings(place, skip=[dest])
        if not sources:
            reason = f" ({refused[0].file}: {refused[0].reason})" if refused else ""
            raise UserError(
                f"no recordings in {src}{reason}",
                "wav, flac, ogg, mp3 and aiff are read, and with ffmpeg m4a, video and more",
            )
        opened = held.enter_context(closing(open_engine(engine, workers)))
        work = Work(opened, on_progress or (lambda progress: None), should_stop)
        # What is said is held against what a recogniser hears; the trigger is no part of it.
        captions = Captions(place, caption, None if voice else trigger)
        spoken = Captions(place, None, trigger) if voice else None
        return _prepared(work, dest, sources, refused, settings, notes, captions, spoken)


def _prepared(
    work: Work,
    dest: Path,
    sources: Sequence[Source],
    refused: list[Rejection],
    settings: Settings,
    notes: Sequence[str],
    captions: Captions,
    spoken: Captions | None,
) -> PreparedSummary:
    """The data set of these recordings; ``spoken`` puts the trigger before what a voice says."""
    found = stages.read(work, sources, captions, refused)
    listener = stages.open_listener(work.engine, settings, found)
    ears = voices.open_ears(settings, found) if spoken else None
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
        records = stages.cut(work, found, staging, settings)
        names = {item.sha256: item.source.name for item in found}
        screened = screen(records, names, settings.cut.keep)
        heard: voices.Heard | None = None
        if ears is not None and spoken is not None:
            heard = voices.hear(
                ears, found, records, screened, staging, settings, spoken, work.follow
            )
            screened = heard.screened
        lengths = {
            sha256: [one.clip.duration_s for one in screened.kept[sha256]] for sha256 in names
        }
        plan = split_groups(lengths, screened.group, settings.valid_share, settings.seed)
        if heard is None:
            told: Mapping[str, Mapping[str, Caption]] = stages.tell(
                work, found, screened, plan, staging, settings, captions, listener
            )
            unnamed: Sequence[str] = _unnamed(found, told)
        else:
            told, unnamed = heard.told, heard.warnings
        warnings = [*notes, *heeded, *unnamed, *plan.warnings]
        work.poll("the clips are kept; run again to finish")
        facts = {} if heard is None else heard.facts
        parts = Parts(found, records, screened, plan, told, refused, warnings, facts)
        assemble(staging, parts, settings, fingerprint)
        reuse.keep(staging.built, staging.path, keys)
        staging.publish()
    return summarise(dest)


def _destination(src: str | Path, dest: str | Path) -> Path:
    if is_url(dest):
        raise UserError(
            f"{dest} is not a folder here",
            "make the data set in a folder, which other machines may share",
        )
    # A link to a folder on another disk: the work is staged there, not beside the link.
    real = Path(dest).resolve()
    source = None if is_url(src) else Path(src).resolve()
    if source is not None and (real == source or real in source.parents):
        raise UserError(
            f"{dest} would replace the recordings in {src}",
            "choose another folder for the data set",
        )
    if not real.name:
        raise UserError(f"{dest} cannot be a data set", "choose a folder with a name")
    return real


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
