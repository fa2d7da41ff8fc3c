import hashlib
import json
import sys
import types

import pytest
from sounds import write

from tunesmith.data import load_dataset, prepare
from tunesmith.data.audiofolder import clip_name, columns
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


def test_a_score_beside_the_recordings_does_no_harm(tmp_path):
    plain(tmp_path / "x")
    (tmp_path / "x" / "song.mid").write_bytes(b"MThd")
    assert len(load_dataset(tmp_path / "x")) == 6
    (tmp_path / "x" / "song.m4a").write_bytes(b"")
    with pytest.raises(UserError, match=r"song\.m4a"):
        load_dataset(tmp_path / "x")
