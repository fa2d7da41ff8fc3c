"""Captions corrected in a prepared data set."""

from __future__ import annotations

import json

import pytest
from sounds import write

from tunesmith.data import load_dataset, prepare
from tunesmith.data.recaption import EDITED, edited, recaption, restore
from tunesmith.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    for seed in range(4):
        write(tmp_path / "in" / f"{seed}.wav", 6.0, seed)
        (tmp_path / "in" / f"{seed}.txt").write_text(f"piece {seed}", encoding="utf-8")

    def make(**settings):
        prepare(tmp_path / "in", tmp_path / "set", min_s=2, max_s=8, workers=0, **settings)
        return tmp_path / "set"

    return make


def _name(clip):
    return f"{clip.split}/{clip.path.name}"


def test_training_reads_what_was_written_and_the_sound_stays(dataset):
    folder = dataset()
    before = load_dataset(folder)
    clip = before[0]
    assert recaption(folder, {_name(clip): " a  slow\nblues "}) == 1
    after = {_name(one): one for one in load_dataset(folder)}
    mine = after[_name(clip)]
    assert (mine.caption, mine.caption_source, mine.caption_confidence) == (
        "a slow blues",
        EDITED,
        1.0,
    )
    assert mine.sha256 == clip.sha256
    others = [one for one in before if one is not clip]
    assert [after[_name(one)].caption for one in others] == [one.caption for one in others]
    assert recaption(folder, {_name(clip): "a slow blues"}) == 0  # nothing new
    dataset()  # the same command again does nothing, and keeps it
    assert {_name(one): one.caption for one in load_dataset(folder)}[_name(clip)] == "a slow blues"


def test_varied_versions_follow_and_further_captions_go(dataset, tmp_path):
    (tmp_path / "in" / "0.json").write_text(
        json.dumps({"caption": "piece 0", "captions": ["the first one", "number nought"]})
    )
    folder = dataset(augment=["stretch"], variants=2)
    clips = load_dataset(folder)
    with_variants = {one.variant_of for one in clips if one.variant_of}
    clip = next(one for one in clips if one.path.name in with_variants and not one.variant_of)
    recaption(folder, {_name(clip): "a groove at 100 bpm"})
    after = load_dataset(folder)
    followed = [one for one in after if one.variant_of == clip.path.name]
    assert len(followed) == 2
    for one in followed:
        factor = json.loads(one.extra["augmentation"])["tempo_factor"]
        assert one.caption == f"a groove at {round(100 * factor)} bpm" != "a groove at 100 bpm"
    assert all(not one.captions for one in after if one.caption_source == EDITED)


def test_what_is_refused_leaves_the_table_as_it_was(dataset, tmp_path):
    folder = dataset()
    name = _name(load_dataset(folder)[0])
    before = (folder / "train" / "metadata.jsonl").read_bytes()
    for captions in ({name: " \n"}, {name: "x", "train/none.flac": "y"}, {name: "x" * 20_000}):
        with pytest.raises(UserError):
            recaption(folder, captions)
    with pytest.raises(UserError, match="no data set"):
        recaption(tmp_path / "in", {name: "x"})
    assert (folder / "train" / "metadata.jsonl").read_bytes() == before


def test_captions_go_along_to_the_same_sound_in_another_making(dataset):
    folder = dataset()
    clip = load_dataset(folder)[0]
    recaption(folder, {_name(clip): "mine"})
    kept = edited(folder)
    assert kept == {clip.sha256: "mine"}
    dataset(trigger="zzt")  # made again: the edit is gone
    assert edited(folder) == {}
    assert restore(folder, kept) == 1
    assert {one.sha256: one.caption for one in load_dataset(folder)}[clip.sha256] == "mine"
    assert edited(folder / "nowhere") == {} and restore(folder / "nowhere", {}) == 0
