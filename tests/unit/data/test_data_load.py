import hashlib
import json
import sys
import types

import pytest
from sounds import write

from tunesmith.data import load_dataset, prepare
from tunesmith.data.audiofolder import clip_name, columns
from tunesmith.data.load import load_readable
from tunesmith.errors import UserError
from tunesmith.types import Clip


def plain(folder, count=6, extra=None):
    rows = []
    for i in range(count):
        write(folder / f"{i}.wav", 2.0, seed=i)
        rows.append({"file_name": f"{i}.wav", "text": f"sound {i}", **(extra or {})})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_plain_audiofolder_is_read_and_divided(tmp_path):
    clips = load_dataset(plain(tmp_path / "d", extra={"bpm": 90}))
    assert len(clips) == 6 and {clip.split for clip in clips} == {"train", "valid"}
    assert [clip.split for clip in clips] == sorted(clip.split for clip in clips)
    for clip in clips:
        assert clip.sha256 == hashlib.sha256(clip.path.read_bytes()).hexdigest()
        assert clip.recording == clip.path.name and clip.duration_s == 2.0
        assert clip.caption == f"sound {clip.path.stem}" and clip.extra == {"bpm": 90}


def test_its_own_splits_are_kept(tmp_path):
    plain(tmp_path / "d" / "train", 4)
    plain(tmp_path / "d" / "validation", 2)
    plain(tmp_path / "d" / "test", 3)
    clips = load_dataset(tmp_path / "d")
    assert [clip.split for clip in clips] == ["train"] * 4 + ["valid"] * 2
    assert clips[-1].recording.startswith("validation/")


@pytest.mark.parametrize("name", ["../x.wav", "/etc/passwd", "a/../../x.wav"])
def test_names_that_escape_are_refused(tmp_path, name):
    plain(tmp_path / "d", 2)
    row = json.dumps({"file_name": name, "text": "x"})
    (tmp_path / "d" / "metadata.jsonl").write_text(row)
    with pytest.raises(UserError, match="leads out of the folder"):
        load_dataset(tmp_path / "d")


def test_ours_refuses_torn_metadata(tmp_path):
    plain(tmp_path / "s")
    prepare(tmp_path / "s", tmp_path / "d", min_s=1, workers=0)
    table = tmp_path / "d" / "train" / "metadata.jsonl"
    lines = table.read_text().splitlines()
    for broken in (
        lines[:-1],
        [*lines[:-1], "{"],
        [*lines[:-1], '{"file_name": "../x"}'],
        [*lines[:-1], '{"file_name": "nowhere.flac"}'],
        [*lines[:-1], json.dumps({"file_name": json.loads(lines[-1])["file_name"]})],
    ):
        table.write_text("\n".join(broken))
        with pytest.raises(UserError, match="prepare") as caught:
            load_dataset(tmp_path / "d")
        assert "\n" not in str(caught.value)


def test_missing_and_empty_folders(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError):
            load_dataset(folder)


def clip(split="train", **extra):
    from pathlib import Path

    return Clip(Path(split) / "x.flac", "c", split, "r", 0, 1, "s", "name", extra=extra)


def test_columns_are_the_same_in_every_row():
    rows = columns([clip(a=1, b="x", c=[1], d=1, e=True), clip("valid", a=2.5, b=3, d=2, e=False)])
    assert [list(row) for row in rows] == [list(rows[0])] * 2
    assert [row["a"] for row in rows] == [1.0, 2.5]
    assert [row["b"] for row in rows] == ["x", "3"]
    assert [row["c"] for row in rows] == ["[1]", ""]
    assert [row["d"] for row in rows] == [1, 2]
    assert [row["e"] for row in rows] == [True, False]


def test_clip_names():
    assert (
        clip_name("a/Für Elise!.wav", "0123456789abcdef", "3.flac") == "f_r_elise-0123456789-3.flac"
    )
    assert clip_name("my_train.wav", "0123456789abcdef", "3-v1.flac") == "0123456789-3-v1.flac"


def test_hugging_face_datasets_opens_it(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    try:
        import torchcodec  # noqa: F401
    except Exception:
        # `datasets` asks for this class before it looks at a path, and then has no use for it.
        encoders = types.ModuleType("torchcodec.encoders")
        encoders.AudioEncoder = object
        monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
        monkeypatch.setitem(sys.modules, "torchcodec.encoders", encoders)
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    datasets.disable_progress_bars()
    plain(tmp_path / "s", 8, extra={"bpm": 90})
    # Names that `datasets` would take for splits, and a column that one row lacks.
    write(tmp_path / "s" / "a_test_train_valid.wav", 2.0, seed=50)
    write(tmp_path / "s" / "bad.wav", 0.1, seed=51)
    summary = prepare(tmp_path / "s", tmp_path / "d", min_s=1, workers=0)
    found = datasets.load_dataset(
        "audiofolder", data_dir=str(tmp_path / "d"), cache_dir=str(tmp_path / "cache")
    )
    assert set(found) == {"train", "validation"}
    assert len(found["train"]) == summary.train and len(found["validation"]) == summary.valid
    ours = {clip.path.name: clip for clip in load_dataset(tmp_path / "d")}
    for part in found.values():
        for row in part.cast_column("audio", datasets.Audio(decode=False)):
            mine = ours.pop(row["audio"]["path"].rsplit("/", 1)[-1])
            assert row["caption"] == mine.caption and row["sha256"] == mine.sha256
            assert row["start_s"] == mine.start_s and row["bpm"] == mine.extra.get("bpm", "")
    assert not ours


OURS = {"start_s": 0.0, "caption_source": "tags", "caption_confidence": 0.7}


def rows(folder, rows, sounds=None):
    for i, row in enumerate(rows):
        write(folder / row["file_name"], 2.0, seed=i if sounds is None else sounds[i])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {clip.path.name: clip for clip in load_dataset(folder)}


def test_columns_of_ours_count_wherever_they_stand(tmp_path):
    names = [f"{i}-{part}.wav" for i in range(6) for part in range(3)]
    table = [
        {"file_name": name, "caption": "c", **OURS, "recording": f"r{name[0]}", "start_s": name[2]}
        for name in names
    ]
    clips = rows(tmp_path / "d", table)
    assert len(clips) == 18 and {clip.recording for clip in clips.values()} == {
        f"r{i}" for i in range(6)
    }
    sides = {(clip.recording, clip.split) for clip in clips.values()}
    assert len(sides) == 6 and {side for _, side in sides} == {"train", "valid"}
    one = clips["3-2.wav"]
    assert (one.start_s, one.caption_source, one.caption_confidence) == (2.0, "tags", 0.7)
    assert one.duration_s == 2.0 and not one.extra


def test_columns_that_are_not_what_they_should_be_are_passed_over(tmp_path):
    bad = [
        {"recording": [1], "start_s": "soon", "caption_confidence": 7, "caption_source": {}},
        {"recording": True, "start_s": -1, "caption_confidence": "nan", "variant_of": 3},
        {"recording": " ", "start_s": None, "captions": 7, "variant_of": "nowhere.wav"},
        {"recording": "a\nb\u202e", "start_s": True, "captions": ["c", "d", 1]},
        {"recording": 12, "start_s": 10**400, "variant_of": "4.wav"},
    ]
    table = [{"file_name": f"{i}.wav", "caption": "c", **row} for i, row in enumerate(bad)]
    clips = rows(tmp_path / "d", table)
    said = [clips[f"{i}.wav"] for i in range(5)]
    names = [clip.recording for clip in said]
    assert names == ["0.wav", "1.wav", "2.wav", "a b\\u202e", "12"]
    assert {clip.start_s for clip in said} == {0.0} and not any(clip.variant_of for clip in said)
    assert {clip.caption_source for clip in said} == {"metadata"}
    assert {clip.caption_confidence for clip in said} == {1.0} and said[3].captions == ("d",)


def test_a_source_column_says_nothing_of_a_sidecar(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "a.txt").write_text("mine")
    clips = rows(folder, [{"file_name": "a.wav", "caption": "c", **OURS}])
    assert (clips["a.wav"].caption, clips["a.wav"].caption_source) == ("mine", "sidecar")
    assert clips["a.wav"].caption_confidence == 1.0


def test_equal_files_and_versions_stay_on_one_side(tmp_path):
    table = [{"file_name": f"{i}.wav", "caption": "c"} for i in range(12)]
    table += [
        {"file_name": f"{i}-v.wav", "caption": "c", "variant_of": f"{i}.wav"} for i in range(6)
    ]
    clips = rows(tmp_path / "d", table, [*range(6), *range(6), *range(20, 26)])
    for i in range(6):
        assert clips[f"{i}.wav"].split == clips[f"{i + 6}.wav"].split
    valid = {name for name, clip in clips.items() if clip.split == "valid"}
    assert valid and not any("-v" in name for name in valid)
    kept = {f"{i}-v.wav" for i in range(6) if clips[f"{i}.wav"].split == "train"}
    assert kept == {name for name in clips if "-v" in name}


def test_a_name_longer_than_names_may_be_is_missing(tmp_path):
    plain(tmp_path / "d", 2)
    row = json.dumps({"file_name": "x" * 400 + ".wav", "text": "x"})
    (tmp_path / "d" / "metadata.jsonl").write_text(row)
    with pytest.raises(UserError, match="is missing"):
        load_dataset(tmp_path / "d")
    loaded = load_readable(tmp_path / "d")
    assert len(loaded.clips) == 2 and len(loaded.unreadable) == 1 and loaded.divided


def test_only_a_test_split_is_said_so(tmp_path):
    plain(tmp_path / "d" / "test", 2)
    with pytest.raises(UserError, match="holds no clips \\(2 clips in test/ are left alone"):
        load_dataset(tmp_path / "d")


def test_a_score_beside_the_recordings_does_no_harm(tmp_path):
    plain(tmp_path / "x")
    (tmp_path / "x" / "song.mid").write_bytes(b"MThd")
    assert len(load_dataset(tmp_path / "x")) == 6
    (tmp_path / "x" / "song.m4a").write_bytes(b"")
    with pytest.raises(UserError, match=r"song\.m4a"):
        load_dataset(tmp_path / "x")
