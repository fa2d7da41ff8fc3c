"""The page of a run: what its folder holds, laid out for a listener."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Evaluation
from tunesmith.formats.adapter import read_card
from tunesmith.formats.sound import read_made_of
from tunesmith.registry import loss_unit
from tunesmith.report._facts import data_facts, losses, pitfalls_of, rates
from tunesmith.report._facts import heard as heard_while_training
from tunesmith.report.as_json import write_json
from tunesmith.report.contents import Measure, Pitfall, Report, Rights, Row, Section, Track
from tunesmith.report.evaluated import (
    GENERAL,
    LOSS,
    Weighed,
    about,
    read_evaluation,
    subject_of,
    take_rows,
    weighed,
)
from tunesmith.report.evaluated import (
    measures as evaluated_measures,
)
from tunesmith.report.gap import GapClosed
from tunesmith.report.page import write_report
from tunesmith.report.verdict import Pair, Verdict, judge
from tunesmith.report.voices import Voiced, of_training
from tunesmith.training.log import read_metrics

_NOTHING = Weighed(None, None, None, None, None, None, None, None)


def is_run(folder: Path) -> bool:
    """Whether a folder holds what a training wrote of itself, and not an adapter alone."""
    return (folder / "run.json").is_file()


def report_on_run(folder: Path, evaluation: Evaluation | None = None) -> Path:
    """Write ``report.html`` and ``report.json`` into a finished run's folder.

    Args:
        folder: of the run.
        evaluation: what was measured; else what ``evaluation.json`` in the folder says, if it is there.

    Returns:
        The page.

    Raises:
        UserError: the folder is no run, its ``evaluation.json`` is broken, or it cannot be written to.
    """
    report = run_report(folder, evaluation=evaluation, rows=preview_rows(folder))
    write_json(report, folder / "report.json")
    return write_report(report, folder / "report.html")


def run_report(
    folder: Path,
    *,
    evaluation: Evaluation | None = None,
    title: str = "",
    rows: Sequence[Row] = (),
    sections: Sequence[Section] = (),
    measures: Sequence[Measure] = (),
    kad: Pair | None = None,
    kad_p: float | None = None,
    pitfalls: Sequence[Pitfall] = (),
    gap: GapClosed | None = None,
    voice: Voiced | None = None,
) -> Report:
    """A report from a run's folder, and what else was measured or is to be heard.

    Args:
        folder: of a finished run.
        evaluation: what was measured; else what its ``evaluation.json`` says, if that is there.
        title: of the page; else the folder's name.
        rows: to listen to, where there are no takes of an evaluation.
        sections: further tracks.
        measures: further measurements.
        kad, kad_p: distance of the sound before and after, where no evaluation has it.
        pitfalls: besides those that the run has noted.
        gap: how far it went; stands in the place of KAD.
        voice: what was heard of a voice, where no evaluation did; else what training heard.

    Raises:
        UserError: the folder is no run, or its ``evaluation.json`` is broken.
    """
    card = read_card(folder)
    if not is_run(folder):
        raise UserError(
            f"{folder} is an adapter without its run",
            "measure it with `tunesmith evaluate`, which writes a report of its own",
        )
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    lines = read_metrics(folder / "metrics.jsonl")
    evaluation = evaluation or read_evaluation(folder)
    subject = subject_of(evaluation, folder) if evaluation else None
    base, what = card["base"], _NOTHING
    own = _own_measures(card, facts, lines)
    table, rows, told = list(own), list(rows), data_facts(facts)
    noted = [*pitfalls, *pitfalls_of(facts, lines)]
    if evaluation and subject:
        before = evaluation.base_of(subject)
        what = weighed(evaluation, subject, before)
        found = evaluated_measures(evaluation, subject, before)
        table = _joined(own, found)
        step = evaluation.subjects[subject].step
        label = f"adapted (step {step})" if step is not None else "adapted"
        rows = take_rows(evaluation, {before: "base", subject: label}) or rows
        told |= about(evaluation)
        noted += _stale(step, card["step"], folder)
    valid, general = what.valid or _pair(own, LOSS), what.general or _pair(own, GENERAL[0])
    voice = what.voice or voice or of_training(card)
    verdict = judge(
        valid=valid or Pair(None, None),
        general=general,
        anchor=what.anchor,
        kad=what.kad or kad,
        kad_p=None if what.kad else kad_p,
        gap=gap.gap if gap else None,
        n_valid=what.n_valid or facts["data"]["valid"]["clips"],
        closed=what.closed,
        adherence=what.adherence,
        memorisation=what.memorisation,
        voice=voice,
    )
    command = f"`tunesmith evaluate {folder if not folder.is_absolute() else folder.name}`"
    heard = what.kad or kad or gap or voice
    looked = evaluation.of(subject, "memorisation") if evaluation and subject else None
    missing = f"not looked for; {command} lays every take beside every training clip"
    return Report(
        title=title or folder.resolve().name,
        subtitle=f"{card['method']['name']} on {base['name']}, step {card['step']} of {card['steps']}",
        verdict=verdict if heard else _unheard(verdict, command, evaluation, subject),
        gap=gap,
        before_after=rows,
        sections=sections,
        curves=[
            curve
            for curve in (
                heard_while_training(lines, card["step"]),
                losses(lines, card["step"], loss_unit(base.get("family", ""))),
                rates(lines),
            )
            if curve
        ],
        metrics=[*table, *measures],
        pitfalls=noted,
        data=told,
        settings=facts["config"],
        recipe=facts.get("recipe"),
        rights=_rights(card),
        versions=facts["versions"],
        memorisation={"": what.memorisation} if what.memorisation else {},
        memorisation_missing=(looked.missing if looked else "") or missing,
        run={
            "name": folder.resolve().name,
            "method": card["method"]["name"],
            "step": card["step"],
            "steps": card["steps"],
            "trainable_parameters": card.get("trainable_parameters"),
        },
        base=base,
    )


def _own_measures(
    card: dict[str, Any], facts: dict[str, Any], lines: Sequence[dict[str, Any]]
) -> list[Measure]:
    """The losses that training itself measured."""
    losses = card["metrics"]["validation_loss"]
    general = card["metrics"]["general_loss"]
    table = [
        Measure(
            "validation loss",
            losses["base"],
            losses["adapted"],
            "lower",
            "How wrong the model is about recordings of yours that it was not trained on, in "
            f"{loss_unit(card['base'].get('family', ''))}.",
            n=facts["data"]["valid"]["clips"],
        )
    ]
    if general["base"] is not None:
        # Both of the same weights: those that were kept, not those that came last.
        kept = next((x for x in lines if x["kind"] == "valid" and x["step"] == card["step"]), {})
        table.append(
            Measure(
                "general loss",
                general["base"],
                kept.get("general_loss", general["last"]),
                "lower",
                "The same for other music. If it rises, the model is forgetting what it knew.",
                n=facts["data"]["general"]["clips"],
            )
        )
    return table + _judged(card)


def _judged(card: dict[str, Any]) -> list[Measure]:
    """What chose the weights of a voice."""
    told, heard = card["metrics"].get("judged") or {}, of_training(card)
    if heard is None or heard.error_before is None:
        return []
    similarity = Measure(
        "similarity while training",
        heard.before,
        heard.after,
        "higher",
        "How like the voice the takes of held-out sentences are (mean cosine); before is zero-shot.",
        n=told.get("takes"),
        embedding=told.get("ear", ""),
    )
    error = Measure(
        f"{heard.unit} error while training",
        heard.error_before,
        heard.error_after,
        "lower",
        f"Share of the {heard.unit}s heard in recordings of those sentences that takes have wrongly.",
        n=told.get("takes"),
        embedding=told.get("recogniser", ""),
    )
    return [similarity, error]


def _joined(own: Sequence[Measure], found: Sequence[Measure]) -> list[Measure]:
    """The evaluation's lines, losses first, and those of training's own that it has not."""
    names = {one.name for one in found if one.base is not None and one.adapted is not None}
    kept = [one for one in own if one.name not in names]
    dropped = {one.name for one in kept}
    rest = [one for one in found if one.name not in dropped]
    losses = [one for one in rest if one.key in (LOSS, *GENERAL)]
    return [*losses, *kept, *(one for one in rest if one not in losses)]


def _pair(table: Sequence[Measure], key: str) -> Pair | None:
    one = next((one for one in table if one.name == key.replace("_", " ")), None)
    return Pair(one.base, one.adapted) if one else None


def _unheard(
    verdict: Verdict, command: str, evaluation: Evaluation | None, subject: str | None
) -> Verdict:
    said = f"How it sounds was not measured: {command} generates with and without it, and compares."
    if evaluation and subject:
        found = evaluation.of(subject, "gap") or evaluation.of(subject, "kad")
        why = f" ({found.missing})" if found and found.missing else ""
        said = f"Whether it sounds closer to your recordings could not be told{why}."
    return Verdict(verdict.word, verdict.headline, (*verdict.sentences, said), verdict.caution)


def _stale(step: int | None, kept: int, folder: Path) -> list[Pitfall]:
    if step is None or step == kept:
        return []
    return [
        Pitfall(
            f"The evaluation is of the weights of step {step}, the adapter is of step {kept}.",
            f"Measure again: `tunesmith evaluate {folder.name}`.",
            name="stale evaluation",
        )
    ]


def _rights(card: dict[str, Any]) -> Rights:
    base = card["base"]
    notes = [f"The adapter works on {base['name']} with the fingerprint {base['hash'][:16]} only."]
    if "NC" in base["licence"].upper().split("-"):
        notes.append("The base's weights exclude commercial use; so does what is made with them.")
    if consent := card.get("consent"):
        notes.append(f"Consent of the voice's owner: {consent}")
    return Rights(base["licence"], card["rights"], notes)


def preview_rows(folder: Path) -> list[Row]:
    """Each preview prompt before (step 0) and after (the last preview)."""
    steps = sorted((folder / "previews").glob("step-*"))
    if len(steps) < 2:
        return []
    rows = []
    for first in sorted(steps[0].glob("*.flac")):
        last = steps[-1] / first.name
        if last.is_file():
            made_of = read_made_of(first)
            after = f"after ({int(steps[-1].name.removeprefix('step-'))} steps)"
            asked = str(read_made_of(last).get("asked", ""))
            said = f"asked as: {asked}" if asked not in ("", made_of.get("prompt")) else ""
            rows.append(
                Row(
                    str(made_of.get("prompt", "")),
                    made_of.get("seed"),
                    [Track("base", first), Track(after, last, said)],
                )
            )
    return rows
