"""The page of an evaluation: a run's own, or a comparison of several."""

from __future__ import annotations

from pathlib import Path

from tunesmith.evaluation.findings import Evaluation
from tunesmith.report.as_json import write_json
from tunesmith.report.compare import comparison_report, verdict_of
from tunesmith.report.page import write_report
from tunesmith.report.run import is_run, preview_rows, run_report
from tunesmith.report.verdict import Verdict


def report_on_evaluation(evaluation: Evaluation, folder: Path) -> tuple[Path, dict[str, Verdict]]:
    """Write ``report.html`` and ``report.json`` into ``folder``.

    One run has the page of a run, wherever it is written. Several, or none, have a comparison; so
    has an adapter that came without its run, as from the hub.

    Args:
        evaluation: its files must be paths that can be read from here.
        folder: where to; it must exist.

    Returns:
        The page, and the verdict on each run by its name.

    Raises:
        UserError: a run's folder cannot be read, or ``folder`` not be written to.
    """
    runs = {key: one for key, one in evaluation.subjects.items() if one.kind == "run"}
    others = [one for one in evaluation.subjects.values() if one.kind == "folder"]
    path = next(iter(runs.values())).path if len(runs) == 1 and not others else ""
    if path and is_run(Path(path)):
        report = run_report(Path(path), evaluation=evaluation, rows=preview_rows(Path(path)))
        verdicts = {next(iter(runs.values())).name: report.verdict}
    else:
        report = comparison_report(evaluation)
        verdicts = {one.name: verdict_of(evaluation, key) for key, one in runs.items()}
    write_json(report, folder / "report.json")
    return write_report(report, folder / "report.html"), verdicts
