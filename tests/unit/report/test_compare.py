"""Several runs on one page: who is ahead, how sure that is, and everybody's numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import PROMPTS, evaluation_of, write_run

from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Evaluation, Subject
from tunesmith.report.as_json import report_json
from tunesmith.report.compare import comparison_report
from tunesmith.report.evaluation import report_on_evaluation
from tunesmith.report.page import render

RUNS = ("near", "far", "farther")


def of(tmp_path: Path, **more) -> Evaluation:
    return evaluation_of(tmp_path, {name: tmp_path / name for name in RUNS}, **more)


def test_the_nearest_run_leads_and_all_are_told(tmp_path: Path):
    report = comparison_report(of(tmp_path))
    told = report_json(report)
    assert told["headline"].startswith("near came closest of 3 runs.")
    assert told["verdict"] == "better"
    assert told["metrics"] == told["subjects"]["near"]["metrics"]
    assert [one["metrics"]["kad"]["value"] for one in told["subjects"].values()] == [17, 9, 10, 11]
    assert told["subjects"]["tiny"]["metrics"]["kad"]["base"] is None
    assert told["subjects"]["far"]["metrics"]["kad"]["base"]["value"] == 17
    assert told["subjects"]["tiny"]["memorisation"]["flagged"] is None
    html = render(report)
    assert html.count('<th scope="col" role="columnheader"') == 1 + 4
    # Each prompt through each of the four, and a take and a clip for each run.
    assert html.count("<audio") == 4 * len(PROMPTS) + 2 * 3


def test_overlapping_intervals_make_no_winner(tmp_path: Path):
    clear = comparison_report(of(tmp_path / "clear")).verdict
    assert not any("overlap" in sentence for sentence in clear.sentences)  # 9 ± 3 %, 10 ± 3 %
    close = of(tmp_path / "close", kad=90.0)
    assert any("overlap (87.30 to 92.70" in s for s in comparison_report(close).verdict.sentences)
    bare = replace(close, findings=tuple(replace(one, interval=None) for one in close.findings))
    assert any("was not tested" in s for s in comparison_report(bare).verdict.sentences)


def test_a_copying_winner_is_said_so_in_the_headline(tmp_path: Path):
    report = comparison_report(of(tmp_path, copies=("near",)))
    assert "It copies its training clips: 12 of 64 takes." in report.verdict.headline
    assert report.verdict.caution
    assert report_json(report)["memorisation"]["flagged"] is True


def test_a_copying_loser_is_named_too(tmp_path: Path):
    report = comparison_report(of(tmp_path, copies=("farther",)))
    assert "copies" not in report.verdict.headline
    assert any(s.startswith("farther: It copies") for s in report.verdict.sentences)
    assert [one.what for one in report.pitfalls] == ["farther copies its training clips."]
    assert report_json(report)["subjects"]["farther"]["memorisation"]["flagged"] is True


def test_a_folder_of_recordings_is_measured_but_not_played_along(tmp_path: Path):
    one = of(tmp_path)
    folder = Subject("folder", "real", one.subjects["tiny"].takes)
    report = comparison_report(replace(one, subjects={**one.subjects, "real": folder}))
    assert [len(row.tracks) for row in report.before_after] == [4] * len(PROMPTS)
    assert report.comparison is not None and report.comparison.columns[-1].about == "recordings"
    assert all(row.cells[-1] is None for row in report.comparison.rows)
    assert render(report)


def test_without_distances_no_run_leads_by_them(tmp_path: Path):
    one = of(tmp_path)
    rest = tuple(f for f in one.findings if f.metric not in ("kad", "validation_loss"))
    verdict = comparison_report(replace(one, findings=rest)).verdict
    assert verdict.word == "not measured" and verdict.headline.startswith("near: ")


def test_nothing_to_compare(tmp_path: Path):
    with pytest.raises(UserError, match="nothing to compare"):
        comparison_report(replace(of(tmp_path), subjects={}))


def test_one_run_gets_its_own_page_wherever_it_is_written(tmp_path: Path):
    run = write_run(tmp_path / "run")
    page, verdicts = report_on_evaluation(evaluation_of(tmp_path, {"run": run}), tmp_path)
    assert page == tmp_path / "report.html" and (tmp_path / "report.json").is_file()
    assert {name: one.word for name, one in verdicts.items()} == {"run": "better"}
    assert "Licence and rights" in page.read_text() and not (run / "report.html").exists()


def test_several_runs_get_a_comparison_and_a_verdict_each(tmp_path: Path):
    page, verdicts = report_on_evaluation(of(tmp_path, copies=("far",)), tmp_path)
    assert list(verdicts) == list(RUNS)
    assert [one.caution for one in verdicts.values()] == [False, True, False]
    assert "came closest of 3 runs" in page.read_text()
