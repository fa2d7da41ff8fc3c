"""What is said of a gap must be as honest about harm, chance and nothing as about success."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.metrics.gap import Gap
from tunesmith.report import gap as gaps
from tunesmith.report.gap import GapClosed
from tunesmith.report.page import Report, render
from tunesmith.report.verdict import Pair, Verdict, judge

FELL, ROSE, STAYED = Pair(3.3, 2.6), Pair(2.6, 3.3), Pair(2.6, 2.605)


def made(*adapted: float, p: float = 0.001, base: float = 30.0, ceiling: float = 10.0) -> Gap:
    clear = base - ceiling > 2
    closed = tuple((base - one) / (base - ceiling) if clear else None for one in adapted)
    return Gap(
        base=base,
        ceiling=ceiling,
        adapted=adapted,
        width=base - ceiling,
        width_error=1.0,
        closed=closed,
        errors=tuple(0.05 if clear else None for _ in adapted),
        p_value=p,
        n_reference=128,
        n_takes=128,
        bandwidth=5.0,
    )


GOOD = made(18.0, 17.6, 16.0)
AWAY = made(34.0, 36.0, 33.0)
MIXED = made(20.0, 31.0, 22.0)
CHANCE = made(28.0, 29.0, 27.0, p=0.3)
NO_GAP = made(10.5, 10.2, 10.4, p=0.6, base=11.0)
NEARER_BEYOND = made(8.0, 8.1, 7.9, base=10.5)


@pytest.mark.parametrize(
    ("valid", "gap", "word"),
    [
        (FELL, GOOD, "better"),
        (STAYED, GOOD, "better"),
        (ROSE, GOOD, "no change"),
        (FELL, AWAY, "worse"),
        (STAYED, AWAY, "worse"),
        (STAYED, MIXED, "no change"),
        (STAYED, CHANCE, "no change"),
        (FELL, CHANCE, "better"),
        (ROSE, CHANCE, "worse"),
        (STAYED, NO_GAP, "no change"),
        (STAYED, NEARER_BEYOND, "better"),
        (Pair(None, None), GOOD, "better"),
    ],
)
def test_word(valid: Pair, gap: Gap, word: str) -> None:
    verdict = judge(valid=valid, gap=gap)
    assert verdict.word == word
    assert set(gaps.sentences(gap)) <= set(verdict.sentences)


def plain(gap: Gap) -> str:
    return " ".join(gaps.sentences(gap)).replace("\N{NO-BREAK SPACE}", " ")


def test_success_is_said_with_its_numbers() -> None:
    assert plain(GOOD).startswith(
        "The adapters of 3 trainings went 62 % of the way from the base to what real recordings sound "
        "like through this base's codec (middle of 60 %, 62 %, 70 %)."
    )
    assert "p = 0.001" in plain(GOOD)
    assert plain(made(17.6)).startswith("The adapter went 62 % of the way")


@pytest.mark.parametrize("gap", [AWAY, MIXED, CHANCE, NO_GAP, made(34.0)])
def test_nothing_else_reads_as_success(gap: Gap) -> None:
    words = plain(gap)
    assert " of the way from the base" not in words
    assert "would hardly do" not in words


def test_harm_chance_quarrel_and_no_gap_are_named() -> None:
    assert "went away from real recordings" in plain(AWAY) and "\N{MINUS SIGN}20 %" in plain(AWAY)
    assert "The adapter went away" in plain(made(34.0))
    assert "within what chance alone" in plain(CHANCE) and "p = 0.3" in plain(CHANCE)
    assert "disagree: 2 of 3" in plain(MIXED) and "No improvement is claimed" in plain(MIXED)
    assert "no share of it is given" in plain(NO_GAP) and "%" not in plain(NO_GAP)
    assert "no difference beyond chance" in plain(NO_GAP)
    assert "nearer to them than the base's" in plain(NEARER_BEYOND)
    assert "further from them" in plain(replace(NEARER_BEYOND, adapted=(12.0, 13.0, 12.5)))


def test_more_than_all_of_it_is_explained() -> None:
    assert "Above 100 % means" in plain(made(8.0, 9.0, 7.0))


def test_a_tiny_negative_share_is_not_minus_zero() -> None:
    assert gaps.percent(-0.001) == f"0{chr(0xA0)}%"


@pytest.mark.parametrize("gap", [GOOD, AWAY, MIXED, CHANCE, made(18.0), made(4.0, 60.0)])
@pytest.mark.parametrize("width", [340, 880])
def test_the_line_stays_inside_its_picture(gap: Gap, width: int) -> None:
    shown = GapClosed(gap, "an ear", [f"seed {i}" for i in range(len(gap.adapted))])
    root = ET.fromstring(gaps.svg(shown, "x", width))
    _, _, wide, high = map(float, root.attrib["viewBox"].split())
    spots = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(spots) == len(gap.adapted)
    for node in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(node.attrib.get(name, 0)) <= wide
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(node.attrib.get(name, 0)) <= high
    order = sorted(range(len(spots)), key=lambda i: float(spots[i].attrib["cx"]))
    assert order == sorted(range(len(spots)), key=lambda i: gap.closed[i] or 0.0)


@pytest.mark.parametrize("gap", [GOOD, NO_GAP, AWAY])
def test_the_page_shows_it_with_its_limits(gap: Gap, tmp_path: Path) -> None:
    shown = GapClosed(gap, "<ear>", ["seed 0", "seed 1", "seed 2"], ["Only <this>."])
    page = render(Report("A run", Verdict("better", "Yes."), gap=shown))
    assert "How far it went" in page and "What it cannot say" in page
    assert "&lt;ear&gt;" in page and "Only &lt;this&gt;." in page and "<ear>" not in page
    assert ('class="curve gap"' in page) == (gap.median is not None)
    assert "128 real recordings" in page
    without = render(Report("A run", Verdict("better", "Yes.")))
    assert "How far it went" not in without
