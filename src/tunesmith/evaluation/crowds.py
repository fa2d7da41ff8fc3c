"""Sets of takes against sets of recordings: how far apart, how varied, how much is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Finding
from tunesmith.evaluation.subjects import Wanted
from tunesmith.metrics import coverage, fad, gap, kad, vendi
from tunesmith.metrics._distances import median_distance
from tunesmith.metrics._result import Result

Sounds = Sequence[np.ndarray]
"""One array ``[W, D]`` a clip."""

_NAMED = 5
"""Files that stand out and are named."""

_SAYS = {
    "kad": "How far its sound as a whole lies from the held-out recordings (kernel audio distance). "
    "0 is no difference; the p-value is that of the change against the base.",
    "fad": "The same as published numbers have it (Fréchet audio distance). It reads too high with "
    "few clips: compare only equal counts.",
    "fad_inf": "FAD as it would be with endlessly many takes (extrapolated).",
    "gap": "Share of the way from the base to real recordings as the base's own codec renders them.",
    "coverage": "Share of the held-out recordings that have a take in their neighbourhood: low where "
    "it makes the same few things again and again.",
    "density": "How densely the takes lie where recordings lie: 1 is as densely as recordings do.",
    "vendi": "How many different takes there seem to be (Vendi score): falls when it collapses.",
}


@dataclass(frozen=True, slots=True)
class Heard:
    """Everything as one embedding hears it.

    Attributes:
        reference: of the held-out recordings.
        sounds: takes or recordings of each subject.
        ceilings: by base, the held-out recordings through its codec.
        files: of each subject, to name those that stand out.
    """

    reference: Sounds
    sounds: Mapping[str, Sounds]
    ceilings: Mapping[str, Sounds] = field(default_factory=dict)
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)


def findings(
    heard: Heard,
    subjects: Sequence[Wanted],
    label: str,
    seed: int,
    warnings: tuple[str, ...] = (),
) -> list[Finding]:
    """All set metrics of all subjects.

    Args:
        heard: the embeddings.
        subjects: what they are of.
        label: of the embedding.
        seed: of the tests.
        warnings: of the reference.
    """
    found = []
    for one in subjects:
        sounds = heard.sounds[one.key]
        common = {
            "subject": one.key,
            "n": len(sounds),
            "n_reference": len(heard.reference),
            "embedding": label,
        }
        closed = None
        if one.kind == "run":
            try:
                closed = _closed(heard, one, seed)
            except UserError as error:  # hours of takes must not be lost to one of them
                found.append(_missing("gap", error.message, common))
        try:
            distance = crowd_kad(heard.reference, sounds)
        except UserError as error:
            found.append(_missing("kad", error.message, common))
            found += _others(heard, sounds, common, seed)
            continue
        few = () if len(sounds) >= 50 else (f"{len(sounds)} takes are few",)
        found.append(
            Finding(
                "kad",
                value=distance.value,
                better="lower",
                interval=distance.interval,
                p_value=closed.p_value if closed else None,
                warnings=(*warnings, *few),
                explanation=_SAYS["kad"],
                details=distance.details,
                **common,
            )
        )
        if closed is not None:
            found.append(_share(closed, common))
        found += _others(heard, sounds, common, seed)
    return found


def _missing(name: str, why: str, common: Mapping[str, object]) -> Finding:
    better = "higher" if name in ("gap", "coverage", "density", "vendi") else "lower"
    return Finding(
        name,
        value=None,
        better=better,
        missing=why,
        explanation=_SAYS[name],
        **common,  # type: ignore[arg-type]
    )


def crowd_kad(reference: Sounds, sounds: Sounds) -> Result:
    """Clips are counted, not their windows: the KAD of gap closed as well."""
    windows = [np.concatenate(list(x)) for x in (reference, sounds)]
    ids = (_ids(reference), _ids(sounds))
    return kad.compute(windows[0], windows[1], groups=ids, permutations=0)


def _ids(sounds: Sounds) -> list[int]:
    """The clip of each window."""
    return np.repeat(np.arange(len(sounds)), [len(one) for one in sounds]).tolist()


def _unlike(heard: Heard, sounds: Sounds, windows: Sequence[np.ndarray], key: str) -> list[str]:
    """Names of the files that are unlike the reference by their own FAD, the farthest first."""
    names = [Path(file).name for file in heard.files.get(key, ())]
    if len(names) != len(sounds):
        return []
    try:
        songs = fad.outliers(windows[0], windows[1], _ids(sounds)).songs
    except UserError:  # a window each
        return []
    return [names[int(str(song.file))] for song in songs if song.outlier]


def _closed(heard: Heard, one: Wanted, seed: int) -> gap.Gap | None:
    base, own = heard.sounds[one.against], heard.sounds[one.key]
    if one.against not in heard.ceilings:
        return None
    return gap.compute(heard.reference, heard.ceilings[one.against], base, [own], seed=seed)


def _share(closed: gap.Gap, common: Mapping[str, object]) -> Finding:
    share, error = closed.closed[0], closed.errors[0]
    return Finding(
        "gap",
        value=share,
        better="higher",
        interval=(share - 1.96 * error, share + 1.96 * error)
        if share is not None and error is not None
        else None,
        p_value=closed.p_value,
        warnings=closed.warnings,
        missing="" if share is not None else "the base is already as near as real clips",
        explanation=_SAYS["gap"],
        details={
            "base": closed.base,
            "ceiling": closed.ceiling,
            "adapted": closed.adapted[0],
            "width": closed.width,
            "width_error": closed.width_error,
            "bandwidth": closed.bandwidth,
            "error": error,
        },
        **common,  # type: ignore[arg-type]
    )


def _others(heard: Heard, sounds: Sounds, common: Mapping[str, object], seed: int) -> list[Finding]:
    # FAD is of windows, as it is usually published; the others count clips, which are independent.
    windows = [np.concatenate(list(x)) for x in (heard.reference, sounds)]
    ids = (_ids(heard.reference), _ids(sounds))
    clips = [np.stack([one.mean(axis=0) for one in x]) for x in (heard.reference, sounds)]
    # One width for all subjects, or their scores could not be compared; at half the usual distance
    # clips that differ as recordings do count as nearly two.
    width = median_distance(clips[0]) / 2
    found = []
    for name, better, measure in (
        ("fad", "lower", lambda: fad.compute(*windows, seed=seed, interval=True, groups=ids)),
        ("fad_inf", "lower", lambda: fad.fad_inf(*windows, seed=seed)),
        ("coverage", "higher", lambda: coverage.compute(*clips)),
        ("vendi", "higher", lambda: vendi.compute(clips[1], kernel="rbf", bandwidth=width)),
    ):
        try:
            result = measure()
        except UserError as error:
            names = (name, "density") if name == "coverage" else (name,)
            found += [_missing(one, error.message, common) for one in names]
            continue
        warnings, details = result.warnings, dict[str, Any](result.details)
        if name == "fad" and (unlike := _unlike(heard, sounds, windows, str(common["subject"]))):
            details["outliers"] = unlike
            warnings += (f"farthest off by their own FAD: {', '.join(unlike[:_NAMED])}",)
        found.append(
            Finding(
                name,
                value=result.value,
                better=better,  # type: ignore[arg-type]
                interval=result.interval,
                warnings=warnings,
                explanation=_SAYS[name],
                details=details,
                **common,  # type: ignore[arg-type]
            )
        )
        if name == "coverage":
            found.append(
                Finding(
                    "density",
                    value=result.details["density"],
                    better="higher",
                    explanation=_SAYS["density"],
                    **common,  # type: ignore[arg-type]
                )
            )
    return found
