"""Recordings that fsspec opens: the same data set as from the disk, and nothing kept of them."""

from __future__ import annotations

import json
import shutil

import fsspec
import pytest
from sounds import tree, write

from tunesmith.data import prepare, remote
from tunesmith.data.sources import Remote, Source, file_sha256, find_recordings
from tunesmith.errors import UserError

SHORT = {"min_s": 2.0, "max_s": 5.0, "workers": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def src(tmp_path):
    """Recordings of every fate, with sidecars and a table, in two folders."""
    folder = tmp_path / "src"
    for number in range(3):
        write(folder / "more" / f"part{number}.flac", 4.0, seed=number)
    write(folder / "alone.wav", 4.0, seed=7)
    shutil.copy(folder / "alone.wav", folder / "double.wav")
    (folder / "more" / "part0.txt").write_text("a decaying note")
    (folder / "more" / "lonely.txt").write_text("of nothing")
    (folder / "more" / "part1.txt").write_text("x" * 70_000)
    (folder / "metadata.csv").write_text("file_name,caption\nalone.wav,a note alone\ngone.wav,no\n")
    (folder / "empty.wav").touch()
    (folder / "song.mid").write_bytes(b"MThd")
    (folder / "torn.wav").write_text("no sound")
    (folder / ".hidden.wav").write_text("hidden")
    (folder / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


@pytest.fixture
def bucket(src):
    """The same in fsspec's own memory."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.put(f"{src}/", "/bucket/songs/", recursive=True)
    yield "memory://bucket/songs"
    memory.store.clear()


def test_the_same_data_set_as_from_the_disk(src, bucket, tmp_path):
    there = prepare(src, tmp_path / "disk", **SHORT)
    prepare(bucket, tmp_path / "memory", **SHORT)
    prepare(f"file://{src}", tmp_path / "file", **{**SHORT, "workers": 2})
    lines = (tmp_path / "disk" / "rejected.jsonl").read_text().splitlines()
    refused = {json.loads(line)["file"] for line in lines}
    assert {"double.wav", "empty.wav", "song.mid", "torn.wav"} <= refused and there.clips >= 3
    assert tree(tmp_path / "memory") == tree(tmp_path / "disk")
    assert tree(tmp_path / "file") == tree(tmp_path / "disk")


def test_one_recording_by_its_address(src, bucket, tmp_path):
    prepare(src / "alone.wav", tmp_path / "disk", **SHORT)
    prepare(f"{bucket}/alone.wav", tmp_path / "memory", **SHORT)
    ours = (tmp_path / "memory" / "rejected.jsonl").read_text()
    assert ours == (tmp_path / "disk" / "rejected.jsonl").read_text()
    clips = [tmp_path / name / "train" for name in ("disk", "memory")]
    assert tree(clips[0]).keys() == tree(clips[1]).keys()


def test_found_as_on_the_disk(src, bucket, tmp_path):
    here, refused_here = find_recordings(src)
    there, refused_there = remote.find_remote(bucket, tmp_path / "mirror")
    assert [(one.name, one.size_bytes) for one in there] == [
        (one.name, one.size_bytes) for one in here
    ]
    assert refused_there == refused_here and len(refused_here) == 2


def test_what_is_known_is_not_fetched_to_be_hashed_again(bucket, tmp_path, monkeypatch):
    fetched = []
    real = remote._fetch
    monkeypatch.setattr(
        remote, "_fetch", lambda source, into: fetched.append(source.name) or real(source, into)
    )
    prepare(bucket, tmp_path / "d", **SHORT)
    assert len(fetched) == 6 + 5  # once each to hash, once each content to cut
    fetched.clear()
    assert prepare(bucket, tmp_path / "d", **SHORT).unchanged
    assert fetched == []
    fsspec.filesystem("memory").pipe_file("/bucket/songs/torn.wav", b"other words")
    assert not prepare(bucket, tmp_path / "d", **SHORT).unchanged
    # Cut anew is only what no clip of stands in the data set.
    assert fetched.count("torn.wav") == 2 and len(fetched) < 6


def test_a_fetched_recording_is_checked_and_removed(src, bucket):
    source = Source(
        src / "alone.wav", "alone.wav", 1, Remote(bucket, "/bucket/songs/alone.wav", "")
    )
    sha256 = file_sha256(src / "alone.wav")
    with remote.at_hand(source, sha256) as path:
        assert path != src / "alone.wav" and file_sha256(path) == sha256
    assert not path.exists()
    with pytest.raises(UserError, match="has changed"), remote.at_hand(source, "0" * 64):
        pass


def test_what_cannot_be_fetched_ends_the_run_rather_than_leave_it_out(
    bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(remote, "_WAIT_S", 0.0)
    tries = []

    def refuse(self, path, *rest, **more):
        tries.append(path)
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", refuse)
    # The texts are fetched first, and fail first.
    with pytest.raises(UserError, match="reset by peer"):
        prepare(bucket, tmp_path / "d", **SHORT)
    source = Source(tmp_path / "a.wav", "a.wav", 1, Remote(bucket, "/bucket/songs/alone.wav", ""))
    tries.clear()
    with pytest.raises(UserError, match="run again"), remote.at_hand(source):
        pass
    assert len(tries) == 3
    assert not (tmp_path / "d").exists()


def test_hostile_names_stay_in_their_folder(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name in ("../up.txt", "a/../../up.wav", "ok.wav", "nul\0.wav"):
        memory.store[f"/evil/{name}"] = memory.open(f"/other/{len(name)}", "wb")
        memory.store[f"/evil/{name}"].write(b"RIFFxxxx")
    memory.pseudo_dirs.append("/evil")
    mirror = tmp_path / "mirror"
    found, rejected = remote.find_remote("memory://evil", mirror)
    assert [one.name for one in found] == ["ok.wav"]
    assert [one.file for one in rejected] == ["nul\\x00.wav"]
    assert {path.name for path in tmp_path.rglob("*")} <= {"mirror", "ok.wav", "cache"}
    memory.store.clear()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nothing/here", "does not exist"),
        ("nosuch://bucket", "Protocol not known"),
        ("memory://bucket/songs/cover.jpg", "no recording by its name"),
    ],
)
def test_addresses_that_lead_nowhere(url, message, bucket, tmp_path):
    with pytest.raises(UserError, match=message):
        prepare(url, tmp_path / "d", **SHORT)


def test_a_data_set_is_made_in_a_folder(src):
    with pytest.raises(UserError, match="is not a folder here"):
        prepare(src, "s3://bucket/d", **SHORT)
