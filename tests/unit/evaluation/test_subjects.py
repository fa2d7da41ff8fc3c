"""Words to subjects: runs bring their base, folders are recordings, training clips are no reference."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tiny import write_noise
from tunesmith.errors import UserError
from tunesmith.evaluation.subjects import (
    files_in,
    general_of,
    reference_of,
    training_clips,
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
