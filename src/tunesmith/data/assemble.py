"""Joins what the stages found (clips, captions, sides) into the rows of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from tunesmith.data.audiofolder import StagedClip, build, clip_name
from tunesmith.data.caption import Caption
from tunesmith.data.cut import CutRecord, CutSettings
from tunesmith.data.sources import Rejection, Source
from tunesmith.data.split import SplitPlan
from tunesmith.errors import UserError
from tunesmith.types import Clip

GAP = "left out: the gap between train and valid in this recording"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a data set was made with; the arguments of :func:`tunesmith.data.prepare`."""

    cut: CutSettings
    trigger: str
    caption: str
    valid_share: float
    seed: int
    rights: str


@dataclass(frozen=True, slots=True)
class Found:
    """A recording, the hash of its bytes, its caption."""

    source: Source
    sha256: str
    caption: Caption


class Place(Protocol):
    """Where the staged work is, and where the data set is put together."""

    path: Path
    built: Path


def assemble(
    place: Place,
    found: Sequence[Found],
    records: Mapping[str, CutRecord],
    plan: SplitPlan,
    refused: Sequence[Rejection],
    warnings: Sequence[str],
    settings: Settings,
    fingerprint: str,
) -> None:
    """Builds the data set in ``place.built``.

    Errors: :class:`UserError` when no clip is left, with the first reason why.
    """
    staged: list[StagedClip] = []
    rejected = list(refused)
    turned_down = 0
    formats: dict[str, int] = {}
    for item in found:
        name, record = item.source.name, records[item.sha256]
        rejected += [Rejection(name, start_s, reason) for start_s, reason in record.rejected]
        key = settings.cut.key(item.sha256)
        for index, (cut, side) in enumerate(
            zip(record.clips, plan.sides[item.sha256], strict=True)
        ):
            if side is None:
                rejected.append(Rejection(name, cut.start_s, GAP))
                continue
            turned_down += cut.gain_db < 0
            format_ = f"{cut.sample_rate_hz} Hz, {cut.channels} ch"
            formats[format_] = formats.get(format_, 0) + 1
            clip = Clip(
                path=Path(side) / clip_name(name, key, index),
                caption=item.caption.text,
                split=side,
                recording=name,
                start_s=cut.start_s,
                duration_s=cut.duration_s,
                sha256=cut.sha256,
                caption_source=item.caption.source,
                extra=item.caption.extra,
            )
            staged.append(StagedClip(place.path / key / cut.file, clip))
    rejected.sort(key=lambda one: (one.file, one.start_s))
    if not staged:
        first = f"{rejected[0].file}: {rejected[0].reason}"
        raise UserError(
            f"none of {len(found) + len(refused)} recordings gave a clip ({first})",
            "see the reason; --min-seconds allows shorter clips",
        )
    warnings = [*warnings]
    if turned_down:
        warnings.append(f"{turned_down} clips peaked above full scale and were turned down to it")
    if len(formats) > 1:
        listed = "; ".join(f"{count} at {name}" for name, count in sorted(formats.items()))
        warnings.append(f"the clips differ in format ({listed}): name the base, or --sample-rate")
    description = _description(staged, found, records, rejected, warnings, settings, fingerprint)
    build(place.built, staged, rejected, description)


def _description(
    staged: Sequence[StagedClip],
    found: Sequence[Found],
    records: Mapping[str, CutRecord],
    rejected: Sequence[Rejection],
    warnings: Sequence[str],
    settings: Settings,
    fingerprint: str,
) -> dict[str, Any]:
    lengths = {
        side: [s.clip.duration_s for s in staged if s.clip.split == side]
        for side in ("train", "valid")
    }
    used = {s.clip.recording for s in staged}
    plain = asdict(settings)
    limits = plain["cut"].pop("limits")
    return {
        "fingerprint": fingerprint,
        "versions": {name: _version(name) for name in ("tunesmith", "numpy", "soundfile", "soxr")},
        "settings": {**plain.pop("cut"), **plain, "limits": limits},
        "counts": {
            "recordings": len(used),
            "clips": len(staged),
            "train": len(lengths["train"]),
            "valid": len(lengths["valid"]),
            "rejected": len(rejected),
        },
        "seconds": {
            "recordings": round(sum(records[f.sha256].decoded_s for f in found), 3),
            "clips": round(sum(map(sum, lengths.values())), 3),
            "train": round(sum(lengths["train"]), 3),
            "valid": round(sum(lengths["valid"]), 3),
        },
        "rights": settings.rights,
        "warnings": list(warnings),
        "sources": [
            {"name": f.source.name, "sha256": f.sha256, "bytes": f.source.size_bytes} for f in found
        ],
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
