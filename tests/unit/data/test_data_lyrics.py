"""Timed lyrics: what each line's time is, and which clip it belongs to."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.lyrics import are_sung, between, beyond, is_timed, of_clip, parse, plain

SONG = """[ar: Nobody]
[ti:Song]
[00:00.50]one
[verse]
[00:03.00]two <00:03.40>of <00:04.00>them
[00:06.00]
[00:20.00] [chorus]
[00:21.00]three
[00:24.00]four
"""


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("00:07", 7.0),
        ("00:07.5", 7.5),
        ("01:07.05", 67.05),
        ("01:07.005", 67.005),
        ("01:07,05", 67.05),
        ("01:07:05", 67.05),
        ("1:01:07.50", 3667.5),
        (" 00 : 07 . 50 ", 7.5),
        ("99:00.00", 5940.0),
    ],
)
def test_ways_to_write_a_time(stamp, seconds):
    assert parse(f"[{stamp}]la").lines == ((seconds, "la"),)


@pytest.mark.parametrize(
    "line",
    [
        "[-00:05.00]x",
        "[00:75.00]x",
        "[00:-5]x",
        "[1:75:00.00]x",
        "[9999:00.00]x",
        "[00:01][1:99]x",
        "x",
    ],
)
def test_a_time_that_is_none_leaves_its_line_out_and_says_so(line):
    found = parse(f"[00:01.00]good\n{line}\n[00:09.00]also")
    assert [words for _, words in found.lines] == ["good", "also"]
    assert found.fault == "1 line without a time such as [01:23.45] left out (line 2)"


def test_lines_in_their_order_with_tags_before_theirs():
    found = parse(SONG)
    assert not found.fault
    assert found.lines == (
        (0.5, "one"), (3.0, "[verse]"), (3.0, "two of them"), (6.0, ""), (20.0, "[chorus]"),
        (21.0, "three"), (24.0, "four"),
    )  # fmt: skip
    assert plain(found.lines) == "one\n[verse]\ntwo of them\n[chorus]\nthree\nfour"


def test_a_line_that_is_sung_twice_and_a_tag_behind_the_last():
    found = parse("[00:30.00]b\n[hook]\n[00:10.00][00:50.00]a\n[outro]")
    assert found.lines == (
        (10.0, "[hook]"), (10.0, "a"), (30.0, "b"), (50.0, "[hook]"), (50.0, "a"), (50.0, "[outro]"),
    )  # fmt: skip
    assert between(found.lines, 40, 60, 60) == "[hook]\na\n[outro]"


def test_an_offset_moves_all_of_them_and_none_before_the_beginning():
    assert parse("[offset:+500]\n[00:00.20]a\n[00:02.00]b").lines == ((0.0, "a"), (1.5, "b"))
    assert parse("[offset:-500]\n[00:02.00]b").lines == ((2.5, "b"),)
    assert parse("[offset:much]\n[00:02.00]b").lines == ((2.0, "b"),)


def test_structure_tags_with_a_colon_are_not_about_the_file():
    assert parse("[Verse 1: soft]\n[00:01.00]a").lines == ((1.0, "[Verse 1: soft]"), (1.0, "a"))
    assert parse("[length: 03:20]\n[by:x]\n[00:01.00]a").lines == ((1.0, "a"),)


def test_a_line_belongs_where_its_middle_is():
    lines = parse("[00:00.00]a\n[00:09.00]b\n[00:13.00]c\n[00:30.00]d").lines
    # b lasts 4 s, its middle is at 11; c at most 5 s, though nothing follows for 17.
    assert between(lines, 0, 10.9, 60) == "a"
    assert between(lines, 0, 11.1, 60) == "a\nb"
    assert between(lines, 15.4, 20, 60) == "c"
    assert between(lines, 15.6, 20, 60) == ""
    # A tag goes with its line, though its own time is in the clip before.
    lines = parse(SONG).lines
    assert between(lines, 0, 20.5, 60) == "one\n[verse]\ntwo of them"
    assert between(lines, 20.5, 60, 60) == "[chorus]\nthree\nfour"
    # An empty line ends the one before it: two of them is over at 6.
    assert between(lines, 4.6, 7, 60) == ""
    assert between(lines, 4.4, 7, 60) == "[verse]\ntwo of them"


def test_a_passage_where_nobody_sings_is_told_of_every_clip_in_it():
    text = "[00:00.00][Instrumental]\n[00:40.00]a\n[00:45.00][inst]\n[00:50.00]b\n[00:55.00]"
    lines = parse(text).lines
    parts = [between(lines, at, at + 10, 70) for at in range(0, 70, 10)]
    assert parts[:4] == ["[Instrumental]"] * 4
    assert parts[4:6] == ["a\n[inst]", "b"]
    assert parts[6] == "", "nobody has said that nobody sings"
    # Behind a tag without a time of its own comes its line, whatever the tag is.
    assert between(parse("[inst]\n[00:30.00]a").lines, 0, 10, 60) == ""


@given(
    st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["a", "", "[x]", "b c"])), max_size=12),
    st.lists(st.floats(0.1, 99), max_size=4),
)
def test_each_line_is_in_one_clip_and_no_other(lines, cuts):
    lines = tuple(sorted((round(at, 3), words) for at, words in lines))
    edges = [0.0, *sorted(set(cuts)), 200.0]
    parts = [between(lines, a, b, 100.0) for a, b in itertools.pairwise(edges)]
    assert "\n".join(filter(None, parts)) == plain(lines)


def test_lyrics_without_times_are_only_those_of_the_whole():
    assert of_clip("la", (), 0, 30, 30) == of_clip("la", (), 0.5, 29.5, 30) == "la"
    assert of_clip("la", (), 0, 28, 30) == of_clip("la", (), 20, 30, 30) == ""
    assert of_clip("[Instrumental]", (), 20, 30, 300) == "[Instrumental]"
    assert of_clip("[inst]\nla", (), 20, 30, 300) == ""


def test_what_is_timed_and_what_is_sung():
    assert is_timed(SONG) and is_timed("[00:01]a\nb") and not is_timed("[00:01]a\nb\nc")
    assert not is_timed("[verse]\nla") and not is_timed("")
    assert are_sung("[verse]\nla") and not are_sung("[intro]\n[instrumental] [solo]\n")
    assert beyond(parse(SONG).lines, 21.5) == 1 and beyond(parse(SONG).lines, 30) == 0


@pytest.mark.parametrize(
    "text",
    [
        "[00:01]" * 9000 + "x", "[" * 65_000, "[ " * 32_000, "[x] " * 16_000 + "y", "[0" + " " * 60_000,
        "<" * 65_000, "[ar:" * 16_000, "[a]" * 21_000 + "x", "[00:01]x\n" * 7_000, "[0:" + "9" * 60_000,
    ],
)  # fmt: skip
def test_hostile_lyrics_stay_small(text):
    found = parse(text)
    assert len(found.lines) <= 5000
    assert len(of_clip(text, found.lines, 0, 1e9, 1e9)) <= len(text)
    assert is_timed(text) in (True, False)
