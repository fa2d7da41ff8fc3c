"""Words to subjects: runs bring their base, folders are recordings, training clips are no reference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import write_data, write_noise
from tunesmith.errors import UserError
from tunesmith.evaluation.subjects import (
    files_in,
    general_clips,
    general_of,
    reference_of,
    training_clips,
    training_hashes,
    wanted,
)


def test_a_run_brings_its_base_once(tiny_run: Path, tiny_base: Path, tmp_path: Path):
    other = shutil.copytree(tiny_run, tmp_path / "mine")
    found = wanted([str(tiny_run), str(other), str(tiny_run)])
    assert [(one.key, one.kind) for one in found] == [
        ("base", "base"),
        ("mine", "run"),
        ("mine-2", "run"),
    ]
    assert found[0].name == tiny_base.name and {one.against for one in found[1:]} == {"base"}


def test_bases_and_folders(tiny_base: Path, tmp_path: Path):
    write_noise(tmp_path / "mine" / "a.wav", 1.0, 0)
    found = wanted([str(tmp_path / "mine"), "pocket", str(tiny_base)])
    assert [one.kind for one in found] == ["base", "base", "folder"]
    assert found[2].key == "mine" and found[2].against == "base"


def test_what_is_nothing_is_told():
    with pytest.raises(UserError, match="'nonsense' is no run, no base and no folder"):
        wanted(["nonsense"])


def test_the_reference_is_what_no_run_has_heard(tiny_run: Path, noises: Path, tmp_path: Path):
    subjects = wanted([str(tiny_run)])
    found = reference_of(None, subjects)
    assert found.split == "valid" and len(found.clips) == 4
    assert "4 held-out clips are few" in found.warnings[0]
    given = reference_of(noises, subjects)
    assert {clip.sha256 for clip in given.clips} == {clip.sha256 for clip in found.clips}
    for index in range(5):
        write_noise(tmp_path / f"{index}.wav", 0.5, 50 + index)
    elsewhere = reference_of(tmp_path, subjects)
    assert len(elsewhere.clips) == 5 and elsewhere.split is None
    with pytest.raises(UserError, match="nothing here says what to compare with"):
        reference_of(None, wanted(["pocket"]))


def test_training_clips_are_those_of_the_run(tiny_run: Path, noises: Path):
    assert len(training_clips(tiny_run)) == 6
    assert all(clip.split == "train" for clip in training_clips(tiny_run))
    assert general_of(None, wanted([str(tiny_run)])) is None


def test_a_folder_of_two_is_too_few(tmp_path: Path):
    for index in range(2):
        write_noise(tmp_path / f"{index}.wav", 0.5, index)
    with pytest.raises(UserError, match="holds 2 sound files, 3 are the least"):
        files_in(str(tmp_path))


def test_clips_that_a_run_heard_are_no_reference_even_on_the_held_out_side(
    tiny_run: Path, noises: Path, tmp_path: Path
):
    data = Path(shutil.copytree(noises, tmp_path / "data"))
    run = Path(shutil.copytree(tiny_run, tmp_path / "mine"))
    told = json.loads((run / "run.json").read_text())
    told["config"]["data"]["path"] = str(data)
    (run / "run.json").write_text(json.dumps(told))
    for name in ("0.wav", "0.txt"):  # divided anew since it was trained
        (data / "train" / name).rename(data / "valid" / f"again {name}")
    found = reference_of(None, wanted([str(run)]))
    assert len(found.clips) == 4 and not any("again" in clip.path.name for clip in found.clips)
    assert not {clip.sha256 for clip in found.clips} & training_hashes(wanted([str(run)]))


def test_general_clips_are_none_that_were_trained_on_or_may_have_been_replayed(
    tiny_run: Path, noises: Path, tmp_path: Path
):
    run = Path(shutil.copytree(tiny_run, tmp_path / "mine"))
    assert {clip.split for clip in general_clips(str(noises), wanted([str(run)]))} == {"valid"}
    other = write_data(tmp_path / "other", (0.5, 0.6, 0.7, 0.8, 0.9), rate_hz=8000)
    assert len(general_clips(str(other), wanted([str(run)]))) == 5
    told = json.loads((run / "run.json").read_text())
    told["config"]["data"]["general"] = str(other)
    for settings in ({"auto_fix": True}, {"replay": {"path": f"{other}/../other"}}):
        changed = {**told, "config": {**told["config"], **settings}}
        (run / "run.json").write_text(json.dumps(changed))
        assert len(general_clips(str(other), wanted([str(run)]))) == 2


def test_two_runs_of_one_name_are_told_apart(tiny_run: Path, tmp_path: Path):
    other = shutil.copytree(tiny_run, tmp_path / "elsewhere" / "mine")
    found = wanted([str(tiny_run), str(other)])
    assert [one.name for one in found[1:]] == ["mine", "elsewhere/mine"]


def test_very_many_recordings_are_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tunesmith.evaluation.subjects._MOST_FILES", 4)
    for index in range(9):
        write_noise(tmp_path / f"{index}.wav", 0.5, index)
    found = reference_of(tmp_path, [])
    assert len({clip.path for clip in found.clips}) == 4
    assert len(files_in(str(tmp_path))) == 4
