"""Lyrics, language, tempo, key and metre on their way from what lies beside a recording to its clips."""

import json
from dataclasses import replace

import pytest
from sounds import write

from tunesmith.analysis.facts import Facts
from tunesmith.data import load_dataset, prepare
from tunesmith.data.caption import Captions
from tunesmith.data.columns import COLUMNS, key_name, of_clip, said
from tunesmith.data.lyrics import of_clip as lyrics_of
from tunesmith.data.sources import find_recordings

SHORT = {"min_s": 2.0, "max_s": 5.0, "workers": 0, "caption": "x"}
FACTS = Facts.from_json(
    {
        "duration_s": 10.0, "loudness_lufs": -14.0, "loudness_range_lu": None, "true_peak_dbtp": -1.0,
        "tempo_bpm": 92.4, "tempo_confidence": 0.9, "key": "F major", "key_confidence": 0.9,
        "brightness_hz": 900.0, "density_per_s": 2.0,
    }
)  # fmt: skip


def captions_of(folder):
    captions = Captions(folder)
    sources = find_recordings(folder)[0]
    return {source.name: captions.of(source) for source in sources}, captions, sources


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "song.wav", 0.1)
    return tmp_path


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        ("bpm", "120", 120), ("bpm", 97.5, 97.5), ("BPM", "120.00 bpm", 120), ("tempo", "88", 88),
        ("key", "F#m", "F# minor"), ("keyscale", "E flat major", "Eb major"), ("key", "8A", "8A"),
        ("key", "C", "C"), ("time_signature", "6 / 8", "6/8"), ("time_signature", 4.0, "4"),
        ("Language ", " pt-BR ", "pt-BR"), ("vocal_language", "zh", "zh"),
        ("lyrics", "[verse]\n  a  b \n\nc\n", "[verse]\na b\n\nc"),
    ],
)  # fmt: skip
def test_what_is_said_stands_under_its_own_name(column, value, kept):
    (found,) = [*said({column: value, "mood": "calm"})[0].items()][::-1][:1]
    assert found[0] in COLUMNS and found[1] == kept and type(found[1]) is type(kept)
    assert said({column: value, "mood": "calm"})[0]["mood"] == "calm"


@pytest.mark.parametrize("value", ["", "  ", "unknown", "N/A", "none", float("nan"), "-"])
@pytest.mark.parametrize("column", ["bpm", "key", "language", "time_signature"])
def test_blank_stays_blank_without_a_word(column, value):
    assert said({column: value}) == ({}, {})


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("bpm", "fast"), ("bpm", 0), ("bpm", "1e9"), ("bpm", "-90"), ("bpm", [120]), ("bpm", True),
        ("time_signature", "common"), ("time_signature", "0/4"), ("key", "?!"), ("key", {"a": 1}),
        ("lyrics", 7), ("language", ["de", "en"]),
    ],
)  # fmt: skip
def test_what_says_nothing_is_left_blank_and_told(column, value):
    kept, bad = said({column: value})
    assert kept == {} and list(bad) == [column]


def test_a_column_of_somebodys_own_stays_his():
    assert said({"tempo": "lively", "bpm": 90}) == ({"tempo": "lively", "bpm": 90}, {})
    assert said({"bpm": "fast", "tempo": 90}) == ({"bpm": 90}, {})


@pytest.mark.parametrize(
    ("text", "name"),
    [("A minor", "A minor"), ("Bbmaj", "Bb major"), ("G♯ min", "G# minor"), ("CM", "C major"),
     ("Dm", "D minor"), ("D", ""), ("D dorian", ""), ("a minor change", "")],
)  # fmt: skip
def test_names_of_keys(text, name):
    assert key_name(text) == name


def test_what_is_not_said_is_measured_where_that_is_sure():
    assert of_clip({}, FACTS, {}) == {"bpm": 92, "key": "F major"}
    unsure = replace(FACTS, tempo_confidence=0.69, key_confidence=0.59)
    assert of_clip({}, unsure, {}) == {}
    assert of_clip({}, replace(FACTS, tempo_bpm=None, key=None), {}) == {}
    assert of_clip({"bpm": 140, "key": "8A"}, FACTS, {}) == {"bpm": 140, "key": "8A"}


def test_what_was_said_follows_a_variant():
    done = {"pitch_semitones": -2.0, "tempo_factor": 1.05}
    assert of_clip({"bpm": 140, "key": "Eb minor"}, FACTS, done) == {"bpm": 147, "key": "C# minor"}
    # What is no name of a key cannot be moved: blank rather than wrong. Nor is another one measured.
    assert of_clip({"key": "8A", "bpm": 90}, FACTS, done) == {"bpm": 94.5}
    assert of_clip({"key": "8A", "bpm": 90}, FACTS, {"gain_db": 1.0}) == {"bpm": 90, "key": "8A"}


# --- from beside the recording ---


def test_lyrics_of_each_place_and_which_comes_first(folder):
    row = {"file_name": "song.wav", "text": "t", "Lyrics": "of the table", "language": "de"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    found, _, _ = captions_of(folder)
    assert found["song.wav"].extra == {"lyrics": "of the table", "language": "de"}
    (folder / "song.json").write_text(json.dumps({"lyrics": "of json", "bpm": 90}))
    assert captions_of(folder)[0]["song.wav"].extra["lyrics"] == "of json"
    (folder / "song.lyrics.txt").write_text("of the sidecar")
    assert captions_of(folder)[0]["song.wav"].extra["lyrics"] == "of the sidecar"
    assert captions_of(folder)[0]["song.wav"].timed == ()
    (folder / "song.lrc").write_text("[00:01.00]of\n[00:02.00]times")
    got, captions, _ = captions_of(folder)
    assert got["song.wav"].extra == {"lyrics": "of\ntimes", "language": "de", "bpm": 90}
    assert got["song.wav"].timed == ((1.0, "of"), (2.0, "times")) and not captions.warnings
    assert got["song.wav"].text == "t"


@pytest.mark.parametrize("place", ["song.lyrics.txt", "metadata.jsonl", "song.json"])
def test_times_are_heeded_wherever_lyrics_stand(folder, place):
    text = "[00:01.00]of\n[00:02.00]times"
    row = {"file_name": "song.wav", "caption": "c", "lyrics": text}
    (folder / place).write_text(text if place.endswith("txt") else json.dumps(row))
    got = captions_of(folder)[0]["song.wav"]
    assert got.timed == ((1.0, "of"), (2.0, "times")) and got.extra["lyrics"] == "of\ntimes"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"la la\nla", "holds no line with a time"),
        (b"", "holds no line with a time"),
        (b"[-00:01.00]x\n[ar:y]", "holds no line with a time"),
        ("[00:01.00]fünf".encode("latin-1"), "is not UTF-8 text"),
        (b"[00:01.00]la\n" * 10_000, "is larger than 64 KiB"),
        (b"[00:01.00]a\0b", "is not text"),
    ],
)
def test_an_lrc_that_cannot_be_used_is_one_line_and_the_next_is_asked(folder, data, reason):
    (folder / "song.lrc").write_bytes(data)
    (folder / "song.lyrics.txt").write_text("plain")
    got, captions, _ = captions_of(folder)
    assert got["song.wav"].extra == {"lyrics": "plain"} and got["song.wav"].timed == ()
    (warning,) = captions.warnings
    assert warning.startswith(f"song.lrc: {reason}")
    assert warning.endswith("; passed over") and "\n" not in warning


def test_lines_that_are_left_out_are_counted(folder):
    (folder / "song.lrc").write_text("[00:01.00]a\n[00:99.00]b\nloose")
    got, captions, _ = captions_of(folder)
    assert got["song.wav"].extra["lyrics"] == "a"
    assert captions.warnings == [
        "song.lrc: 2 lines without a time such as [01:23.45] left out (line 2)"
    ]


def test_values_that_say_nothing_are_one_line_a_column(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.wav", 0.1)
    text = "file_name,caption,bpm,key\na.wav,c,fast,\nb.wav,c,slow,Am\nc.wav,c,100,\n"
    (tmp_path / "metadata.csv").write_text(text)
    got, captions, sources = captions_of(tmp_path)
    assert [one.extra for one in got.values()] == [{}, {"key": "A minor"}, {"bpm": 100}]
    assert captions.unused(sources) == [
        "a bpm that says nothing is left blank (a.wav: 'fast', and 1 more): give beats a minute, such as 120"
    ]


def test_an_lrc_beside_no_recording_is_told(folder):
    (folder / "sogn.lrc").write_text("[00:01.00]a")
    _, captions, sources = captions_of(folder)
    assert captions.unused(sources) == ["sogn.lrc belongs to no recording, so nothing reads it"]


# --- to the clips ---


def by_clip(dest):
    """Extra columns by recording and start."""
    clips = sorted(load_dataset(dest), key=lambda clip: (clip.recording, clip.start_s))
    return [(clip.recording, clip.start_s, clip.duration_s, clip.extra) for clip in clips]


def test_timed_lyrics_are_cut_with_the_clip(tmp_path):
    for number in range(5):
        write(tmp_path / "src" / f"{number}.wav", 12.0, seed=number)
    stamps = [f"[00:{second:02d}.00]line {second}" for second in range(0, 12, 2)]
    (tmp_path / "src" / "0.lrc").write_text("[chorus]\n" + "\n".join(stamps))
    made = prepare(tmp_path / "src", tmp_path / "d", **SHORT)
    assert not any("lyrics" in warning for warning in made.warnings)
    parts = [row for row in by_clip(tmp_path / "d") if row[0] == "0.wav"]
    assert len(parts) >= 3
    for _, start_s, duration_s, extra in parts:
        inside = [s for s in range(0, 12, 2) if start_s <= s + 1 < start_s + duration_s]
        wanted = [*(["[chorus]"] if 0 in inside else []), *(f"line {second}" for second in inside)]
        assert extra["lyrics"] == "\n".join(wanted)
    assert not any(
        "lyrics" in extra for name, *_, extra in by_clip(tmp_path / "d") if name != "0.wav"
    )


def test_untimed_lyrics_are_kept_for_whole_recordings_only(tmp_path):
    for number, seconds in enumerate((4.0, 12.0, 12.0, 4.0, 4.0)):
        write(tmp_path / "src" / f"{number}.wav", seconds, seed=number)
        if number < 3:
            (tmp_path / "src" / f"{number}.lyrics.txt").write_text(f"[verse]\nwords of {number}")
    made = prepare(tmp_path / "src", tmp_path / "d", **SHORT)
    rows = by_clip(tmp_path / "d")
    assert [e.get("lyrics") for name, *_, e in rows if name == "0.wav"] == ["[verse]\nwords of 0"]
    others = [extra for name, *_, extra in rows if name != "0.wav"]
    assert not any("lyrics" in extra for extra in others)
    lost = sum(name in ("1.wav", "2.wav") for name, *_ in rows)
    (warning,) = [line for line in made.warnings if "lyrics" in line]
    assert warning.startswith(f"{lost} clips of 2 recordings with lyrics have none")
    assert "1.wav" in warning and "x.lrc" in warning and "--max-seconds" in warning
    longer = prepare(tmp_path / "src", tmp_path / "d", **{**SHORT, "max_s": 15.0})
    assert not any("lyrics" in line for line in longer.warnings)
    assert sum("lyrics" in extra for *_, extra in by_clip(tmp_path / "d")) == 3


def test_lyrics_of_another_version_are_told(tmp_path):
    write(tmp_path / "src" / "0.wav", 4.0)
    (tmp_path / "src" / "0.lrc").write_text("[00:01.00]here\n[03:00.00]gone")
    made = prepare(tmp_path / "src", tmp_path / "d", **SHORT)
    assert any("go on after its end (0.wav)" in warning for warning in made.warnings)
    assert by_clip(tmp_path / "d")[0][3]["lyrics"] == "here"


def test_new_lyrics_make_the_set_anew_and_the_same_ones_do_not(tmp_path):
    write(tmp_path / "src" / "0.wav", 4.0)
    (tmp_path / "src" / "0.lrc").write_text("[00:01.00]one")
    prepare(tmp_path / "src", tmp_path / "d", **SHORT)
    assert prepare(tmp_path / "src", tmp_path / "d", **SHORT).unchanged
    (tmp_path / "src" / "0.lrc").write_text("[00:02.00]one")
    assert not prepare(tmp_path / "src", tmp_path / "d", **SHORT).unchanged


def test_a_slower_variant_that_lost_its_end_has_lost_its_last_line():
    lines = ((0.0, "a"), (4.6, "b"))
    assert lyrics_of("a\nb", lines, 0, 5.0, 5.0) == "a\nb"
    assert lyrics_of("a\nb", lines, 0, 5.0 * 0.95, 5.0) == "a"
