"""Figures against closed forms and counts done by hand."""

from __future__ import annotations

import csv
import json
import re
from math import comb
from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import UserError
from tunesmith.listen._statistics import needed, over_both, power, share
from tunesmith.listen.analysis import analyse
from tunesmith.listen.design import read_test
from tunesmith.listen.export import COLUMNS, rows, safe, write_csv, write_json
from tunesmith.listen.plan import plan
from tunesmith.listen.results_page import render, write_results
from tunesmith.listen.store import Answer, Store
from tunesmith.listen.words import headline, remarks, sentences, tone


def at_least(count: int, n: int, p: float) -> float:
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count, n + 1))


@pytest.mark.parametrize(("count", "n"), [(0, 10), (10, 10), (7, 10), (61, 100), (1, 1)])
def test_clopper_pearson_by_its_definition(count, n):
    """Its ends are the shares under which a count as extreme has a probability of 2.5 %."""
    found = share(count, n)
    assert found.interval is not None
    low, high = found.interval
    if count:
        assert at_least(count, n, low) == pytest.approx(0.025, abs=1e-9)
    else:
        assert low == 0
    if count < n:
        assert 1 - at_least(count + 1, n, high) == pytest.approx(0.025, abs=1e-9)
    else:
        assert high == 1
    two_sided = min(1.0, 2 * at_least(max(count, n - count), n, 0.5))
    assert found.p_value == pytest.approx(two_sided, abs=1e-12)
    assert share(count, n, "greater").p_value == pytest.approx(at_least(count, n, 0.5), abs=1e-12)


def test_a_share_of_nothing_is_no_share():
    assert share(0, 0).value is None and share(0, 0).interval is None


def test_power_is_the_binomial_tail():
    # Two-sided at 0.05 with n = 20: 15 or more (2 · 0.0207); Siegel's table D.
    assert power(20, 0.75) == pytest.approx(at_least(15, 20, 0.75))
    assert power(5, 0.99) == 0  # 2 · (1/2)⁵ > 0.05
    assert power(6, 0.9) == pytest.approx(0.9**6)
    n = needed(0.7)
    assert all(power(more, 0.7) >= 0.8 for more in range(n, n + 60)) and power(n - 1, 0.7) < 0.8
    with pytest.raises(ValueError, match="no difference"):
        needed(0.5)


def spread_out(values: np.ndarray):
    """``[L, I]`` as values, listeners, items."""
    listeners, items = np.indices(values.shape)
    return values.ravel().tolist(), listeners.ravel().tolist(), items.ravel().tolist()


def test_the_interval_covers_listeners_and_items():
    """Both vary: an interval over answers alone covers the truth far too rarely."""
    hits = naive = 0
    for seed in range(150):
        random = np.random.default_rng(seed)
        values = (
            3
            + 0.5 * random.standard_normal((16, 1))
            + 0.5 * random.standard_normal((1, 12))
            + 0.7 * random.standard_normal((16, 12))
        )
        values[random.random(values.shape) < 0.1] = np.nan
        interval = over_both(*spread_out(values))
        assert interval is not None
        hits += interval[0] <= 3 <= interval[1]
        half = 1.96 * np.nanstd(values) / np.sqrt(np.isfinite(values).sum())
        naive += abs(np.nanmean(values) - 3) <= half
    assert 0.90 <= hits / 150 <= 1.0
    assert naive / 150 < 0.75


def test_the_interval_of_little():
    assert over_both(*spread_out(np.full((3, 4), 2.0))) == (2.0, 2.0)
    assert over_both(*spread_out(np.full((3, 4), np.nan))) is None
    assert over_both([4.0], [0], [0]) is None


def answered(folder: Path, choose, listeners: int = 8, stop_at: dict[int, int] | None = None):
    """Lets listeners answer: ``choose(trial, who)`` gives the choice."""
    test = read_test(folder)
    with Store(folder, create=True) as store:
        store.add_listeners(listeners + 1)  # one never comes
        for who in range(listeners):
            for place, trial in enumerate(plan(test, who)[: (stop_at or {}).get(who)]):
                store.open_trial(who, place)
                heard = {"ABX"[slot]: 1.0 for slot in range(len(trial.slots))}
                given = Answer(who, place, f"{place}", choose(trial, who), heard)
                assert store.answer(given) == "saved"
    return analyse(folder)


def prefer(side: int):
    return lambda trial, who: "ab"[trial.slots.index(side)]


def test_a_preference_is_counted_by_side_and_not_by_letter(test_folder):
    found = answered(test_folder(), prefer(1))
    (one,) = found.comparisons
    assert (one.answers.count, one.answers.n) == (40, 40)  # practice and repeats do not count
    assert (one.listeners.count, one.listeners.n) == (8, 8)
    assert one.listeners.p_value == pytest.approx(2 / 2**8)
    assert headline(found) == "Listeners prefer mine to base." and tone(found) == "better"
    assert (found.repeats, found.agreed) == (8, 8)
    assert (found.links, found.started, found.finished) == (9, 8, 8)
    assert found.hurried == 40  # no time passed


def test_a_preference_for_the_base_is_worse(test_folder):
    found = answered(test_folder(), prefer(0))
    assert headline(found) == "Listeners prefer base to mine." and tone(found) == "worse"


def test_always_the_same_letter_is_no_preference(test_folder):
    """Balanced sides turn a habit into nothing."""
    found = answered(test_folder(count=7), lambda trial, who: "a")
    (one,) = found.comparisons
    assert (one.answers.count, one.answers.n) == (24, 48) and tone(found) == "no change"
    assert (found.repeats, found.agreed) == (8, 0)


def test_one_loud_listener_does_not_decide(test_folder):
    """By answers it is significant; by listeners it is one against one."""
    folder = test_folder(count=13)
    found = answered(folder, lambda t, who: prefer(1)(t, who) if who == 0 else "tie", listeners=2)
    (one,) = found.comparisons
    assert one.answers.p_value is not None and one.answers.p_value < 0.001
    assert one.ties == 12 and one.undecided == 1 and tone(found) == "no change"
    assert any("cannot settle it" in sentence for sentence in sentences(found))


def test_only_ties(test_folder):
    found = answered(test_folder(), lambda trial, who: "tie")
    (one,) = found.comparisons
    assert one.answers.n == 0 and one.ties == 40 and one.undecided == 8
    assert tone(found) == "unknown"
    assert "40 without a preference" in render(found) or "no preference" in render(found)


def test_listeners_who_stop_early_count_with_what_they_gave(test_folder):
    found = answered(test_folder(), prefer(1), stop_at={2: 3, 3: 0})
    assert (found.started, found.finished) == (7, 6)
    assert found.comparisons[0].answers.n == 6 * 5 + 2
    assert any("did not finish" in remark for remark in remarks(found))


def test_several_runs_against_one_base(test_folder):
    found = answered(test_folder(sides=("base", "one", "two")), lambda t, who: "a")
    assert [(one.base, one.other) for one in found.comparisons] == [
        ("base", "one"),
        ("base", "two"),
    ]
    assert all(one.answers.n == 40 for one in found.comparisons)


def test_abx_counts_right_answers(test_folder):
    def right(trial, who):
        return "ab"[trial.slots.index(trial.slots[2])]

    found = answered(test_folder("abx"), right)
    (one,) = found.comparisons
    assert (one.answers.count, one.answers.n) == (40, 40)
    assert one.answers.p_value == pytest.approx(0.5**40)
    assert headline(found) == "Listeners hear the difference between base and mine."


def test_abx_of_guesses(test_folder):
    found = answered(test_folder("abx", count=9), lambda trial, who: "b")
    (one,) = found.comparisons
    assert one.answers.n == 64 and 20 <= one.answers.count <= 44  # three deviations about one half
    assert tone(found) == "no change"


def test_mos_by_hand(test_folder):
    ratings = {0: "3", 1: "4", 2: "5", 3: "1"}
    folder = test_folder(
        "mos", sides=("base", "mine", "real", "low"), reference="real", anchor="low"
    )

    def choose(trial, who):
        if who == 0:  # asleep
            return "3"
        return "5" if (trial.slots[0], who) == (1, 1) else ratings[trial.slots[0]]

    found = answered(folder, choose)
    by_side = {one.side: one for one in found.ratings}
    assert by_side["base"].mean == 3 and by_side["base"].n == 40
    assert by_side["mine"].mean == pytest.approx((5 * 3 + 5 * 5 + 30 * 4) / 40)
    assert by_side["mine"].counts == (0, 0, 5, 30, 5)
    assert by_side["mine"].difference == pytest.approx(1.0)
    assert by_side["mine"].difference_interval is not None
    assert by_side["base"].interval == (3.0, 3.0)
    assert tone(found) == "better" and "1.0 points better" in headline(found)
    sleeper = Store(folder).listeners()[0].ident
    assert found.inattentive == (sleeper,)
    assert analyse(folder, without=[sleeper]).inattentive == ()
    assert analyse(folder, without=[sleeper]).ratings[2].mean == 5


def test_nobody_yet(test_folder):
    folder = test_folder()
    with pytest.raises(UserError, match="nobody has listened yet"):
        analyse(folder)
    Store(folder, create=True).close()
    found = analyse(folder)
    assert "Nobody" in headline(found) and "Too early" in render(found)
    with pytest.raises(UserError, match="no listener is called"):
        analyse(folder, without=["x"])


def test_rows_and_csv(test_folder, tmp_path):
    folder = test_folder(sides=("=HYPERLINK(1)", "+mine"))
    found = answered(folder, prefer(1), listeners=2)
    assert len(rows(found)) == 2 * 7
    for row in rows(found):
        assert row["chosen"] == row[row["answer"]] == "+mine"
    path = write_csv(found, tmp_path / "out.csv")
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == list(COLUMNS) and len(read) == 14
    assert {row["a"] for row in read} == {"'=HYPERLINK(1)", "'+mine"}
    assert {row["role"] for row in read} == {"training", "test", "repeat"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\S+\+00:00", row["answered_at"]) for row in read)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1"])
def test_no_cell_is_a_formula(text):
    assert safe(text) == f"'{text}"
    assert safe(f"a{text}") == f"a{text}"


def test_json_is_plain(test_folder, tmp_path):
    found = answered(test_folder("mos"), lambda trial, who: "4")
    told = json.loads(write_json(found, tmp_path / "r.json").read_text())
    assert told["ratings"][0]["mean"] == 4 and told["test"]["kind"] == "mos"
    assert told["counted"] == 80 and "judged" not in told
    with pytest.raises(UserError, match="cannot be written"):
        write_json(found, tmp_path / "gone" / "r.json")


@pytest.mark.parametrize("kind", ["ab", "abx", "mos"])
def test_the_page_is_whole_and_escaped(test_folder, tmp_path, kind):
    folder = test_folder(kind, sides=("<script>alert(1)</script>", "b & c"), title="<i>T</i>")
    found = answered(folder, lambda trial, who: "3" if kind == "mos" else "a", listeners=3)
    page = write_results(found, tmp_path / "r.html").read_text()
    assert "<script" not in page and "<i>T" not in page and "b &amp; c" in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page.count("<svg") == page.count("</svg>") >= 4
