"""Joins what the stages found (clips, captions, sides) into the rows of the data set."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from tunesmith.data import columns, lyrics
from tunesmith.data.audiofolder import StagedClip, build, clip_name
from tunesmith.data.caption import Caption
from tunesmith.data.conform import PEAK_DBTP
from tunesmith.data.cut import CutClip, CutRecord
from tunesmith.data.screen import ALWAYS_OUT, TOO_SHORT, Kept, Screened
from tunesmith.data.settings import Settings
from tunesmith.data.sources import Rejection, Source
from tunesmith.data.split import SplitPlan
from tunesmith.data.tell import common_tempo, steady
from tunesmith.errors import UserError
from tunesmith.types import Clip, Split

_OF_ORIGINAL = frozenset(
    {"bpm", "tempo", "tempo_bpm", "key", "keyscale", "key_scale", "scale", "duration", "mode"}
)
GAP = "left out: the gap between train and valid in this recording"


@dataclass(frozen=True, slots=True)
class Found:
    """A recording, the hash of its bytes, its caption."""

    source: Source
    sha256: str
    caption: Caption


@dataclass(frozen=True, slots=True)
class Parts:
    """What the stages made; everything by the hash of the recording.

    Attributes:
        found: the recordings, in order.
        records: what cutting made of each.
        screened: which clips were let in.
        plan: on which side each of these stands.
        captions: of the clips and variants that have a side, by the staged file's name.
        refused: recordings that could not be used at all.
        warnings: one line each.
        voice: what was found of a voice, for ``dataset.json``; empty of music.
    """

    found: Sequence[Found]
    records: Mapping[str, CutRecord]
    screened: Screened
    plan: SplitPlan
    captions: Mapping[str, Mapping[str, Caption]]
    refused: Sequence[Rejection]
    warnings: Sequence[str]
    voice: Mapping[str, Any] = field(default_factory=dict)


class Place(Protocol):
    """Where the staged work is, and where the data set is put together."""

    path: Path
    built: Path


def assemble(place: Place, parts: Parts, settings: Settings, fingerprint: str) -> None:
    """Builds the data set in ``place.built``.

    Errors: :class:`UserError` when no clip is left, with the commonest reason why.
    """
    names = _names(parts, settings)
    staged = [
        StagedClip(place.path / settings.cut.key(item.sha256) / cut.file, clip, measures)
        for item in parts.found
        for cut, clip, measures in _rows(item, parts, names)
    ]
    rejected = _rejections(parts)
    if not staged:
        raise _nothing_left(rejected, len(parts.found) + len(parts.refused))
    warnings = [
        *parts.warnings,
        *_lyrics_warnings(parts),
        *_format_warnings(parts, settings.cut.normalise_lufs),
    ]
    description = _description(staged, parts, rejected, warnings, settings, fingerprint)
    build(place.built, staged, rejected, description)


def _sides(item: Found, parts: Parts) -> list[tuple[Kept, Split | None]]:
    kept = parts.screened.kept[item.sha256]
    return list(zip(kept, parts.plan.sides[item.sha256], strict=True))


def _names(parts: Parts, settings: Settings) -> dict[tuple[str, str], str]:
    """Where each clip will stand: ``train/x.flac`` by (recording, staged file)."""
    names = {}
    for item in parts.found:
        key = settings.cut.key(item.sha256)
        for kept, side in _sides(item, parts):
            # What was varied must never be validated with.
            for cut in (kept.clip, *(kept.variants if side == "train" else ())):
                if side is not None:
                    name = clip_name(item.source.name, key, cut.file)
                    names[item.sha256, cut.file] = f"{side}/{name}"
    return names


def _rows(item: Found, parts: Parts, names: Mapping[tuple[str, str], str]):
    sides = _sides(item, parts)
    tempo_bpm = common_tempo([kept for kept, side in sides if side is not None])
    recording_s = parts.records[item.sha256].decoded_s
    for kept, side in sides:
        for cut in (kept.clip, *kept.variants):
            place = names.get((item.sha256, cut.file))
            if place is None or side is None:
                continue
            caption = parts.captions[item.sha256][cut.file]
            extra = _extra(caption, cut, tempo_bpm, recording_s)
            original = names[item.sha256, cut.variant_of] if cut.variant_of else ""
            clip = Clip(
                path=Path(place),
                caption=caption.text,
                split=side,
                recording=item.source.name,
                start_s=cut.start_s,
                duration_s=cut.duration_s,
                sha256=cut.sha256,
                caption_source=caption.source,
                caption_confidence=caption.confidence,
                captions=caption.variants,
                variant_of=original.rpartition("/")[2],
                extra=extra,
            )
            yield cut, clip, _measures(place, cut, kept, names)


def _extra(
    caption: Caption, cut: CutClip, tempo_bpm: float | None, recording_s: float
) -> dict[str, Any]:
    """The columns of a clip beside our own: its recording's, as far as they are true of it."""
    stretch = cut.operations.get("tempo_factor", 1.0)
    extra = {name: v for name, v in caption.extra.items() if name not in ("lyrics", "bpm", "key")}
    if cut.operations:
        # A column would go on telling the tempo and key of the original.
        extra = {name: v for name, v in extra.items() if name.lower() not in _OF_ORIGINAL}
        extra["augmentation"] = json.dumps(dict(cut.operations), sort_keys=True)
    facts = steady(cut.facts, None if tempo_bpm is None else tempo_bpm * stretch)
    extra |= columns.of_clip(caption.extra, facts, cut.operations)
    # A slower variant may have been cut at its end.
    sung = _sung(caption, cut.start_s, cut.duration_s * stretch, recording_s)
    return extra | ({"lyrics": sung} if sung else {})


def _sung(caption: Caption, start_s: float, duration_s: float, recording_s: float) -> str:
    text = caption.extra.get("lyrics", "")
    return lyrics.of_clip(text, caption.timed, start_s, start_s + duration_s, recording_s)


def _lyrics_warnings(parts: Parts) -> list[str]:
    """One line each for lyrics that no clip can have, and for those that are longer than the sound."""
    clips, without, beyond = 0, [], []
    for item in parts.found:
        recording_s = parts.records[item.sha256].decoded_s
        used = [kept.clip for kept, side in _sides(item, parts) if side is not None]
        if not used or not item.caption.extra.get("lyrics"):
            continue
        if item.caption.timed:
            late = lyrics.beyond(item.caption.timed, recording_s)
            beyond += [item.source.name] if late else []
            continue
        lost = sum(not _sung(item.caption, c.start_s, c.duration_s, recording_s) for c in used)
        clips += lost
        without += [item.source.name] if lost else []
    warnings = []
    if without:
        warnings.append(
            f"{_count(clips, 'clip')} of {_count(len(without), 'recording')} with lyrics have none: "
            f"without times nobody knows which part is whose ({without[0]}): put timed lyrics beside "
            "x.wav as x.lrc ([01:23.45] words), or let clips be whole recordings with --max-seconds"
        )
    if beyond:
        warnings.append(
            f"the timed lyrics of {_count(len(beyond), 'recording')} go on after its end "
            f"({beyond[0]}): are they of another version?"
        )
    return warnings


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _measures(
    place: str, cut: CutClip, kept: Kept, names: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    repeats = [
        {"file": names[one.sha256, one.file], "share": one.share}
        for one in kept.repeats
        if (one.sha256, one.file) in names
    ]
    return {
        "file": place,
        "facts": cut.facts.to_json(),
        "bandwidth_hz": cut.bandwidth_hz,
        "gain_db": cut.gain_db,
        "faults": [asdict(fault) for fault in cut.faults],
        "repeats": [] if cut.variant_of else repeats,
        "fingerprint": cut.fingerprint,
        **({"voice": dict(cut.voice)} if cut.voice else {}),
    }


def _rejections(parts: Parts) -> list[Rejection]:
    rejected = list(parts.refused)
    for item in parts.found:
        name = item.source.name
        refused = (*parts.records[item.sha256].refused, *parts.screened.refused[item.sha256])
        rejected += [
            Rejection(name, one.start_s, one.reason, one.fault, one.figure, one.unit)
            for one in refused
        ]
        rejected += [
            Rejection(name, kept.clip.start_s, GAP)
            for kept, side in _sides(item, parts)
            if side is None
        ]
    return sorted(rejected, key=lambda one: (one.file, one.start_s))


def _nothing_left(rejected: Sequence[Rejection], recordings: int) -> UserError:
    faults = Counter(one.fault for one in rejected)
    fault, _ = faults.most_common(1)[0]
    first = next(one for one in rejected if one.fault == fault)
    if fault == TOO_SHORT:
        mend = "--min-seconds allows shorter clips"
    elif fault and fault not in ALWAYS_OUT:
        mend = f"--keep {fault} lets them in"
    else:
        mend = "see the reason"
    return UserError(
        f"none of {recordings} recordings gave a clip ({first.file}: {first.reason})", mend
    )


def _format_warnings(parts: Parts, normalise_lufs: float | None) -> list[str]:
    quieter = turned_down = 0
    formats: Counter[str] = Counter()
    for kept in (one for clips in parts.screened.kept.values() for one in clips):
        turned_down += kept.clip.gain_db < 0
        loudness = kept.clip.facts.loudness_lufs
        quieter += loudness is not None and loudness < (normalise_lufs or -math.inf) - 0.5
        formats[f"{kept.clip.sample_rate_hz} Hz, {kept.clip.channels} ch"] += 1
    warnings = []
    if normalise_lufs is not None and quieter:
        warnings.append(
            f"{quieter} clips stay below {normalise_lufs:g} LUFS: louder, their peaks would pass "
            f"{PEAK_DBTP:g} dBTP"
        )
    if normalise_lufs is None and turned_down:
        warnings.append(f"{turned_down} clips peaked above full scale and were turned down to it")
    if len(formats) > 1:
        listed = "; ".join(f"{count} at {name}" for name, count in sorted(formats.items()))
        warnings.append(f"the clips differ in format ({listed}): name the base, or --sample-rate")
    return warnings


def _description(
    staged: Sequence[StagedClip],
    parts: Parts,
    rejected: Sequence[Rejection],
    warnings: Sequence[str],
    settings: Settings,
    fingerprint: str,
) -> dict[str, Any]:
    clips = [s.clip for s in staged if not s.clip.variant_of]
    lengths = {
        side: [clip.duration_s for clip in clips if clip.split == side]
        for side in ("train", "valid")
    }
    plain = settings.plain()
    of_voice = plain.pop("voice", None)
    limits = plain["cut"].pop("limits")
    packages = ("tunesmith", "numpy", "scipy", "soundfile", "soxr")
    faults = Counter(one.fault for one in rejected if one.fault)
    return {
        "fingerprint": fingerprint,
        "versions": {name: _version(name) for name in packages},
        "settings": {**plain.pop("cut"), **plain, "limits": limits},
        "counts": {
            "recordings": len({clip.recording for clip in clips}),
            "clips": len(clips),
            "train": len(lengths["train"]),
            "valid": len(lengths["valid"]),
            "variants": len(staged) - len(clips),
            "rejected": len(rejected),
        },
        "faults": dict(sorted(faults.items())),
        "seconds": {
            "recordings": round(sum(parts.records[f.sha256].decoded_s for f in parts.found), 3),
            "clips": round(sum(map(sum, lengths.values())), 3),
            "train": round(sum(lengths["train"]), 3),
            "valid": round(sum(lengths["valid"]), 3),
        },
        "rights": settings.rights,
        **({"voice": {**of_voice, **parts.voice}} if of_voice else {}),
        "warnings": list(warnings),
        "sources": [
            {"name": f.source.name, "sha256": f.sha256, "bytes": f.source.size_bytes}
            for f in parts.found
        ],
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
