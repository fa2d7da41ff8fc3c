"""The stages of preparing that an engine works at: reading, cutting, captioning.

What they return depends on the recordings and the settings alone, not on the engine, nor on the order in
which its workers finish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.data.assemble import Found
from tunesmith.data.caption import Caption, Captions
from tunesmith.data.cut import CutRecord, read_record
from tunesmith.data.engines import Engine, Staged
from tunesmith.data.examine import Examined
from tunesmith.data.pool import Job
from tunesmith.data.screen import SAME_FILE, Screened
from tunesmith.data.settings import Settings
from tunesmith.data.sources import Rejection, Source
from tunesmith.data.split import SplitPlan
from tunesmith.data.staging import Staging
from tunesmith.data.tell import FALLBACK
from tunesmith.data.tell import tell as tell_one
from tunesmith.errors import Stopped

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


@dataclass(frozen=True, slots=True)
class Work:
    """How the stages of one run are worked at.

    Attributes:
        engine: what does it.
        report: told of progress.
        should_stop: polled; a signal's number ends the run.
    """

    engine: Engine
    report: Callable[[Progress], None]
    should_stop: Callable[[], int]

    def poll(self, state: str) -> None:
        """Errors: :class:`Stopped` when asked to stop, saying in which state things are."""
        number = int(self.should_stop() or 0)
        if number:
            raise Stopped(number, f"stopped: {state}")

    def follow(self, stage: str, done: int, total: int, item: str) -> None:
        """Polls and reports."""
        self.poll("clips and texts are kept; run again to go on")
        self.report(Progress(stage, done, total, item))


def read(
    work: Work, sources: Sequence[Source], captions: Captions, refused: list[Rejection]
) -> list[Found]:
    """Hashes and captions of the recordings, each content once.

    Args:
        work: how.
        sources: in order; of two that are equal the first stays.
        captions: finds them.
        refused: added to: what cannot be read, and what is there twice.
    """
    state = "nothing has been written yet; run again to start over"
    total, done = float(sum(source.size_bytes for source in sources)), 0.0
    examined: dict[int, Examined] = {}
    work.poll(state)
    with closing(work.engine.examine(sources)) as results:
        for index, one in results:
            if one is not None:
                examined[index] = one
                done += sources[index].size_bytes
                work.report(Progress("reading", done, total, sources[index].name))
            work.poll(state)
    found: list[Found] = []
    first_with: dict[str, str] = {}
    for index, source in enumerate(sources):
        one = examined.pop(index)
        if one.fault:
            refused.append(Rejection(source.name, 0.0, one.fault))
        elif one.sha256 in first_with:
            # Twice the weight in training, or a leak into validation: neither is wanted.
            reason = f"the same file as {first_with[one.sha256]}"
            refused.append(Rejection(source.name, 0.0, reason, SAME_FILE, 100.0, "%"))
        else:
            first_with[one.sha256] = source.name
            found.append(Found(source, one.sha256, captions.of(source, one.tags)))
    return found


def open_listener(engine: Engine, settings: Settings, found: Sequence[Found]) -> Captioner | None:
    """The captioning model, if one was named and is needed."""
    if not settings.captioner or all(item.caption.source != FALLBACK for item in found):
        return None
    return engine.open_captioner(settings.captioner)


def cut(
    work: Work, found: Sequence[Found], staging: Staging, settings: Settings
) -> dict[str, CutRecord]:
    """The records of all recordings, those of an earlier run included; by the hash of the recording."""
    total = float(sum(f.source.size_bytes for f in found))
    records: dict[str, CutRecord] = {}
    jobs: list[Job] = []
    done = 0.0
    for item in found:
        folder = staging.path / settings.cut.key(item.sha256)
        if (record := read_record(folder)) is not None:
            records[item.sha256] = record
            done += item.source.size_bytes
        else:
            jobs.append(Job(item.source, item.sha256, folder))
    state = "finished recordings are kept; run again to go on"
    work.poll(state)
    parts: dict[int, float] = {}
    with closing(work.engine.cut(jobs, settings.cut, staging.lock)) as results:
        for index, share, record in results:
            if index >= 0:
                job = jobs[index]
                parts[index] = share * job.source.size_bytes
                at = done + sum(parts.values())
                work.report(Progress("cutting", at, total, job.source.name))
                if record is not None:
                    records[job.sha256] = record
                    done += parts.pop(index)
            work.poll(state)
    # In the order of the recordings, not in that of the workers.
    return {item.sha256: records[item.sha256] for item in found}


def tell(
    work: Work,
    found: Sequence[Found],
    screened: Screened,
    plan: SplitPlan,
    staging: Staging,
    settings: Settings,
    captions: Captions,
    listener: Captioner | None,
) -> dict[str, dict[str, Caption]]:
    """Captions of every clip that has a side, by recording and staged file."""
    state = "clips and captions are kept; run again to go on"
    used = {}
    for item in found:
        sides = zip(screened.kept[item.sha256], plan.sides[item.sha256], strict=True)
        used[item.sha256] = [kept for kept, side in sides if side is not None]
    if listener is not None:
        staged = [
            Staged(
                staging.path / settings.cut.key(item.sha256),
                tuple(kept.clip.file for kept in used[item.sha256]),
            )
            for item in found
            if item.caption.source == FALLBACK and used[item.sha256]
        ]
        work.poll(state)
        with closing(work.engine.hear(listener, staged)) as results:
            for done in results:
                work.report(Progress("captioning", done, len(staged), ""))
                work.poll(state)
    told: dict[str, dict[str, Caption]] = {}
    for number, item in enumerate(found):
        if listener is not None:
            work.report(Progress("captioning", number, len(found), item.source.name))
        told[item.sha256] = tell_one(
            item.caption,
            used[item.sha256],
            staging.path / settings.cut.key(item.sha256),
            captions,
            listener,
            lambda: work.poll(state),
        )
    return told
