"""Which clips are let in: what was found wrong with each, and near-duplicates among all of them.

Faults of a single clip are judged while it is cut (:mod:`tunesmith.data.cut`); what can only be
seen with all clips at hand is judged here. Nothing is deleted: whatever is left out stands in
``rejected.jsonl`` with its figure, and ``keep`` lets it in.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tunesmith.analysis.faults import FAULTS as CLIP_FAULTS
from tunesmith.analysis.fingerprint import Index, Match
from tunesmith.data.cut import CutClip, CutRecord, Refused
from tunesmith.data.voice_faults import FAULTS as VOICE_FAULTS
from tunesmith.data.voice_segment import NO_SPEECH, TOO_LONG
from tunesmith.errors import UserError, did_you_mean

NEAR_DUPLICATE = "near_duplicate"
SAME_FILE, TOO_SHORT = "same_file", "too_short"
ALWAYS_OUT = frozenset({SAME_FILE, TOO_SHORT, NO_SPEECH, TOO_LONG})
"""Reasons that ``keep`` cannot name: there is nothing to gain, or no clip to be had."""
FAULTS: Mapping[str, str] = {
    **CLIP_FAULTS,
    NEAR_DUPLICATE: "half of it or more is the same sound as clips of another recording",
}
"""Every fault that ``keep`` may name, with an explanation."""

# A clip that shares less than this with another recording's is new enough to be learnt from.
_SAME_SHARE = 0.5
# Of one match, unless it is half of the shorter clip: different pieces may share a chord.
_LEAST_S = 5.0


@dataclass(frozen=True, slots=True)
class Repeat:
    """Another clip with the same sound.

    Attributes:
        sha256: hash of its recording.
        file: its name in that recording's staging folder.
        share: of the shorter one's time.
    """

    sha256: str
    file: str
    share: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A clip that was let in, its variants, and the clips that it shares sound with."""

    clip: CutClip
    variants: tuple[CutClip, ...] = ()
    repeats: tuple[Repeat, ...] = ()


@dataclass(frozen=True, slots=True)
class Screened:
    """What :func:`screen` found; everything by the hash of the recording.

    Attributes:
        kept: the clips that were let in, in order.
        refused: near-duplicates, besides what cutting has refused.
        group: the recordings that share sound have the same one: they must not stand on both
            sides of a split.
    """

    kept: Mapping[str, tuple[Kept, ...]]
    refused: Mapping[str, tuple[Refused, ...]]
    group: Mapping[str, str]


def check_keep(names: Sequence[str], voice: bool = False) -> tuple[str, ...]:
    """The names of faults to let in, sorted; ``all`` is all of them.

    Args:
        names: of faults.
        voice: whether those of voices are among them.

    Errors: :class:`UserError` for a name that is none.
    """
    known = [*FAULTS, *(VOICE_FAULTS if voice else ())]
    for name in names:
        if name in VOICE_FAULTS and not voice:
            raise UserError(f"{name} is looked for in voices only", "add --voice, or leave it out")
        if name not in known and name != "all":
            raise UserError(
                f"there is no fault called {name!r}", did_you_mean(name, [*known, "all"])
            )
    return tuple(sorted(known if "all" in names else set(names)))


@dataclass(slots=True)
class _Groups:
    """Union-find over recordings; the first of a group in order of appearance stands for it."""

    parent: dict[str, str] = field(default_factory=dict)

    def top(self, one: str) -> str:
        while self.parent.setdefault(one, one) != one:
            one = self.parent[one]
        return one

    def join(self, one: str, other: str) -> None:
        self.parent[self.top(other)] = self.top(one)


def screen(
    records: Mapping[str, CutRecord], names: Mapping[str, str], keep: Sequence[str]
) -> Screened:
    """Looks for near-duplicates across recordings and repeats within them.

    The best copy is let in (:func:`_worth`). Repeats within one recording are noted and stay: loops
    are music.

    Args:
        records: by the recording's hash.
        names: of the recordings, by hash.
        keep: faults to let in.
    """
    order = sorted(records, key=lambda sha256: (*_worth(records[sha256]), names[sha256]))
    index = Index()
    lengths: dict[tuple[str, str], float] = {}
    groups = _Groups()
    accepted: dict[tuple[str, str], CutClip] = {}
    repeats: dict[tuple[str, str], list[Repeat]] = {}
    refused: dict[str, list[Refused]] = {sha256: [] for sha256 in records}
    for sha256 in order:
        groups.top(sha256)
        for clip in records[sha256].clips:
            if clip.variant_of:
                continue
            here = (sha256, clip.file)
            print_ = b64decode(clip.fingerprint)
            covered_s, best = 0.0, None
            matches = [
                match
                for match in (index.find(print_) if print_ else [])
                if _is_long(match, clip.duration_s, lengths[_place(match.key)])
            ]
            for match in matches:
                there = _place(match.key)
                if there[0] != sha256:
                    covered_s += match.share * min(clip.duration_s, lengths[there])
                    best = best or there
            share = min(1.0, covered_s / clip.duration_s)
            if best and share >= _SAME_SHARE and NEAR_DUPLICATE not in keep:
                start_s = accepted[best].start_s
                reason = (
                    f"near-duplicate: {share:.0%} of it is the same sound as {names[best[0]]} "
                    f"from {start_s:.1f} s"
                )
                refused[sha256].append(
                    Refused(clip.start_s, reason, NEAR_DUPLICATE, round(100 * share, 1), "%")
                )
                continue
            accepted[here], lengths[here], repeats[here] = clip, clip.duration_s, []
            for match in matches:
                there = _place(match.key)
                repeats[here].append(Repeat(*there, round(match.share, 3)))
                repeats[there].append(Repeat(*here, round(match.share, 3)))
                groups.join(there[0], sha256)
            if print_:
                index.add("\n".join(here), print_)
    kept = {}
    for sha256, record in records.items():
        variants: dict[str, list[CutClip]] = {}
        for clip in record.clips:
            if clip.variant_of:
                variants.setdefault(clip.variant_of, []).append(clip)
        kept[sha256] = tuple(
            Kept(clip, tuple(variants.get(clip.file, ())), tuple(repeats[sha256, clip.file]))
            for clip in record.clips
            if (sha256, clip.file) in accepted
        )
    return Screened(
        kept,
        {sha256: tuple(found) for sha256, found in refused.items()},
        {sha256: groups.top(sha256) for sha256 in records},
    )


def _worth(record: CutRecord) -> tuple[bool, bool, float, float]:
    """Smaller is better: without faults, lossless, wider in band, louder.

    Bandwidth counts in steps of 2 kHz and loudness in steps of 12 dB: less is no reason to prefer
    one file to another, and the rest is left to the name.
    """
    clips = [clip for clip in record.clips if not clip.variant_of]
    if not clips:
        return (False, False, 0.0, 0.0)
    band_hz = median(clip.bandwidth_hz for clip in clips)
    loud = median(
        -70.0 if clip.facts.loudness_lufs is None else clip.facts.loudness_lufs - clip.gain_db
        for clip in clips
    )
    faulty = any(clip.faults for clip in clips)
    return (faulty, record.lossy, -(band_hz // 2000), -(loud // 12))


def _is_long(match: Match, one_s: float, other_s: float) -> bool:
    """Whether a match is more than a chord or a drum fill that two pieces have in common."""
    shorter_s = min(one_s, other_s)
    return match.share >= _SAME_SHARE or match.share * shorter_s >= _LEAST_S


def _place(key: str) -> tuple[str, str]:
    sha256, _, file = key.partition("\n")
    return sha256, file
