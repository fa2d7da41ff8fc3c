"""Evaluation end to end on a tiny base: every number there, twice the same, and honest where it cannot."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.tiny import write_noise
from tunesmith.errors import UserError
from tunesmith.evaluation.evaluate import FILE, Wishes, evaluate
from tunesmith.evaluation.findings import Evaluation, Finding, Subject, from_json, to_json
from tunesmith.evaluation.pick import candidates, pick, take_over
from tunesmith.formats.adapter import read_card, read_state
from tunesmith.formats.sound import read_made_of
from tunesmith.report.as_json import report_json
from tunesmith.report.compare import comparison_report
from tunesmith.report.evaluation import report_on_evaluation
from tunesmith.report.verdict import plain

QUICK = Wishes(embeddings=("pocket",), takes=6, general_takes=4, seconds=0.5, workers=1)


@pytest.fixture(scope="module")
def measured(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    out = tmp_path_factory.mktemp("evaluation")
    return evaluate([tiny_run], out=out, wishes=QUICK), out


def test_every_metric_is_there_for_base_and_run(measured: tuple[Evaluation, Path]):
    found, _ = measured
    assert {key: one.kind for key, one in found.subjects.items()} == {"base": "base", "mine": "run"}
    for metric in (
        "kad",
        "fad",
        "fad_inf",
        "coverage",
        "density",
        "vendi",
        "validation_loss",
        "anchor_loss",
    ):
        for subject in found.subjects:
            one = found.of(subject, metric)
            assert one is not None, metric
            assert (one.value is not None and math.isfinite(one.value)) or one.missing, metric
            assert one.n and one.explanation, metric
    for metric in ("gap", "general_kad", "memorisation"):
        assert found.of("mine", metric) is not None and found.of("base", metric) is None
    general = found.of("mine", "general_kad")
    assert general is not None and general.interval is not None and general.value is not None
    assert general.interval[0] <= general.value <= general.interval[1]
    assert all(one.embedding for one in found.findings if one.metric in ("kad", "fad", "gap"))
    kad = found.of("mine", "kad")
    assert kad is not None and kad.value is not None and kad.interval is not None
    assert kad.interval[0] <= kad.value <= kad.interval[1]


def test_takes_of_all_models_are_twins(measured: tuple[Evaluation, Path]):
    found, _ = measured
    made = [[read_made_of(Path(file)) for file in one.takes] for one in found.subjects.values()]
    assert len(made) == 2 and all(len(takes) == 6 for takes in made)
    for base, own in zip(*made, strict=True):
        assert (base["prompt"], base["seed"]) == (own["prompt"], own["seed"])
        assert base["adapter"] == "" and own["adapter"]


def test_it_is_kept_and_gives_the_same_again(measured: tuple[Evaluation, Path], tiny_run: Path):
    found, out = measured
    told = json.loads((out / FILE).read_text())
    assert from_json(told) == found
    assert json.loads(json.dumps(to_json(from_json(told)))) == told
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.flac")}
    again = evaluate([tiny_run], out=out, wishes=QUICK)
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.flac")} == stamps


def test_few_unheard_clips_tell_nothing_of_copies(measured: tuple[Evaluation, Path]):
    found, _ = measured
    one = found.of("mine", "memorisation")
    assert one is not None and one.value is None and "too few" in one.missing
    assert not found.memorisation


def test_folders_are_measured_against_given_recordings(tmp_path: Path):
    for side in ("real", "takes", "same"):
        for index in range(4):
            seed = index if side != "takes" else 40 + index
            write_noise(tmp_path / side / f"{index}.wav", 1.0, seed, rate_hz=16_000)
    wishes = Wishes(embeddings=("pocket",), workers=1)
    found = evaluate(
        [tmp_path / "takes", tmp_path / "same"],
        out=tmp_path / "out",
        reference=tmp_path / "real",
        wishes=wishes,
    )
    same, other = found.of("same", "fad"), found.of("takes", "fad")
    assert same is not None and same.value == pytest.approx(0.0, abs=1e-6)
    assert other is not None and other.value is not None and other.value > 1e-4
    assert found.of("same", "validation_loss") is None


def test_mistakes_are_told_before_anything_is_made(tiny_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="2 takes prove nothing"):
        evaluate([tiny_run], out=tmp_path / "out", wishes=Wishes(takes=2))
    with pytest.raises(UserError, match="2 takes of general prompts"):
        evaluate([tiny_run], out=tmp_path / "out", wishes=Wishes(general_takes=2))
    with pytest.raises(UserError, match="more than 2,000 takes"):
        evaluate([tiny_run], out=tmp_path / "out", wishes=Wishes(takes=2001))
    with pytest.raises(UserError, match="embedding"):
        evaluate([tiny_run], out=tmp_path / "out", wishes=Wishes(embeddings=("nonsense",)))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_can_be_picked(tiny_run: Path, tmp_path: Path):
    import shutil

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    folders = candidates(run, tmp_path / "all")
    assert sorted(folders) == [3, 6, 9]
    card = read_card(run)
    assert folders[card["step"]] == run
    other = next(folder for step, folder in folders.items() if step != card["step"])
    assert read_card(other)["components"] != card["components"]
    wishes = Wishes(embeddings=("pocket",), takes=4, seconds=0.5, workers=1)
    picked = pick(run, out=tmp_path / "picking", wishes=wishes)
    assert sorted(picked.kad) == [3, 6, 9] == sorted(picked.loss)
    nearest = min(picked.kad, key=lambda step: picked.kad[step])
    assert picked.step == nearest or picked.loss[picked.step] <= picked.loss[nearest]
    assert read_card(run)["step"] == picked.step
    if picked.step != picked.before:
        wanted = read_state(tmp_path / "picking" / "checkpoints" / f"step-{picked.step:08d}")
        own = read_state(run)
        assert all((own[part][k] == v).all() for part in wanted for k, v in wanted[part].items())


def test_the_weights_of_the_lowest_loss_can_be_picked_again(tiny_run: Path, tmp_path: Path):
    import shutil

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    best = read_card(run)["step"]
    other = next(step for step in (3, 6, 9) if step != best)
    take_over(candidates(run, tmp_path / "all")[other], run)
    assert read_card(run)["step"] == other and f"Step {other} of" in (run / "README.md").read_text()
    shutil.rmtree(run / "checkpoints" / f"step-{best:08d}")
    again = candidates(run, tmp_path / "again")
    assert best in again
    kept, first = read_state(again[best]), read_state(tiny_run)
    assert all((kept[part][k] == v).all() for part in first for k, v in first[part].items())


def test_an_adapter_without_its_run_is_measured_and_reported(tiny_run: Path, tmp_path: Path):
    import shutil

    alone = Path(shutil.copytree(tiny_run, tmp_path / "an adapter"))
    (alone / "run.json").unlink()  # as `push` leaves it out
    shutil.rmtree(alone / "checkpoints")
    with pytest.raises(UserError, match="nothing here says what to compare with"):
        evaluate([alone], out=tmp_path / "out", wishes=QUICK)
    for index in range(4):
        write_noise(tmp_path / "real" / f"{index}.wav", 0.6, 70 + index)
    out = tmp_path / "out"
    found = evaluate([alone], out=out, reference=tmp_path / "real", wishes=QUICK)
    one = found.of("an adapter", "memorisation")
    assert one is not None and one.value is None and "not there" in one.missing
    page, verdicts = report_on_evaluation(found, out)
    assert page.is_file() and list(verdicts) == ["an adapter"]
    told = json.loads((out / "report.json").read_text())
    assert told["metrics"]["kad"]["base"]["value"] == found.of("base", "kad").value


def test_two_bases_and_their_runs_are_each_compared_with_their_own(
    tiny_run: Path, other_base: Path, noises: Path, tmp_path: Path
):
    out = tmp_path / "out"
    found = evaluate([other_base, tiny_run], out=out, wishes=QUICK)
    assert list(found.subjects) == ["base", "base-2", "mine"]
    assert found.base_of("mine") == "base-2" and found.subjects["base"].name == other_base.name
    own, other = found.of("base-2", "kad"), found.of("base", "kad")
    assert own is not None and other is not None and own.value != other.value
    told = report_json(comparison_report(found))
    assert told["metrics"]["kad"]["base"]["value"] == own.value
    assert told["subjects"]["base-2"]["metrics"]["kad"]["base"] is None
    # Its verdict compares it with its own base, too.
    report_on_evaluation(found, out)
    evidence = json.loads((out / "report.json").read_text())["evidence"]
    assert any(f"from {plain(own.value)} to" in sentence for sentence in evidence)


def test_a_base_alone_is_measured_and_not_judged(tiny_base: Path, noises: Path, tmp_path: Path):
    found = evaluate([tiny_base], out=tmp_path, reference=noises, wishes=QUICK)
    page, verdicts = report_on_evaluation(found, tmp_path)
    assert not verdicts and "Nothing was adapted here" in page.read_text()
    assert found.of("base", "kad").value is not None and found.of("base", "gap") is None


def test_a_loss_that_broke_down_is_written_and_read_back():
    broken = Finding("validation_loss", "run", math.nan, "lower", (math.nan, math.nan), n=4)
    found = Evaluation({"run": Subject("run", "run")}, "held-out", (), (), 1.0, (broken,))
    told = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert told["findings"][0]["value"] is None and told["findings"][0]["interval"] is None
    again = from_json(told).findings[0]
    assert again.value is not None and math.isnan(again.value)


def test_one_checkpoint_is_no_choice(tiny_run: Path, tmp_path: Path):
    import shutil

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="no other whole checkpoint"):
        candidates(run, tmp_path / "all")
