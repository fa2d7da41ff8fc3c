"""What `check` says of lyrics and languages, and that a run refuses clips without what it requires."""

import csv
import json

import pytest
from sounds import write
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.config import DataConfig
from tunesmith.data._songs import songs
from tunesmith.data.check import check
from tunesmith.errors import UserError
from tunesmith.training.sides import check_required
from tunesmith.types import Clip


def sung(rows):
    """A folder of clips with (language, lyrics), blank ones too."""
    return [
        Clip(
            path=f"{number}.wav", caption="c", split="train", recording=str(number), start_s=0.0,
            duration_s=60.0 * (1 + number % 2), sha256=str(number), caption_source="name",
            caption_confidence=1.0,
            extra={"language": language, "lyrics": lyrics},
        )
        for number, (language, lyrics) in enumerate(rows)
    ]  # fmt: skip


def data_set(folder, rows):
    """The same on the disk, as a table."""
    (folder / "train").mkdir(parents=True)
    with open(folder / "train" / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption", "language", "lyrics"])
        for number, (language, lyrics) in enumerate(rows):
            write(folder / "train" / f"{number:02d}.wav", 2.0, seed=number)
            table.writerow([f"{number:02d}.wav", f"flute {number}", language, lyrics])
    return folder


def found(folder, word):
    return [one for one in check(folder).findings if word in one.what]


def test_counts_and_shares():
    got = songs(sung([("de", "la"), ("DE ", "la"), ("en", ""), ("", "la"), ("", "")]))
    assert got is not None
    assert (got.clips, got.with_lyrics, got.with_language, got.without_language) == (5, 3, 3, 1)
    german, english = got.languages
    assert (german.name, german.clips, german.minutes) == ("de", 2, 3.0)
    assert (german.clip_share, german.minute_share) == (0.6667, 0.75)
    assert (english.name, english.clip_share, english.minute_share) == ("en", 0.3333, 0.25)
    assert songs(sung([("", ""), ("", "  ")])) is None


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"de": 10}, []),
        ({"de": 9, "en": 1}, []),
        ({"de": 19, "en": 1}, ["de", "en"]),
        ({"de": 8, "en": 8, "fr": 1}, ["fr"]),
        ({"de": 50, "en": 1, "fr": 1}, ["de", "en", "fr"]),
    ],
)
def test_balance(counts, named):
    rows = [(name, "la") for name, count in counts.items() for _ in range(count)]
    got = songs(sung(rows))
    assert got is not None and [one.name for one in got.unbalanced] == named


def test_what_is_doubtful_is_a_finding(tmp_path):
    rows = [("de", "la")] * 19 + [("en", "la")]
    folder = data_set(tmp_path / "a", rows)
    (one,) = found(folder, "balance")
    assert one.what == (
        "The 2 languages are out of balance: de has 95 % of the clips, en has 5 % of the clips."
    )
    assert one.mend and not found(folder, "lyrics")
    folder = data_set(tmp_path / "b", [("de", "la"), ("de", ""), ("", "la"), ("", "la")])
    (missing,) = found(folder, "have no lyrics") + found(folder, "has no lyrics")
    assert missing.what == "1 of 4 clips has no lyrics." and "x.lrc" in missing.mend
    (language,) = found(folder, "no language")
    assert language.what == "2 clips have lyrics and no language." and "language" in language.mend
    assert not found(folder, "balance")


def test_a_set_without_words_hears_nothing_of_them(tmp_path):
    folder = data_set(tmp_path / "a", [("", "")] * 3)
    got = check(folder)
    assert got.songs is None and got.to_json()["songs"] is None
    assert not any("lyrics" in one.what or "language" in one.what for one in got.findings)


def test_programs_and_people_are_told_alike(tmp_path):
    folder = data_set(tmp_path / "a", [("de", "la"), ("de", "la"), ("en", "")])
    said = CliRunner().invoke(app, ["check", str(folder), "--json"]).stdout
    figures = json.loads(said)["songs"]
    assert (figures["with_lyrics"], figures["clips"]) == (2, 3)
    assert figures["languages"][0] | {"minutes": 0} == {
        "name": "de", "clips": 2, "minutes": 0, "clip_share": 0.6667, "minute_share": 0.6667,
    }  # fmt: skip
    assert any("1 of 3 clips has no lyrics" in one["what"] for one in json.loads(said)["findings"])
    shown = CliRunner().invoke(app, ["check", str(folder)]).stdout
    assert "lyrics     2 of 3 clips" in shown and "de 67 % (2 clips, 0.1 min)" in shown
    page = (folder / "check.html").read_text()
    assert "<dt>Lyrics</dt><dd>2 of 3 clips</dd>" in page and "en 33 % (1 clip, 0.0 min)" in page


def test_instrumental_is_no_contradiction_where_the_lyrics_say_so(tmp_path):
    folder = data_set(tmp_path / "a", [("", "[instrumental]"), ("", "[verse]\nla")])
    for number in (0, 1):
        (folder / "train" / f"{number:02d}.txt").write_text(f"instrumental jazz {number}")
    (one,) = check(folder).captions.contradicting
    assert one.file == "train/01.wav"


# --- data.require ---


class Wanting:
    def __init__(self, path, *columns):
        self.data = DataConfig(path=str(path), require=columns)  # type: ignore[call-arg]


def test_a_run_that_requires_columns_names_what_is_missing(tmp_path):
    folder = data_set(tmp_path / "a", [("de", "la"), ("de", ""), ("", "  "), ("de", "la")])
    with pytest.raises(UserError) as caught:
        check_required(Wanting(folder, "lyrics", "language", "lyrics"))
    assert caught.value.message == (
        f"{folder}: 2 of 4 clips have no lyrics (train/01.wav), "
        "1 of 4 clips has no language (train/02.wav)"
    )
    assert "data.require" in caught.value.mend and "\n" not in str(caught.value)
    check_required(Wanting(folder))
    check_required(Wanting(data_set(tmp_path / "b", [("de", "la")] * 3), "lyrics", "language"))
