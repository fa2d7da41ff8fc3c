"""Several runs beside each other: which of them came closest, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Evaluation, Finding, Subject
from tunesmith.report.as_json import unique
from tunesmith.report.contents import Column, Compared, Comparison, Pitfall, Report
from tunesmith.report.evaluated import about, name_of, take_rows, weighed
from tunesmith.report.verdict import Pair, Verdict, between, copying, judge, plain

_PLAYERS = 24
"""Takes to be heard, over all subjects."""


def comparison_report(evaluation: Evaluation, *, title: str = "") -> Report:
    """A page about all subjects of an evaluation, for any folder.

    The verdict is that of the run that came closest to the recordings, by KAD, else by validation
    loss; where neither was measured it is of the first run, and says so.

    Args:
        evaluation: its files must be paths that can be read from here.
        title: of the page.

    Raises:
        UserError: there is nothing to compare.
    """
    if not evaluation.subjects:
        raise UserError("there is nothing to compare", "give runs, bases or folders")
    rows = _rows(evaluation)
    lead, ranking = _lead(evaluation)
    verdict = _verdict(evaluation, lead, ranking)
    labels = {key: one.name for key, one in evaluation.subjects.items()}
    heard = {key: labels[key] for key, one in evaluation.subjects.items() if one.kind != "folder"}
    prompts = max(2, _PLAYERS // max(1, len(heard)))
    return Report(
        title=title or f"{len(labels)} compared",
        subtitle=", ".join(labels.values()),
        verdict=verdict,
        before_after=take_rows(evaluation, heard, min(6, prompts)) if len(heard) > 1 else [],
        comparison=Comparison(
            [
                Column(key, one.name, _about(one), _against(evaluation, key))
                for key, one in evaluation.subjects.items()
            ],
            rows,
            lead,
        ),
        pitfalls=_broken(evaluation, labels),
        data=about(evaluation),
        memorisation=evaluation.memorisation,
        memorisation_missing="no trained run was looked at for copies",
        run={"name": labels[lead], "path": evaluation.subjects[lead].path or None},
        base={"name": labels[evaluation.base_of(lead)]},
    )


def _against(evaluation: Evaluation, key: str) -> str:
    base = evaluation.base_of(key)
    return "" if base == key or evaluation.subjects[key].kind == "base" else base


def _about(one: Subject) -> str:
    what = {"base": "base", "run": "run", "folder": "recordings"}[one.kind]
    return f"{what}, step {one.step}" if one.step is not None else what


def _rows(evaluation: Evaluation) -> list[Compared]:
    """A row for each metric and embedding, in the order of the findings."""
    found: dict[tuple[str, str], dict[str, Finding]] = {}
    for one in evaluation.findings:
        found.setdefault((one.metric, one.embedding), {})[one.subject] = one
    rows = []
    for key, (metric, cells) in zip(
        unique(list(found)), ((m, c) for (m, _), c in found.items()), strict=True
    ):
        first = next(iter(cells.values()))
        told = next((one.explanation for one in cells.values() if one.explanation), "")
        rows.append(
            Compared(
                key,
                name_of(metric),
                first.better,
                told,
                [cells.get(subject) for subject in evaluation.subjects],
            )
        )
    return rows


def _lead(evaluation: Evaluation) -> tuple[str, list[Finding]]:
    """Key of the run that the verdict is about, and the runs' numbers that put it there."""
    runs = [key for key, one in evaluation.subjects.items() if one.kind == "run"]
    for metric in ("kad", "validation_loss"):
        known = [
            one
            for key in runs
            if (one := evaluation.of(key, metric)) is not None and one.value is not None
        ]
        if known:
            ranking = sorted(known, key=lambda one: one.value or 0.0)
            return ranking[0].subject, ranking
    others = list(evaluation.subjects)
    return (runs or others[1:] or others)[0], []


def _verdict(evaluation: Evaluation, lead: str, ranking: list[Finding]) -> Verdict:
    own = verdict_of(evaluation, lead)
    name = evaluation.subjects[lead].name
    sentences = [*_ranked(ranking, evaluation.subjects), *own.sentences]
    for key, found in evaluation.memorisation.items():
        if key != lead and found.flagged:
            sentences.append(f"{evaluation.subjects[key].name}: {copying(found)[0]}")
    headline = own.headline
    if len(ranking) > 1:
        headline = f"{name} came closest of {len(ranking)} runs. {headline}"
    elif evaluation.subjects[lead].kind == "run":
        headline = f"{name}: {headline}"
    return Verdict(own.word, headline, tuple(sentences), own.caution)


def verdict_of(evaluation: Evaluation, subject: str) -> Verdict:
    """On one run, by what the evaluation has of it alone; bases and folders are not judged."""
    base = evaluation.base_of(subject)
    if base == subject or evaluation.subjects[subject].kind != "run":
        return Verdict("not measured", "Nothing was adapted here, so there is nothing to judge.")
    what = weighed(evaluation, subject, base)
    return judge(
        valid=what.valid or Pair(None, None),
        n_valid=what.n_valid,
        general=what.general,
        anchor=what.anchor,
        kad=what.kad,
        closed=what.closed,
        adherence=what.adherence,
        memorisation=what.memorisation,
        voice=what.voice,
    )


def _ranked(ranking: list[Finding], subjects: Mapping[str, Subject]) -> list[str]:
    """The order of the runs, and whether chance could have made it."""
    if len(ranking) < 2:
        return []
    order = ", ".join(f"{subjects[one.subject].name} {plain(one.value)}" for one in ranking)
    best, second = ranking[0], ranking[1]
    said = [f"By {name_of(best.metric)}, lower is closer: {order}."]
    names = (subjects[best.subject].name, subjects[second.subject].name)
    if best.interval is None or second.interval is None:
        said.append(f"Whether {names[0]} is truly closer than {names[1]} was not tested.")
    elif best.interval[1] >= second.interval[0]:
        said.append(
            f"Their 95 % intervals overlap ({between(best.interval)} and {between(second.interval)}), "
            f"so chance may have put {names[0]} before {names[1]}."
        )
    return said


def _broken(evaluation: Evaluation, labels: Mapping[str, str]) -> list[Pitfall]:
    return [
        Pitfall(f"{labels[key]} copies its training clips.", "Train less, or with more recordings.")
        for key, found in evaluation.memorisation.items()
        if found.flagged
    ]
