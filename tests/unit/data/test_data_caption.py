import json

import pytest
from sounds import write

from tunesmith.data.caption import Captions, words
from tunesmith.data.sources import find_recordings
from tunesmith.data.tables import inside


def caption(folder, name="song.wav", **options):
    captions = Captions(folder, **options)
    (source,) = [s for s in find_recordings(folder)[0] if s.name == name]
    return captions.of(source), captions


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "song.wav", 0.1)
    return tmp_path


def test_precedence(folder):
    assert caption(folder)[0].source == "name"
    assert caption(folder, given="given")[0].text == "given"
    row = {"file_name": "song.wav", "text": "from table", "bpm": 120, "audio": "x"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    got, _ = caption(folder, given="given")
    assert (got.text, got.source, got.extra) == ("from table", "metadata", {"bpm": 120})
    (folder / "song.lyrics.txt").write_text("la la\nla")
    assert caption(folder)[0].text == "from table"
    assert caption(folder)[0].extra == {"bpm": 120, "lyrics": "la la\nla"}
    (folder / "song.txt").write_text("plain")
    assert caption(folder)[0].text == "plain"
    (folder / "song.caption.txt").write_text("\ufeffbest\r\nof all \n")
    got, captions = caption(folder)
    assert (got.text, got.source) == ("best of all", "sidecar") and not captions.warnings


def test_lyrics_are_no_caption_of_a_recording_named_lyrics(tmp_path):
    write(tmp_path / "song.lyrics.wav", 0.1)
    (tmp_path / "song.lyrics.txt").write_text("la la")
    assert caption(tmp_path, "song.lyrics.wav")[0].source == "name"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x" * 10_000_000, "64 KiB"),
        (b"\xff\xfa\x00", "UTF-8"),
        (b" \n", "empty"),
        (b"a\0b", "text"),
    ],
)
def test_useless_sidecars_are_passed_over(folder, data, reason):
    (folder / "song.caption.txt").write_bytes(data)
    (folder / "song.txt").write_text("second")
    got, captions = caption(folder)
    assert got.text == "second"
    (warning,) = captions.warnings
    assert reason in warning and warning.startswith("song.caption.txt") and "\n" not in warning


def test_utf16_with_a_mark_is_read(folder):
    (folder / "song.txt").write_bytes("größer".encode("utf-16"))
    assert caption(folder)[0].text == "größer"


def test_csv_columns_and_nearest_table(tmp_path):
    write(tmp_path / "a" / "x.wav", 0.1)
    write(tmp_path / "y.wav", 0.1)
    text = 'file_name,Description,key\na/x.wav,outer,C\ny.wav,"one, two",\n'
    (tmp_path / "metadata.csv").write_text(text)
    got, _ = caption(tmp_path, "y.wav")
    assert (got.text, got.extra) == ("one, two", {})
    assert caption(tmp_path, "a/x.wav")[0].text == "outer"
    (tmp_path / "a" / "metadata.csv").write_text("file_name,caption\nx.wav,inner\n")
    assert caption(tmp_path, "a/x.wav")[0].text == "inner"


def test_faulty_rows_are_named(folder):
    rows = [
        "{broken",
        "[1]",
        '{"caption": "no name"}',
        '{"file_name": "../song.wav", "caption": "climbs"}',
        '{"file_name": "song.wav", "caption": "good"}',
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    got, captions = caption(folder)
    assert got.text == "good"
    assert [w.split(":")[1] for w in captions.warnings] == ["1", "2", "3", "4"]
    assert "leads out" in captions.warnings[3]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "C:\\x", "..\\x", ""])
def test_names_that_escape(tmp_path, name):
    assert inside(tmp_path.resolve(), name) is None


def test_trigger_once(folder):
    (folder / "song.txt").write_text("a piano")
    assert caption(folder, trigger="ohwx")[0].text == "ohwx, a piano"
    (folder / "song.txt").write_text("an ohwx piano")
    assert caption(folder, trigger="ohwx")[0].text == "an ohwx piano"


@pytest.mark.parametrize(
    ("stem", "text"),
    [
        ("03 - solo_trumpetTake2", "solo trumpet Take2"),
        ("1_7", "1 7"),
        ("___", "recording"),
        ("Für Elise", "Für Elise"),
    ],
)
def test_words(stem, text):
    assert words(stem) == text
