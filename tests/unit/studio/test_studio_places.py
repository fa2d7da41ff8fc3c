"""Where things lie: no name leads out of the studio's folder, and no path comes from a browser."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import soundfile

from tunesmith.errors import UserError
from tunesmith.studio.places import Places
from tunesmith.studio.shelf import Lent, Shelf, media_type, stretch

OUTWARD = [
    "",
    " ",
    "..",
    ".",
    "../x",
    "a/b",
    "/etc",
    "a\\b",
    "~",
    "a\0b",
    ".hidden",
    "a\nb",
    "x" * 61,
]


@pytest.mark.parametrize("name", [*OUTWARD, None])
def test_a_name_is_no_path(tmp_path, name):
    places = Places(tmp_path)
    with pytest.raises(UserError, match="name"):
        places.folder("runs", name)
    with pytest.raises(UserError):
        places.adapter(name)
    if name:
        with pytest.raises(UserError):
            places.adapter(f"blends/{name}")


def test_names_of_what_is_finished_the_latest_first(tmp_path):
    places = Places(tmp_path)
    assert places.adapters() == places.runs() == places.data_sets() == places.tests() == []
    for age, (folder, file) in enumerate(
        [
            ("runs/new one", "adapter.json"),
            ("runs/old", "adapter.json"),
            ("runs/begun", "config.yaml"),
            ("blends/both", "adapter.json"),
            ("runs/no-run", "notes.txt"),
            ("tests/t", "test.json"),
        ]
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / file).touch()
        os.utime(tmp_path / folder, (1000 - age, 1000 - age))
    assert places.adapters() == ["new one", "old", "blends/both"]
    assert places.runs() == ["begun"] and places.tests() == ["t"]
    assert places.adapter("new one") == tmp_path / "runs" / "new one"
    assert places.adapter("blends/both") == tmp_path / "blends" / "both"
    for label in ("begun", "runs/old", "exports/x", "blends/none"):
        with pytest.raises(UserError, match="no adapter"):
            places.adapter(label)


def test_what_may_be_read_while_others_can_reach_the_studio(tmp_path):
    root, allowed, other = (tmp_path / name for name in ("studio", "allowed", "other"))
    for folder in (root, allowed, other):
        folder.mkdir()
    (allowed / "link").symlink_to(other)
    here, open_to_all = Places(root), Places(root, anywhere=False, allowed=(allowed,))
    for path in (root, allowed, other):
        assert here.source(str(path)) == path
    assert open_to_all.source(f" {allowed} ") == allowed
    for path in (other, allowed / "link", allowed / ".." / "other", other / "not-there"):
        with pytest.raises(UserError, match="may not be read"):
            open_to_all.source(str(path))
        if path.exists():
            with pytest.raises(UserError, match="may not be read"):
                open_to_all.base(str(path))
    for places in (here, open_to_all):
        assert places.base("pocket") == "pocket" and places.base("owner/name") == "owner/name"
        with pytest.raises(UserError, match="no base"):
            places.base(" ")
        with pytest.raises(UserError, match="no recordings"):
            places.source("")
    here.remember_source("set", other)
    assert here.source_of("set") == other and here.source_of("none") is None
    assert open_to_all.source_of("set") is None


def test_uploads_are_recordings_and_what_lies_beside_them(tmp_path):
    files = []
    for name in ("a.wav", "a.txt", "metadata.csv", "run.sh", "page.html"):
        (tmp_path / "up").mkdir(exist_ok=True)
        (tmp_path / "up" / name).write_text(name)
        files.append(str(tmp_path / "up" / name))
    places = Places(tmp_path / "studio")
    folder, count = places.take_in("mine", files)
    assert count == 3
    assert sorted(one.name for one in folder.iterdir()) == ["a.txt", "a.wav", "metadata.csv"]
    with pytest.raises(UserError, match="no recordings among"):
        places.take_in("other", files[1:])
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "A.WAV").touch()
    with pytest.raises(UserError, match="two of the files"):
        places.take_in("other", [files[0], str(tmp_path / "again" / "A.WAV")])
    with pytest.raises(UserError):
        places.take_in("../up", files)


def test_only_what_was_put_on_the_shelf_is_lent(tmp_path):
    file = tmp_path / "a.wav"
    soundfile.write(file, np.linspace(-0.5, 0.5, 16_000), 8000)
    shelf = Shelf()
    address = shelf.sound(file)
    kind, _, key = address.partition("/")
    assert kind == "sound" and str(tmp_path) not in address
    assert shelf.sound(file) == address  # or every second would start all players anew
    assert shelf.get("sound", key) == Lent("sound", file)
    assert shelf.get("page", key) is None and shelf.get("sound", "a.wav") is None
    assert shelf.sound(tmp_path / "none.wav") == "" == shelf.page(tmp_path / "none.html")
    part = shelf.sound(file, 1.0, 0.5)
    assert part != address
    os.utime(file, (1, 1))
    assert shelf.sound(file) != address  # a browser must not play what it kept
    lent = shelf.get("sound", part.partition("/")[2])
    assert lent is not None
    samples, rate_hz = soundfile.read(io.BytesIO(stretch(lent)))
    whole, _ = soundfile.read(file)
    assert rate_hz == 8000 and np.allclose(samples, whole[8000:12_000], atol=1e-4)
    assert len(stretch(Lent("sound", file, 99.0, 1.0))) < 100  # beyond its end: nothing
    assert media_type(file) == "audio/wav" and media_type(tmp_path / "a.m4a") == ""
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(UserError, match="cannot be played"):
        stretch(Lent("sound", tmp_path / "text.wav", 0.0, 1.0))
