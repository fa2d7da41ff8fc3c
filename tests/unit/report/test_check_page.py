"""The page and the terminal's page of a check: escaped, bounded, well-formed, 80 columns wide."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from rich.cells import cell_len
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.data._histogram import of_numbers
from tunesmith.data.check import Check, check
from tunesmith.errors import UserError
from tunesmith.report import check as page

HOSTILE = '</script><script>alert("x")</script> [bold red]nice[/] song & 日本語の歌'
FAULT = {"name": "clipping", "figure": 9.0, "unit": "%", "reason": "clipped: <b>9 %</b>"}


def data_set(folder: Path, count: int = 4, caption: str = HOSTILE) -> Path:
    (folder / "train").mkdir(parents=True)
    rows = []
    for i in range(count):
        draw = np.random.default_rng(i)
        time_s = np.arange(8000) / 4000
        sound = np.sin(2 * np.pi * draw.uniform(100, 900) * time_s) * draw.uniform(0.1, 0.4)
        file = f"train/{i:03d}.wav"
        soundfile.write(folder / file, sound, 4000)
        (folder / file).with_suffix(".txt").write_text(caption, encoding="utf-8")
        facts = {
            "loudness_lufs": -14.0 - i, "tempo_bpm": 90.0 + i, "tempo_confidence": 0.9,
            "key": "F major" if i else None, "key_confidence": 0.9,
        }  # fmt: skip
        faults = [FAULT] if i % 2 else []
        rows.append({"file": file, "facts": facts, "bandwidth_hz": 1900.0, "faults": faults})
    (folder / "measures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Check:
    return check(data_set(tmp_path_factory.mktemp("check") / "my <i>set & more"))


class Tags(HTMLParser):
    """Every tag and what its attributes load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def read(html: str) -> Tags:
    parser = Tags()
    parser.feed(html)
    return parser


def test_hostile_text_stays_text(found: Check) -> None:
    html = page.render(found)
    tags = read(html)
    assert tags.tags.count("script") == 1 and "<b>9" not in html and "<i>set" not in html
    assert "&lt;script&gt;alert(&#34;x&#34;)" in html and "my &lt;i&gt;set &amp; more" in html
    assert all(value.startswith(("data:", "#")) for value in tags.loaded)
    assert len(tags.ids) == len(set(tags.ids))
    assert "default-src 'none'" in html


def test_every_anchor_leads_somewhere(found: Check) -> None:
    tags = read(page.render(found))
    assert {value[1:] for value in tags.loaded if value.startswith("#")} <= set(tags.ids)


def test_drawings_are_well_formed(found: Check) -> None:
    for histogram in found.histograms:
        drawing = page._drawn(histogram, "h")
        if drawing is not None:
            root = ElementTree.fromstring(str(drawing))
            bars = [e for e in root.iter("rect") if "bar" in e.attrib["class"]]
            assert len(bars) == sum(count > 0 for count in histogram.counts)


def test_players_are_capped_and_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_FLAGGED", 2)
    monkeypatch.setattr(page, "_CAPTIONS", 0)
    monkeypatch.setattr(page, "_PAIRS", 1)
    html = page.render(check(data_set(tmp_path / "d", 10)))
    assert read(html).tags.count("audio") == 4
    assert re.search(r"\b[1-9] more are not shown here", html)


def test_the_size_keeps_to_its_limit(tmp_path: Path) -> None:
    found = check(data_set(tmp_path / "d", 6))
    large, small = page.render(found), page.render(found, limit_mb=0.02)
    assert len(small) < len(large)


def test_a_clip_that_went_away_is_said_so(tmp_path: Path) -> None:
    found = check(data_set(tmp_path / "d"))
    (tmp_path / "d" / "train" / "001.wav").unlink()
    assert "Nothing to play: 001.wav cannot be read" in page.render(found)


def test_a_page_needs_a_folder(found: Check, tmp_path: Path) -> None:
    for place in (tmp_path / "no" / "page.html", tmp_path):
        with pytest.raises(UserError, match="cannot be written"):
            page.write_check(found, place)


def run(*words: str | Path):
    return CliRunner().invoke(app, ["check", *map(str, words)], env={"COLUMNS": "80"})


def test_terminal_fits_eighty_columns(tmp_path: Path) -> None:
    folder = data_set(tmp_path / ("a" * 90), 5)
    done = run(folder, "--method", "textual_inversion", "--out", tmp_path / "p.html")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[-1] == f"page: {tmp_path / 'p.html'}"  # never broken, so that it can be copied
    assert max(cell_len(line) for line in lines[:-1]) <= 80
    assert "[bold red]nice[/]" in done.output
    assert "textual_inversion: TOO LITTLE" in done.output
    assert (tmp_path / "p.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_is_all_there_is(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "d")
    done = run(folder, "--json")
    value = json.loads(done.stdout)
    assert value["verdicts"][0]["word"] == "too little" and value["folder"] == "d"
    assert {"counts", "histograms", "screening", "diversity", "captions"} <= value.keys()
    assert not (folder / "check.html").exists()
    run(folder)
    assert (folder / "check.html").exists()


def test_a_lowered_word_is_marked(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "d", 24)
    done = run(folder, "--method", "dreambooth", "--out", tmp_path / "p.html")
    assert re.search(r"^dreambooth +too little\*? +12 ", done.output, re.M), done.output
    assert "too little*" in done.output
    assert "* lowered: 50 % of the clips have faults" in done.output
    html = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "lowered: 50 % of the clips have faults" in html
    value = json.loads(run(folder, "--method", "dreambooth", "--json").stdout)
    assert value["verdicts"][0]["lowered"] == "50 % of the clips have faults"


def test_backticks_are_code(found: Check) -> None:
    html = page.render(found)
    text = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.S)
    assert "`" not in text and "<code>prepare</code>" in text
    assert page.code("`a <b>` & `c") == "<code>a &lt;b&gt;</code> &amp; `c"


def test_unreadable_files_are_on_every_page(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "d")
    (folder / "train" / "<i>bad.wav").write_bytes(b"")
    done = run(folder, "--out", tmp_path / "p.html")
    said = " ".join(done.output.split())
    assert done.exit_code == 0 and "1 file unreadable" in said
    assert "1 file cannot be read: train/<i>bad.wav: is empty (0 bytes)." in said
    html = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "train/&lt;i&gt;bad.wav: is empty (0 bytes)" in html and "<i>bad" not in html


def test_a_lone_quiet_clip_leaves_the_others_their_scale() -> None:
    histogram = of_numbers("loudness", "LUFS", [-60.0, *(-15 + i / 9 for i in range(18))])
    drawing = ElementTree.fromstring(str(page._drawn(histogram, "h")))
    ticks = [e.text for e in drawing.iter("text") if e.get("text-anchor") == "middle"]
    assert {"0", "-60", "\N{MINUS SIGN}60"}.isdisjoint(ticks) and len(ticks) >= 3
    assert [e.get("class") for e in drawing.iter("rect")].count("bar far") == 1
    assert page.apart(histogram).startswith("1 below -15")


def test_exit_codes(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "d")
    assert run(folder, "--json").exit_code == 0
    assert run(folder, "--json", "--strict").exit_code == 1
    assert isinstance(run(folder, "--method", "nothing").exception, UserError)


def test_units_of_the_page() -> None:
    assert [page.seconds(x) for x in (4.25, 59.0, 75, 3600, 11_130)] == [
        "4.2 s", "59.0 s", "1:15 min", "1 h 0 min", "3 h 6 min",
    ]  # fmt: skip
    assert [page.percent(x) for x in (0, 0.001, 0.07, 1)] == ["0 %", "under 1 %", "7 %", "100 %"]
