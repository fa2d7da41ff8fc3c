"""From an evaluation to what a report says: the table, the takes to hear, what the verdict weighs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Evaluation, Finding, Memorisation, from_json
from tunesmith.report.contents import Measure, Row, Track
from tunesmith.report.verdict import Pair
from tunesmith.report.voices import Voiced

FILE = "evaluation.json"

LOSS, GENERAL = "validation_loss", ("general_loss", "anchor_loss")
ANCHOR, APART = "general_kad", "base against itself"
GAP = ("gap_closed", "gap")
SPEAKER, ERRORS = "speaker", ("phone_error", "wer")
ADHERENCE = ("clap_score", "clap", "tagger")
"""Metrics that say whether the sound follows its prompt, the best first."""

_NAMES = {
    "kad": "KAD",
    "fad": "FAD",
    "fad_inf": "FAD∞",
    "gap": "gap closed",
    "clap": "CLAP score",
    "clap_score": "CLAP score",
    "tagger": "tags heard",
    "vendi": "Vendi diversity",
    "general_kad": "KAD of general prompts",
    "memorisation": "copied takes",
    "mos": "predicted MOS",
    "wer": "WER",
    "cer": "CER",
    "speaker": "voice similarity",
    "pitch": "pitch, away from the voice's",
    "pitch_range": "range of pitch, away from the voice's",
    "rate": "speaking rate, away from the voice's",
}
_TAKES = 6
"""Prompts to be heard: the page has to open quickly, and all takes lie in their folders."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the verdict is made of; None where there is none."""

    valid: Pair | None
    n_valid: int | None
    general: Pair | None
    anchor: Pair | None
    kad: Pair | None
    closed: Pair | None
    adherence: Pair | None
    memorisation: Memorisation | None
    voice: Voiced | None = None


def read_evaluation(folder: Path) -> Evaluation | None:
    """The ``evaluation.json`` of a run; its files are made absolute.

    Raises:
        UserError: it is there and cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return at(from_json(json.loads(path.read_text(encoding="utf-8"))), folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error})",
            f"remove it, or write it anew with `tunesmith evaluate {folder}`",
        ) from None


def at(evaluation: Evaluation, folder: Path) -> Evaluation:
    """With files found from ``folder``, by their whole names or the ends of them, if they are there."""

    def found(file: str) -> str:
        parts = Path(file).parts
        # A path from where the command was called, or from where the run once was, ends alike.
        ends = [folder.joinpath(*parts[start:]) for start in range(1, len(parts) - 1)]
        here = () if Path(file).is_absolute() else (folder / file,)
        candidates = (*here, Path(file), *ends)
        return str(next((one for one in candidates if one.exists()), file))

    return replace(
        evaluation,
        subjects={
            key: replace(one, takes=tuple(map(found, one.takes)))
            for key, one in evaluation.subjects.items()
        },
        memorisation={
            key: replace(
                one,
                matches=tuple(
                    replace(match, take=found(match.take), clip=found(match.clip))
                    for match in one.matches
                ),
            )
            for key, one in evaluation.memorisation.items()
        },
    )


def subject_of(evaluation: Evaluation, folder: Path) -> str | None:
    """Key of a run's own subject: the one at its path, else the only run that there is.

    A run that was moved still knows its evaluation; one among several that was moved does not.
    """
    runs = {key: one for key, one in evaluation.subjects.items() if one.kind == "run"}
    here = folder.resolve()
    for key, one in runs.items():
        if one.path and Path(one.path).expanduser().resolve() == here:
            return key
    return next(iter(runs)) if len(runs) == 1 else None


def name_of(metric: str) -> str:
    """A metric's name for a reader."""
    return _NAMES.get(metric, metric.replace("_", " "))


def measures(evaluation: Evaluation, subject: str, base: str) -> list[Measure]:
    """A line for each metric and embedding, in the order of the findings."""
    before = {(f.metric, f.embedding): f for f in evaluation.findings if f.subject == base}
    after = {(f.metric, f.embedding): f for f in evaluation.findings if f.subject == subject}
    keys = dict.fromkeys([*after, *before])
    return [_measure(after.get(key), before.get(key)) for key in keys]


def _measure(after: Finding | None, before: Finding | None) -> Measure:
    told = after or before
    assert told is not None
    return Measure(
        name_of(told.metric),
        before.value if before else told.details.get(APART),
        after.value if after else None,
        told.better,
        told.explanation or (before.explanation if before else ""),
        n=after.n if after else None,
        embedding=told.embedding,
        p_value=after.p_value if after else None,
        key=told.metric,
        interval=after.interval if after else None,
        base_interval=before.interval if before else None,
        base_n=before.n if before else None,
        n_reference=told.n_reference,
        warnings=after.warnings if after else (),
        base_warnings=before.warnings if before else (),
        missing=after.missing if after else "not measured for this run",
        base_missing=before.missing if before else "",
    )


def weighed(evaluation: Evaluation, subject: str, base: str) -> Weighed:
    """What the verdict is made of, as far as it was measured."""

    def pair(*metrics: str) -> tuple[Pair, Finding] | None:
        for metric in metrics:
            before, after = evaluation.of(base, metric), evaluation.of(subject, metric)
            if before and after and after.value is not None and before.value is not None:
                return Pair(before.value, after.value, after.interval, after.p_value), after
        return None

    valid, general = pair(LOSS), pair(*GENERAL)
    kad, adherence = pair("kad"), pair(*ADHERENCE)
    return Weighed(
        valid=valid[0] if valid else None,
        n_valid=valid[1].n if valid else None,
        general=general[0] if general else None,
        anchor=_anchor(evaluation, subject),
        kad=kad[0] if kad else None,
        closed=_closed(evaluation, subject),
        adherence=adherence[0] if adherence and adherence[1].better == "higher" else None,
        memorisation=evaluation.memorisation.get(subject),
        voice=_voice(evaluation, subject, base),
    )


def _voice(evaluation: Evaluation, subject: str, base: str) -> Voiced | None:
    """What was heard of a voice; None where nobody compared voices."""
    before, after = evaluation.of(base, SPEAKER), evaluation.of(subject, SPEAKER)
    if not before or not after or before.value is None or after.value is None:
        return None
    name = next((one for one in ERRORS if evaluation.of(subject, one)), ERRORS[0])
    wrong = [evaluation.of(key, name) for key in (base, subject)]
    return Voiced(
        before.value,
        after.value,
        *(one.value if one else None for one in wrong),
        unit={"wer": "word"}.get(name, "phone"),
        same=after.details.get("same_speaker"),
        others=after.details.get("different_speakers"),
        interval=after.interval,
    )


def _anchor(evaluation: Evaluation, subject: str) -> Pair | None:
    """Distance of its general takes to the base's; before: the base's to its own with other seeds."""
    one = evaluation.of(subject, ANCHOR)
    if one is None or one.value is None:
        return None
    return Pair(one.details.get(APART), one.value, one.interval, one.p_value)


def _closed(evaluation: Evaluation, subject: str) -> Pair | None:
    found = (evaluation.of(subject, name) for name in GAP)
    one = next((one for one in found if one and one.value is not None), None)
    return Pair(0.0, one.value, one.interval, one.p_value) if one else None


def take_rows(evaluation: Evaluation, subjects: Mapping[str, str], most: int = _TAKES) -> list[Row]:
    """The same prompts and seeds through several subjects, evenly spaced among all there are.

    Args:
        evaluation: its takes.
        subjects: key to label, in the order they stand.
        most: prompts.
    """
    takes = {key: evaluation.subjects[key].takes for key in subjects}
    count = min([len(evaluation.seeds), *map(len, takes.values())], default=0)
    asked = list(zip(evaluation.prompts, evaluation.seeds, strict=False))[:count]
    first = {prompt: index for index, (prompt, _) in reversed(list(enumerate(asked)))}
    once = sorted(first.values())  # each prompt once, where there are enough of them
    chosen = [once[index] for index in spread(len(once), most)]
    chosen += [index for index in range(len(asked)) if index not in chosen][: most - len(chosen)]
    return [
        Row(
            asked[index][0],
            asked[index][1],
            [Track(label, Path(takes[key][index])) for key, label in subjects.items()],
        )
        for index in sorted(chosen)
    ]


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``range(count)``, evenly spaced."""
    if count <= most:
        return list(range(count))
    return [index * count // most for index in range(most)]


def about(evaluation: Evaluation) -> dict[str, Any]:
    """How it was measured, for a reader."""
    told: dict[str, Any] = {"takes of each model": len(evaluation.prompts)}
    if evaluation.seconds:
        told["length of each"] = f"{evaluation.seconds:g} s"
    if evaluation.reference:
        told["measured against"] = evaluation.reference
    return told
