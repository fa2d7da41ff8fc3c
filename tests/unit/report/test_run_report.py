"""A run's page and its JSON: from one description, honest about what is missing, strict, escaped."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluated import EMBEDDING, PROMPTS, evaluation_of, findings, memorised, write_run

from tunesmith.errors import UserError
from tunesmith.evaluation.findings import Evaluation, Finding, to_json
from tunesmith.metrics.gap import Gap
from tunesmith.report.as_json import dumps, joined, plain_values, report_json, unique
from tunesmith.report.contents import Measure, Pitfall, Report, Rights
from tunesmith.report.gap import GapClosed
from tunesmith.report.page import render
from tunesmith.report.run import report_on_run, run_report
from tunesmith.report.verdict import Verdict

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"
KEYS = {"value", "interval", "n", "embedding", "better", "p_value", "warnings", "missing"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "my run")


@pytest.fixture
def measured(run: Path, tmp_path: Path) -> Evaluation:
    return evaluation_of(tmp_path / "takes", {"my run": run})


def strict(path: Path) -> dict[str, Any]:
    """JSON without NaN and without a key that stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(path.read_text(), parse_constant=refuse, object_pairs_hook=once)


def text_of(html: str) -> str:
    """The page as it reads, without sound and pictures."""
    html = re.sub(r'<span class="on">(.*?)</span>|</?code>', r"\1", html)
    bare = re.sub(r"<style>.*?</style>|<script>.*?</script>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", bare)))


def test_both_are_written_and_say_the_same(run: Path, measured: Evaluation):
    (run / "evaluation.json").write_text(json.dumps(to_json(measured)))
    page = report_on_run(run)
    told, text = strict(run / "report.json"), text_of(page.read_text())
    assert told["verdict"] == "better"
    for sentence in (told["headline"], *told["evidence"]):
        assert re.sub(r"\s+", " ", sentence.replace("`", "")) in text
    assert told["metrics"]["kad"] == {
        "value": 9.0,
        "interval": [pytest.approx(8.73), pytest.approx(9.27)],
        "n": 64,
        "n_reference": 128,
        "embedding": EMBEDDING,
        "better": "lower",
        "p_value": 0.002,
        "warnings": [],
        "missing": None,
        "explanation": "Of it.",
        "base": told["metrics"]["kad"]["base"],
    }
    assert told["metrics"]["kad"]["base"]["value"] == 17.0
    assert "17.00 16.49 to 17.51" in text and "9.00 8.73 to 9.27" in text
    assert "64 against 128 clips" in text and EMBEDDING in text
    assert told["run"]["step"] == 4 and told["base"]["name"] == "tiny"
    assert told["settings"]["train"] == {"lr": 0.002} and told["rights"]["data_rights"] == "mine"
    assert not list(run.glob(".tmp*"))


def test_every_metric_has_value_interval_n_and_embedding(run: Path, measured: Evaluation):
    told = report_json(run_report(run, evaluation=measured))
    assert set(told["metrics"]) == {
        "validation_loss", "general_loss", "kad", "clap", "fad", "vendi",
    }  # fmt: skip
    for one in told["metrics"].values():
        assert one.keys() >= KEYS and one["base"].keys() == one.keys() - {"base"}
        assert (one["value"] is None) == bool(one["missing"])
    fad = told["metrics"]["fad"]
    assert (fad["value"], fad["interval"], fad["missing"]) == (None, None, "it needs 320 takes")
    assert told["metrics"]["validation_loss"]["embedding"] is None
    assert told["metrics"]["validation_loss"]["interval"] is not None


def test_without_an_evaluation_it_says_what_would_measure(run: Path):
    page = report_on_run(run)
    told, text = strict(run / "report.json"), text_of(page.read_text())
    assert told["verdict"] == "better"  # the loss alone
    assert "`tunesmith evaluate my run`" in told["evidence"][-1]
    memory = told["memorisation"]
    assert memory["flagged"] is None and memory["copies"] is None and memory["matches"] == []
    assert "tunesmith evaluate" in memory["missing"]
    assert text.count("tunesmith evaluate my run") == 2
    assert "Not measured: not looked for" in text
    assert set(told["metrics"]) == {"validation_loss", "general_loss"}
    # Of the weights that were kept, not of the last.
    assert told["metrics"]["general_loss"]["value"] == 2.95


def test_copies_turn_a_good_word_into_a_warning(run: Path, tmp_path: Path):
    copied = evaluation_of(tmp_path / "takes", {"my run": run}, copies=("my run",))
    report = run_report(run, evaluation=copied)
    told, html = report_json(report), render(report)
    assert told["verdict"] == "better" and told["caution"]
    assert told["headline"].endswith("It copies its training clips: 12 of 64 takes.")
    assert any("12 of 64 takes come nearer" in sentence for sentence in told["evidence"])
    assert told["memorisation"]["flagged"] is True and told["memorisation"]["copies"] == 12
    assert 'class="verdict caution"' in html
    text = text_of(html)
    assert "Distance 0.080, where unheard recordings keep 0.310 or more." in text
    assert "of their codec tokens are the same; up to 21" in text
    assert "Take 000.wav" in text and "Training clip clip.wav" in text
    assert "11 more are not shown here." in text
    # The pair of take and clip, and those of base and run.
    assert html.count("<audio") == 2 + 2 * len(PROMPTS)


def test_a_healthy_run_shows_its_nearest_take_all_the_same(run: Path, measured: Evaluation):
    report = run_report(run, evaluation=measured)
    html, told = render(report), report_json(report)
    assert not told["caution"] and "copies" not in told["headline"]
    assert told["memorisation"]["flagged"] is False and told["memorisation"]["missing"] is None
    assert any(s.startswith("It was not found to copy") for s in told["evidence"])
    assert 'class="verdict better"' in html and "not flagged" in html
    assert "may come as near as 0.310" in text_of(html)


def test_a_take_that_was_deleted_costs_only_itself(run: Path, measured: Evaluation, tmp_path: Path):
    for file in ("takes/my run/000.wav", "takes/clip.wav"):
        (tmp_path / file).unlink()
    html = render(run_report(run, evaluation=measured))
    # The take is missing from its row and from its match, the clip from the match.
    assert html.count("Nothing to play: 000.wav cannot be read") == 2
    assert html.count("Nothing to play: clip.wav cannot be read") == 1
    assert html.count("<audio") == 2 * len(PROMPTS) - 1


def test_hostile_text_in_an_evaluation_stays_text(run: Path, measured: Evaluation):
    subject = measured.subjects["my run"]
    found = memorised(
        subject.takes[0], measured.subjects["tiny"].takes[0], flagged=True, prompt=HOSTILE
    )
    hostile = replace(
        measured,
        prompts=(HOSTILE,) * 3,
        reference=HOSTILE,
        findings=tuple(
            replace(
                one, warnings=(HOSTILE,), missing=HOSTILE, explanation=HOSTILE, embedding=HOSTILE
            )
            for one in measured.findings
        ),
        memorisation={"my run": replace(found, embedding=HOSTILE)},
    )
    pitfall = Pitfall(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 3, {HOSTILE: HOSTILE})
    html = render(run_report(run, evaluation=hostile, pitfalls=[pitfall]))
    assert html.count("<script>") == 1 and "<img src=x" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    assert html.count("{{ 7*7 }}") > 20


def test_an_evaluation_of_other_weights_is_called_stale(run: Path, tmp_path: Path):
    old = evaluation_of(tmp_path / "takes", {"my run": run}, step=8)
    report = run_report(run, evaluation=old)
    assert [one.name for one in report.pitfalls] == ["stale evaluation"]
    assert "step 8" in report.pitfalls[0].what and "step 4" in report.pitfalls[0].what


def test_an_evaluation_of_other_runs_counts_for_nothing(run: Path, tmp_path: Path):
    others = {"a": tmp_path / "a", "b": tmp_path / "b"}
    report = run_report(run, evaluation=evaluation_of(tmp_path / "takes", others, copies=("a",)))
    assert not report.memorisation and not report.before_after
    assert "tunesmith evaluate" in report.verdict.sentences[-1]


def test_a_run_that_was_moved_keeps_its_evaluation(run: Path, measured: Evaluation):
    told = to_json(measured)
    told["subjects"]["my run"]["path"] = "elsewhere"
    (run / "evaluation.json").write_text(json.dumps(told))
    assert "kad" in report_json(run_report(run))["metrics"]


@pytest.mark.parametrize("text", ["{", "[]", '{"subjects": {}}', '{"subjects": 3}'])
def test_a_broken_evaluation_is_named_with_its_mend(run: Path, text: str):
    (run / "evaluation.json").write_text(text)
    with pytest.raises(UserError, match=r"evaluation\.json cannot be read .* remove it"):
        run_report(run)


def test_files_may_be_named_from_the_folder_of_the_run(run: Path):
    inside = evaluation_of(run / "takes", {"my run": run})
    told = json.dumps(to_json(inside)).replace(f"{run}/takes", "takes")
    assert "takes/base/000.wav" in told and f"{run}/takes" not in told
    (run / "evaluation.json").write_text(told)
    assert "cannot be read" not in render(run_report(run))


def test_a_run_that_was_moved_with_its_takes_still_plays_them(run: Path, tmp_path: Path):
    inside = evaluation_of(run / "takes", {"my run": run})
    (run / "evaluation.json").write_text(json.dumps(to_json(inside)))
    moved = run.rename(tmp_path / "moved")
    assert "cannot be read" not in render(run_report(moved))


def test_forgetting_by_general_prompts_and_a_number_of_the_run_alone(
    run: Path, measured: Evaluation
):
    anchor = Finding(
        "general_kad", "my run", 6.0, "lower", n=64, p_value=0.001,
        details={"base against itself": 0.1},
    )  # fmt: skip
    share = Finding("memorisation", "my run", 0.02, "lower", n=64)
    more = replace(measured, findings=(*measured.findings, anchor, share))
    report = run_report(run, evaluation=more)
    assert any("no longer sounds like the base: KAD 6.00" in s for s in report.verdict.sentences)
    assert "paid" not in report.verdict.headline  # the loss on other music says that it kept it
    told = report_json(report)["metrics"]
    assert told["general_kad"]["base"]["value"] == 0.1
    assert told["memorisation"]["base"]["value"] is None
    assert "no base to compare" in render(report)


def test_why_copies_could_not_be_looked_for_is_told(run: Path, measured: Evaluation):
    silent = Finding("memorisation", "my run", None, "lower", missing="the clips are gone")
    gone = replace(measured, findings=(*measured.findings, silent), memorisation={})
    report = run_report(run, evaluation=gone)
    assert report_json(report)["memorisation"]["missing"] == "the clips are gone"
    assert "Not measured: the clips are gone." in text_of(render(report))


def test_pitfalls_of_the_run_are_told_once(tmp_path: Path):
    one = {
        "kind": "pitfall", "step": 6, "name": "training too long", "message": "it turned",
        "mend": "stop at `train.steps=4`", "action": "stopped", "values": {"now": 3.7},
    }  # fmt: skip
    run = write_run(tmp_path / "run", pitfalls=(one, one, {"kind": "pitfall", "step": 7}))
    facts = json.loads((run / "run.json").read_text())
    facts["pitfalls"] = [{"name": "data too homogeneous", "message": "all alike", "mend": "more"}]
    (run / "run.json").write_text(json.dumps(facts))
    page = report_on_run(run)
    told = strict(run / "report.json")["pitfalls"]
    assert [one["name"] for one in told] == ["data too homogeneous", "training too long"]
    assert told[1] == {
        "name": "training too long", "message": "it turned", "mend": "stop at `train.steps=4`",
        "action": "stopped", "step": 6, "values": {"now": 3.7},
    }  # fmt: skip
    text = text_of(page.read_text())
    assert "It turned." in text and "Done: stopped." in text and "Step 6: now 3.7" in text
    assert "<code>train.steps=4</code>" in page.read_text()


def test_what_the_data_set_says_is_told(tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset.json").write_text(
        json.dumps({"faults": {"low_level": 3}, "warnings": ["few"]})
    )
    verdict = {"word": "too little", "method": "lora", "sentences": ["9 recordings."]}
    (data / "check.json").write_text(
        json.dumps({"verdicts": [verdict], "findings": [{"what": "x"}]})
    )
    told = run_report(write_run(tmp_path / "run", data=str(data))).data
    assert told["faults"] == "low level 3" and told["warnings"] == "few"
    assert told["check"] == "too little for lora. 9 recordings." and told["doubtful"] == "x"


def test_one_metric_by_two_embeddings_has_two_keys(run: Path, measured: Evaluation):
    again = tuple(
        replace(one, embedding="clap", value=2.0 * (one.value or 0.0))
        for one in (*findings("tiny", kad=17.0), *findings("my run", kad=9.0))
        if one.metric == "kad"
    )
    told = report_json(
        run_report(run, evaluation=replace(measured, findings=measured.findings + again))
    )
    assert told["metrics"]["kad"]["value"] == 9.0  # the first decides
    assert told["metrics"]["kad (clap)"]["value"] == 18.0
    assert unique([("a", "x"), ("a", "x"), ("a", ""), ("a", "x")]) == ["a", "a (x)", "a 2", "a 3"]


def test_json_is_strict_whatever_the_report_holds():
    odd: dict[Any, Any] = {"path": Path("a"), "nested": {"inf": [math.inf, (1, True)]}, 3: None}
    report = Report(
        "t \udcff",
        Verdict("not measured", "h"),
        metrics=[
            Measure("no number", math.nan, math.inf, "lower", "e", interval=(0.0, math.nan)),
            Measure("half", 1.0, 2.0, "lower", "e", interval=(0.0, math.inf)),
        ],
        data={"nan": math.nan, "numpy": np.float64(2.5), "whole": np.int64(3), "set": {1}},
        settings=odd,
        rights=Rights("MIT", "mine"),
        pitfalls=[Pitfall("p", values={"nan": math.nan})],
    )
    told = report_json(report)
    assert json.loads(dumps(told)) == told
    assert told["metrics"]["no_number"]["value"] is None
    assert told["metrics"]["no_number"]["missing"] == "it is not a finite number"
    assert told["metrics"]["no_number"]["interval"] is told["metrics"]["half"]["interval"] is None
    assert told["data"] == {"nan": None, "numpy": 2.5, "whole": 3, "set": [1]}
    assert told["settings"] == {"path": "a", "nested": {"inf": [None, [1, True]]}, "3": None}
    assert told["pitfalls"][0]["values"] == {"nan": None}


def test_a_bare_report_has_every_key():
    told = report_json(Report("t", Verdict("not measured", "h")))
    assert told.keys() == {
        "verdict", "headline", "caution", "evidence", "metrics", "memorisation", "pitfalls",
        "data", "settings", "rights", "versions", "run", "base",
    }  # fmt: skip
    assert told["rights"] is None and told["run"] == {"name": "t"}


def test_gap_closed_is_a_metric_like_the_others():
    gap = Gap(17.0, 5.0, (9.0,), 12.0, 1.0, (0.66,), (0.1,), 0.002, 128, 64, 1.0, ("few",))
    told = report_json(
        Report("t", Verdict("better", "h"), gap=GapClosed(gap, EMBEDDING, ["seed 0"]))
    )
    one = told["metrics"]["gap_closed"]
    assert (one["value"], one["interval"], one["n"], one["embedding"]) == (
        0.66,
        None,
        64,
        EMBEDDING,
    )
    assert one["base"]["value"] == 0.0 and one["p_value"] == 0.002 and one["warnings"] == ["few"]


def test_further_keys_are_joined_and_take_precedence():
    told = joined({"base": {"name": "b"}, "n": 1}, {"base": {"kad": math.nan}, "n": {"a": 2}})
    assert told == {"base": {"name": "b", "kad": None}, "n": {"a": 2}}
    assert plain_values((1.5, None, "x")) == [1.5, None, "x"]
