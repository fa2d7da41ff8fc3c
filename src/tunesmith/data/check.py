"""What a data set is like, what is wrong with it, and whether it is enough.

from tunesmith.data.check import check

found = check("dataset", method="lora")
print(found.verdict.word, found.verdict.sentences)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.data._caption_stats import CaptionStats, caption_stats
from tunesmith.data._clip_measures import FaultFound, Measured, measured, name_of, refusals
from tunesmith.data._diversity import Diversity, diversity
from tunesmith.data._findings import Finding, findings
from tunesmith.data._histogram import Histogram, of_names, of_numbers
from tunesmith.data._songs import Songs, songs
from tunesmith.data.audiofolder import describe
from tunesmith.data.load import Loaded, load_readable, nothing_readable
from tunesmith.data.needs import Tally, Verdict, need_of, verdicts
from tunesmith.data.sources import Rejection, shown
from tunesmith.data.voice_verdict import with_voice
from tunesmith.types import Clip

SAME_SHARE = 0.5
"""Share of a clip that another holds too, by fingerprint, from which on it is a repeat."""

_LISTED = 30  # pairs and clips of each kind that go into the JSON


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is; variants made by augmentation and unreadable files count apart."""

    recordings: int
    clips: int
    train: int
    valid: int
    variants: int
    seconds: float
    train_s: float
    valid_s: float
    unreadable: int = 0

    @property
    def hours(self) -> float:
        return self.seconds / 3600


@dataclass(frozen=True, slots=True)
class Flagged:
    """A clip with faults that is in the set all the same."""

    file: str
    faults: tuple[FaultFound, ...]


@dataclass(frozen=True, slots=True)
class Screening:
    """What was left out, what was found wrong, and what repeats.

    Attributes:
        rejected: stretches of sound left out, by fault; those without a name by their reason.
        flagged: clips of the set with each fault.
        clips: the flagged ones.
        repeats: (clip that repeats, clip that it repeats).
    """

    rejected: Mapping[str, int]
    flagged: Mapping[str, int]
    clips: tuple[Flagged, ...]
    repeats: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Check:
    """All that :func:`check` found.

    Attributes:
        folder: name of the data set.
        root: where it is; not in the JSON.
        method: the technique asked for.
        counts: how much there is.
        formats: clips by format, rate and channels.
        histograms: length, loudness, tempo, key, bandwidth.
        screening: faults and repeats.
        diversity: how varied it sounds; None where it was not measured.
        captions: their figures, and those to mend first.
        songs: lyrics and languages; None where no clip has any.
        verdicts: one per technique, the one asked for first.
        findings: what is doubtful, the gravest first.
        unreadable: files that are missing or cannot be decoded; they are counted nowhere else.
        notes: how it was measured, where that differs from the usual.
    """

    folder: str
    root: Path
    method: str
    counts: Counts
    formats: Mapping[str, int]
    histograms: tuple[Histogram, ...]
    screening: Screening
    diversity: Diversity | None
    captions: CaptionStats
    songs: Songs | None
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]
    unreadable: tuple[Rejection, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Of the technique asked for."""
        return self.verdicts[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values; of long lists the first 30."""
        out = asdict(replace(self, root=Path()))
        del out["root"]
        out["unreadable"] = [
            {"file": one.file, "reason": one.reason} for one in self.unreadable[:_LISTED]
        ]
        out["screening"]["clips"] = out["screening"]["clips"][:_LISTED]
        out["screening"]["repeats"] = out["screening"]["repeats"][:_LISTED]
        if out["diversity"] is not None:
            out["diversity"]["nearest"] = out["diversity"]["nearest"][:_LISTED]
            nearest = out["diversity"].pop("nearest_db")
            middle = sorted(nearest)[len(nearest) // 2] if nearest else None
            out["diversity"]["median_nearest_db"] = middle
        return out


def check(
    folder: str | Path,
    method: str = "lora",
    *,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Check:
    """Look through a data set: counts, faults, variety, captions, and whether it is enough.

    Clips that ``prepare`` has measured are not measured again; only the middle ten seconds of each
    are listened to, for variety. A file that cannot be read is a finding, and counts nowhere.

    Args:
        folder: what :func:`tunesmith.data.load_dataset` reads.
        method: ``lora``, ``full``, ``textual_inversion``, ``dreambooth``, ``voice`` ...
        on_progress: told ``(stage, done, total)``.

    Raises:
        UserError: no data set, a technique that is none, a row of measures that cannot be read, or
            no clip that can.
    """
    need_of(method)  # refused now rather than after a minute
    root = Path(folder)
    loaded = load_readable(root, lambda *at: on_progress("reading", *at))
    clips = _originals(loaded.clips)
    facts, notes, broken = measured(clips, root, lambda *at: on_progress("measuring", *at))
    clips = _without(clips, root, broken)
    names = [name_of(clip, root) for clip in clips]
    heard, silent = diversity(clips, names, lambda *at: on_progress("listening", *at))
    if silent:
        clips = _without(clips, root, silent)
        names = [name_of(clip, root) for clip in clips]
        facts = [one for one in facts if one.file in set(names)]
    unreadable = (
        *loaded.unreadable,
        *(replace(one, file=shown(one.file)) for one in (*broken, *silent)),
    )
    if not clips:
        raise nothing_readable(root, unreadable)
    notes = [*loaded.notes, *notes]
    if heard and heard.n < heard.of:
        notes.append(
            f"variety and repeats were judged by {heard.n:,} of {heard.of:,} clips, evenly spaced"
        )
    repeats = _repeats(names, facts, heard)
    sides = {name: clip.split for name, clip in zip(names, clips, strict=True)}
    leaks = sum(sides[one] != sides[other] for one, other in repeats.items())
    described = describe(root) or {}
    music = need_of(method).unit != "clean minutes"
    captions = caption_stats(clips, facts, _trigger(described), music=music)
    rejected = Counter(row.fault or row.reason for row in refusals(root))
    flagged = tuple(Flagged(one.file, one.faults) for one in facts if one.faults)
    screening = Screening(
        rejected=dict(rejected.most_common()),
        flagged=dict(Counter(f.name for one in flagged for f in one.faults).most_common()),
        clips=flagged,
        repeats=tuple(repeats.items()),
    )
    sung = songs(clips)
    tally = _tally(clips, names, facts, repeats, sum(rejected.values()), heard)
    judged = verdicts(method, tally)
    if need_of(method).method == "voice":
        judged = (with_voice(judged[0], described, clips), *judged[1:])
    return Check(
        folder=root.resolve().name,
        root=root,
        method=method,
        counts=_counts(clips, _variants(loaded, clips), len(unreadable)),
        formats=dict(Counter(loaded.formats[clip.path] for clip in clips).most_common()),
        histograms=_histograms(clips, facts),
        screening=screening,
        diversity=heard,
        captions=captions,
        songs=sung,
        verdicts=judged,
        findings=tuple(
            findings(clips, tally, captions, described, leaks, unreadable, loaded.divided, sung)
        ),
        unreadable=unreadable,
        notes=tuple(notes),
    )


def _originals(clips: Sequence[Clip]) -> list[Clip]:
    """Without varied versions; those are originals to each other where there is nothing else."""
    return [clip for clip in clips if not clip.variant_of] or list(clips)


def _variants(loaded: Loaded, counted: Sequence[Clip]) -> int:
    if any(clip.variant_of for clip in counted):
        return 0
    return sum(bool(clip.variant_of) for clip in loaded.clips)


def _without(clips: Sequence[Clip], root: Path, bad: Sequence[Rejection]) -> list[Clip]:
    names = {one.file for one in bad}
    return [clip for clip in clips if name_of(clip, root) not in names]


def _trigger(described: Mapping[str, Any]) -> str:
    settings = described.get("settings")
    return str(settings.get("trigger") or "") if isinstance(settings, Mapping) else ""


def _counts(clips: Sequence[Clip], variants: int, unreadable: int) -> Counts:
    train = [clip.duration_s for clip in clips if clip.split == "train"]
    valid = [clip.duration_s for clip in clips if clip.split == "valid"]
    return Counts(
        recordings=len({clip.recording for clip in clips}),
        clips=len(clips),
        train=len(train),
        valid=len(valid),
        variants=variants,
        seconds=round(sum(train) + sum(valid), 3),
        train_s=round(sum(train), 3),
        valid_s=round(sum(valid), 3),
        unreadable=unreadable,
    )


def _histograms(clips: Sequence[Clip], facts: Sequence[Measured]) -> tuple[Histogram, ...]:
    return (
        of_numbers("length", "s", [clip.duration_s for clip in clips]),
        of_numbers("loudness", "LUFS", [one.loudness_lufs for one in facts]),
        of_numbers("tempo", "bpm", [one.tempo_bpm for one in facts]),
        of_names("key", [one.key for one in facts]),
        of_numbers(
            "bandwidth",
            "kHz",
            [None if one.bandwidth_hz is None else one.bandwidth_hz / 1000 for one in facts],
        ),
    )


def _repeats(
    names: Sequence[str], facts: Sequence[Measured], heard: Diversity | None
) -> dict[str, str]:
    """The clips that hold another's sound: all of a group of copies but one, a sound one if any."""
    order = {
        name: (bool(one.faults), index)
        for index, (name, one) in enumerate(zip(names, facts, strict=True))
    }
    first = {name: name for name in names}

    def top(name: str) -> str:
        while first[name] != name:
            name = first[name]
        return name

    def join(one: str, other: str) -> None:
        low, high = sorted((top(one), top(other)), key=order.__getitem__)
        first[high] = low

    for one in facts:
        for other, share in one.repeats:
            if share >= SAME_SHARE and other in first:
                join(one.file, other)
    for near in heard.nearest if heard else ():
        if near.same:
            join(near.file, near.other)
    return {name: top(name) for name in names if top(name) != name}


def _tally(
    clips: Sequence[Clip],
    names: Sequence[str],
    facts: Sequence[Measured],
    repeats: Mapping[str, str],
    rejected: int,
    heard: Diversity | None,
) -> Tally:
    good = [
        clip
        for clip, name, one in zip(clips, names, facts, strict=True)
        if not one.faults and name not in repeats
    ]
    return Tally(
        recordings=len({clip.recording for clip in good}),
        clips=len(good),
        minutes=sum(clip.duration_s for clip in good) / 60,
        clips_all=len(clips),
        flawed=sum(bool(one.faults) for one in facts),
        repeats=len(repeats),
        rejected=rejected,
        train=sum(clip.split == "train" for clip in clips),
        recordings_all=len({clip.recording for clip in clips}),
        different=heard.vendi if heard else None,
        heard=heard.n if heard else 0,
    )
