"""The page: whole, self-contained, deaf to hostile captions, and never lost half-written."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tunesmith.errors import UserError
from tunesmith.report import page
from tunesmith.report.figures import Curve, Mark
from tunesmith.report.page import Measure, Pitfall, Report, Rights, Row, Section, Track
from tunesmith.report.verdict import Pair, Verdict, judge
from tunesmith.types import Audio

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"


def tone(hz: float = 440.0, seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> Audio:
    t = np.arange(int(seconds * rate)) / rate
    return Audio(np.repeat(0.3 * np.sin(2 * np.pi * hz * t)[None], channels, 0).astype("f4"), rate)


def full(**changes) -> Report:
    report = Report(
        title="A run",
        verdict=judge(valid=Pair(3.0, 2.0)),
        subtitle="lora",
        before_after=[Row("piano", 1, [Track("Before", tone()), Track("After", tone(660))])],
        sections=[Section("Your clips", [Track(f"clip {i}", tone(200 + i)) for i in range(7)])],
        curves=[Curve("Loss", "step", "loss", {"train": ([0, 1], [2, 1])}, [Mark(1, "kept")])],
        metrics=[Measure("KAD", 4.0, 2.0, "lower", "Distance.", 48, "clap", 0.01)],
        pitfalls=[Pitfall("Few clips.", "Record more.")],
        data={"clips": 7},
        settings={"train": {"lr": 1e-4, "steps": 10}, "roles": ["a", "b"], "prior": None},
        rights=Rights("CC-BY-NC-4.0 https://creativecommons.org/licenses/by-nc/4.0/", "own", ["n"]),
        versions={"tunesmith": "0"},
    )
    return replace(report, **changes)


class Elements(HTMLParser):
    """Every start tag with its attributes, and whether tags balance."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.all if name == tag]


def test_every_sound_is_in_the_page_and_plays() -> None:
    players = Elements(page.render(full())).named("audio")
    assert len(players) == 9
    for player in players:
        assert player["preload"] == "none" and "controls" in player and player["aria-label"]
        kind, data = str(player["src"]).split(",", 1)
        assert kind == "data:audio/ogg;base64"
        samples, rate = sf.read(io.BytesIO(base64.b64decode(data)))
        assert rate == 16_000 and len(samples) == 16_000


def test_nothing_comes_from_outside() -> None:
    html = page.render(full())
    elements = Elements(html)
    for _, attributes in elements.all:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            if (value := attributes.get(name)) is not None:
                assert value.startswith(("data:", "#"))
    assert not elements.named("link") and not elements.named("iframe")
    assert re.findall(r"https?://[^\s<]+", html) == [
        "https://creativecommons.org/licenses/by-nc/4.0/"
    ]
    assert not re.search(r"@import|url\(", html)


def test_script_is_allowed_by_its_hash_alone() -> None:
    html = page.render(full())
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in html or f"'sha256-{digest}'" in html
    assert "default-src 'none'" in html
    assert not any(name.startswith("on") for _, a in Elements(html).all for name in a)
    assert not any("style" in a for _, a in Elements(html).all)


def test_hostile_text_everywhere_stays_text() -> None:
    track = Track(HOSTILE, tone(), HOSTILE)
    html = page.render(
        Report(
            title=HOSTILE,
            verdict=Verdict("worse", HOSTILE, (HOSTILE,)),
            subtitle=HOSTILE,
            before_after=[Row(HOSTILE, 1, [track, track])],
            sections=[Section(HOSTILE, [track], HOSTILE)],
            curves=[Curve(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: ([0], [1])}, [Mark(0, HOSTILE)])],
            metrics=[Measure(HOSTILE, 1, 2, "lower", HOSTILE, 1, HOSTILE)],
            pitfalls=[Pitfall(HOSTILE, HOSTILE)],
            data={HOSTILE: HOSTILE},
            settings={HOSTILE: {HOSTILE: [HOSTILE]}},
            rights=Rights(HOSTILE, HOSTILE, [HOSTILE]),
            versions={HOSTILE: HOSTILE},
        )
    )
    elements = Elements(html)
    assert len(elements.named("script")) == 1
    assert len(elements.named("img")) == 3
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("{{ 7*7 }}") > 10  # a template inside a caption is text, too
    assert not any("onerror" in attributes for _, attributes in elements.all)


def test_structure_for_screen_readers() -> None:
    html = page.render(full())
    elements = Elements(html)
    assert elements.open == []
    levels = [int(tag[1]) for tag, _ in elements.all if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(elements.named(tag) for tag in ("main", "header", "footer", "nav", "caption"))
    assert {a.get("scope") for a in elements.named("th")} == {"col", "row"}
    assert all(image["alt"] for image in elements.named("img"))
    ids = [a["id"] for _, a in elements.all if "id" in a]
    assert len(ids) == len(set(ids))
    for anchor in elements.named("a"):
        assert str(anchor["href"])[1:] in ids
    assert elements.named("html")[0]["lang"] == "en"


@pytest.mark.parametrize("word", ["better", "no change", "worse", "not measured"])
def test_verdict_is_said_in_words_and_comes_first(word) -> None:
    html = page.render(full(verdict=Verdict(word, "Headline.", ("Evidence.",))))
    assert f"</span>{word.capitalize()}</span>" in html
    assert html.index("Headline.") < html.index('id="listen"') < html.index('id="measures"')


def test_a_bare_report() -> None:
    html = page.render(Report("t", Verdict("not measured", "h")))
    assert Elements(html).open == []
    assert "<table" not in html and "<audio" not in html


def test_missing_numbers_and_empty_curves() -> None:
    html = page.render(
        full(
            metrics=[
                Measure("a", math.nan, 1.0, "lower", "e"),
                Measure("b", None, None, "higher", "e"),
                Measure("c", 1.0, math.inf, "lower", "e"),
            ],
            curves=[
                Curve("none", "x", "y", {}),
                Curve("gaps", "x", "y", {"s": ([0, 1, 2], [1, math.nan, 2])}),
            ],
            settings={"lr": math.nan, "empty": {}, "list": []},
        )
    )
    text = re.sub(r"data:\S+", "", html)
    assert text.count("not measured</span>") == 3
    assert "Nothing was recorded." in text
    assert not re.search(r"\b(nan|inf)\b", text, re.I)


@pytest.mark.parametrize(
    ("base", "adapted", "better", "p", "change"),
    [
        (2, 1, "lower", None, "better"),
        (2, 1, "higher", None, "worse"),
        (1, 2, "higher", 0.01, "better"),
        (2, 1, "lower", 0.2, "chance"),
        (1, 1, "lower", None, "same"),
        (1, math.nan, "lower", None, "unknown"),
    ],
)
def test_change(base, adapted, better, p, change) -> None:
    assert Measure("m", base, adapted, better, "e", p_value=p).change == change


@pytest.mark.parametrize(
    ("interval", "p", "change"),
    [((0.5, 1.8), None, "chance"), ((0.5, 1.2), None, "better"), ((0.5, 1.8), 0.01, "better")],
)
def test_without_a_test_overlapping_intervals_are_no_clear_change(interval, p, change) -> None:
    one = Measure("m", 2, 1, "lower", "e", interval=interval, base_interval=(1.5, 2.5), p_value=p)
    assert one.change == change


def test_broken_sounds_cost_no_report(tmp_path: Path) -> None:
    (tmp_path / "junk.wav").write_bytes(b"RIFF no wave")
    sf.write(tmp_path / "empty.wav", np.zeros((0, 1)), 16_000)
    sf.write(tmp_path / "good.wav", tone().samples.T, 16_000)
    tracks = [
        Track("a", tmp_path / "absent.wav"),
        Track("b", tmp_path / "junk.wav"),
        Track("c", tmp_path / "empty.wav"),
        Track("d", Audio(np.zeros((1, 0), np.float32), 16_000)),
        Track("e", Audio(np.full((1, 400), np.nan, np.float32), 16_000)),
        Track("f", Audio(5 * tone().samples.repeat(6, 0), 48_000)),
        Track("g", tmp_path / "good.wav"),
    ]
    html = page.render(full(before_after=[], sections=[Section("s", tracks)]))
    assert len(Elements(html).named("audio")) == 3
    assert "absent.wav cannot be read" in html and str(tmp_path) not in html
    assert html.count("Nothing to play") == 4


def test_size_is_bounded_and_no_clip_is_left_out() -> None:
    rng = np.random.default_rng(0)
    noise = [Audio(rng.normal(size=(1, 16_000 * 8)).astype("f4") * 0.2, 16_000) for _ in range(12)]
    report = full(sections=[Section("s", [Track(str(i), a) for i, a in enumerate(noise)])])
    loose = page.render(report)
    tight = page.render(report, limit_mb=0.6)
    assert len(tight) < 0.65e6 < len(loose)
    assert len(Elements(tight).named("audio")) == len(Elements(loose).named("audio")) == 14
    assert "The first" in tight and "of 8.0 s" in tight
    assert "The first" not in loose


def test_long_sound_does_not_upset_the_encoder() -> None:
    html = page.render(full(before_after=[Row("p", None, [Track("a", tone(seconds=400))])]))
    assert "6:40 min" in html


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    assert page.write_report(full(), target) == target
    first = target.read_text(encoding="utf-8")
    assert first.startswith("<!doctype html>") and first.rstrip().endswith("</html>")
    assert os.stat(target).st_mode & 0o400

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="no space"):
        page.write_report(full(title="second"), target)
    assert target.read_text(encoding="utf-8") == first
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        page.write_report(full(), tmp_path / "no" / "report.html")


def test_lone_surrogates_in_a_caption_do_not_stop_it(tmp_path: Path) -> None:
    report = full(sections=[Section("s", [Track("a", tone(), "bad \udcff name")])])
    assert page.write_report(report, tmp_path / "r.html").stat().st_size > 1000
