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


def test_json_sidecars_as_musicgen_has_them(folder):
    written = {
        "key": "", "artist": "Nobody", "sample_rate": 48000, "file_extension": "wav",
        "description": "slow\nblues", "keywords": "guitar, warm", "duration": 15.0, "bpm": 90,
        "genre": "blues", "instrument": "Mix", "moods": ["calm", "late"], "lyrics": "la\nla",
    }  # fmt: skip
    (folder / "song.json").write_text(json.dumps(written))
    got, captions = caption(folder, given="given")
    assert (got.text, got.source, got.confidence) == ("slow blues", "sidecar", 1.0)
    assert got.extra == {
        "artist": "Nobody", "keywords": "guitar, warm", "bpm": 90, "genre": "blues",
        "instrument": "Mix", "moods": "calm, late", "lyrics": "la\nla",
    }  # fmt: skip
    assert not captions.warnings
    del written["description"]
    (folder / "song.json").write_text(json.dumps(written))
    got, _ = caption(folder)
    assert got.text == "blues, guitar, warm, calm, late, Mix, 90 bpm"
    (folder / "song.txt").write_text("plain")
    got, _ = caption(folder)
    assert got.text == "plain" and got.extra["bpm"] == 90


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("one", ["one"]),
        (["one", "two", 3, "two"], ["one", "two"]),
        ({"captions": ["one", "two"]}, ["one", "two"]),
        ({"Caption": "one", "captions": ["two", "one"]}, ["one", "two"]),
        ({"text": ["one", "two"]}, ["one", "two"]),
        ({"caption": " ", "prompt": "one"}, ["one"]),
    ],
)
def test_json_captions_and_variants(folder, value, texts):
    (folder / "song.json").write_text(json.dumps(value))
    got, captions = caption(folder, trigger="ohwx")
    assert [got.text, *got.variants] == [f"ohwx, {text}" for text in texts]
    assert got.source == "sidecar" and not captions.warnings


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "is no JSON"),
        (b"[" * 60_000, "is no JSON"),
        (b"42", "neither text"),
        (b"[]", "no caption"),
        (b'{"sample_rate": 8000}', "no caption"),
        (b'"' + b"x" * 100_000 + b'"', "64 KiB"),
    ],
)
def test_useless_json_is_passed_over(folder, data, reason):
    (folder / "song.json").write_bytes(data)
    got, captions = caption(folder, given="given")
    (warning,) = captions.warnings
    assert got.text == "given" and reason in warning and warning.startswith("song.json: ")


def test_tags_come_after_what_was_given(tmp_path):
    write(tmp_path / "song.mp3", 0.5)
    path = tmp_path / "song.mp3"
    frame = b"TCON\0\0\0\5\0\0\0Jazz" + b"USLT\0\0\0\x0a\0\0\0eng\0la\nla"
    path.write_bytes(b"ID3\3\0\0\0\0\0" + bytes([len(frame)]) + frame + path.read_bytes())
    got, _ = caption(tmp_path, "song.mp3")
    assert (got.text, got.source, got.confidence) == ("Jazz", "tags", 0.7)
    assert got.extra == {"lyrics": "la\nla"}
    got, _ = caption(tmp_path, "song.mp3", given="given")
    assert (got.text, got.source, got.extra) == ("given", "given", {"lyrics": "la\nla"})


def test_a_name_is_believed_least(folder):
    assert caption(folder)[0].confidence == 0.2 and caption(folder, given="x")[0].confidence == 1


def test_a_name_that_is_full_has_nothing_beside_it(tmp_path):
    name = "x" * 251 + ".wav"
    write(tmp_path / "x.wav", 0.1).rename(tmp_path / name)
    got, captions = caption(tmp_path, name)
    assert got.source == "name" and not captions.warnings


def test_values_that_cannot_be_written_again_are_left_out(folder):
    big, deep = "1" + "0" * 400, "[" * 300 + "]" * 300
    row = '{"file_name": "song.wav", "caption": "a\\ud800b", "half": "x\\ud800y", "nan": [NaN], '
    row += f'"big": {big}, "deep": {deep}, "key\\n": "C", "sha256\\n": "x", "good": [1, "x"], '
    row += '"captions": ["ab", "c"]}'
    (folder / "metadata.jsonl").write_text(row)
    got, captions = caption(folder)
    assert (got.text, got.source) == ("ab", "metadata") and not captions.warnings
    assert got.extra == {"half": "xy", "key": "C", "good": [1, "x"]} and got.variants == ("c",)


def test_many_faulty_rows_are_counted_and_their_place_is_told(tmp_path):
    write(tmp_path / "a" / "song.wav", 0.1)
    (tmp_path / "a" / "metadata.jsonl").write_text("{\n" * 1000)
    _, captions = caption(tmp_path, "a/song.wav")
    assert len(captions.warnings) == 6
    assert captions.warnings[0].startswith("a/metadata.jsonl:1: ")
    assert "a/metadata.jsonl: 995 more faulty rows" in captions.warnings[-1]


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
    (folder / "song.txt").write_text("a piano in the manner of {trigger}, slow")
    assert caption(folder, trigger="ohwx")[0].text == "a piano in the manner of ohwx, slow"
    (folder / "song.txt").write_text("{trigger}, a piano")
    assert caption(folder, trigger="ohwx")[0].text == "ohwx, a piano"
    assert caption(folder)[0].text == "a piano"


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


def unused(folder):
    captions = Captions(folder)
    sources = find_recordings(folder)[0]
    for source in sources:
        captions.of(source)
    return captions.unused(sources)


def test_captions_of_what_is_not_there_are_told(tmp_path):
    write(tmp_path / "a" / "x.wav", 0.1)
    write(tmp_path / "y.wav", 0.1)
    (tmp_path / "a" / "x.txt").write_text("read")
    assert unused(tmp_path) == []
    (tmp_path / "a" / "z.caption.txt").write_text("for nobody")
    assert unused(tmp_path) == ["a/z.caption.txt belongs to no recording, so nothing reads it"]
    (tmp_path / "a" / "w.json").write_text("{}")
    (tmp_path / "v.lyrics.txt").write_text("la")
    rows = [{"file_name": name, "text": "t"} for name in ("y.wav", "gone.wav", "a/no.wav")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a" / "metadata.csv").write_text("file_name,caption\nx.wav,c\nno.wav,c\n")
    assert unused(tmp_path) == [
        "3 rows of metadata name files that are not there: a/metadata.csv:3 names no.wav ...",
        "3 text files belong to no recording, so nothing reads them: a/w.json and more",
    ]
    (tmp_path / "a" / "metadata.csv").unlink()
    rows.pop()
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert unused(tmp_path)[0] == "metadata.jsonl:2 names gone.wav, which is not there"


@pytest.mark.parametrize(
    "name",
    ["README.txt", "license-2.0.txt", "LICENCE.txt", "Notes.txt", "01 track list.txt", "info.json",
     "dataset_infos.json", "credits_en.txt", "tracklist.txt", "2019.txt", ".hidden.txt"],
)  # fmt: skip
def test_notes_on_the_whole_folder_are_no_orphans(folder, name):
    (folder / name).write_text("x")
    assert unused(folder) == []


def test_sidecars_of_what_was_refused_are_no_orphans(folder):
    (folder / "empty.wav").write_bytes(b"")
    (folder / "empty.txt").write_text("x")
    write(folder / "x.lyrics.wav", 0.1)
    (folder / "x.lyrics.txt").write_text("x")
    (folder / "notes").mkdir()
    (folder / "notes" / "a poem.txt").write_text("no recordings here")
    assert unused(folder) == []


def test_beside_one_recording_nothing_is_an_orphan(folder):
    (folder / "other.txt").write_text("x")
    sources = find_recordings(folder / "song.wav")[0]
    captions = Captions(folder / "song.wav")
    captions.of(sources[0])
    assert captions.unused(sources) == []
    assert captions.orphans(sources) == []
