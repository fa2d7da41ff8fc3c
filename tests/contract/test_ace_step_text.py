"""What an ACE-Step is told in words: every detail is heard, and nothing is dropped silently."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ace_step import SONG, opened, save_ace_step

from tunesmith.errors import UserError
from tunesmith.families.ace_step import text
from tunesmith.families.ace_step.words import stacked


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("bases") / "ace"
    return opened(save_ace_step(folder, seed=3))


def states(bundle: Any, **details: Any) -> torch.Tensor:
    (row,) = bundle.encode_text(["a hum"], [{"duration_s": 1.0, **details}])
    with torch.no_grad():
        return bundle.module.conditions(stacked([row], [False])).packed


@pytest.mark.parametrize(("column", "value"), [*SONG.items(), ("duration_s", 2.0)])
def test_each_detail_is_heard(bundle: Any, column: str, value: Any):
    plain, other = states(bundle), states(bundle, **{column: value})
    same = plain.shape == other.shape and torch.allclose(plain, other, atol=1e-3)
    assert not same
    assert torch.equal(
        other, states(bundle, **{column: f" {value} " if column == "key" else value})
    )


@pytest.mark.parametrize("blank", ["", "   ", None, math.nan])
def test_what_is_blank_is_not_said(bundle: Any, blank: Any):
    assert torch.equal(states(bundle), states(bundle, **dict.fromkeys(text.COLUMNS, blank)))


def test_blank_lyrics_stay_blank():
    said = text.read({"lyrics": " \n", "language": "fr"})
    assert text.written("", said)[1] == "# Languages\nfr\n\n# Lyric\n<|endoftext|>"
    assert text.written("", text.Said())[1] == "# Languages\nen\n\n# Lyric\n<|endoftext|>"


def test_values_as_tables_hold_them():
    for bpm in (120, 120.0, "120", " 119.7 "):
        assert text.read({"bpm": bpm}).bpm == 120
    for metre in (3, 3.0, "3", "3/4", " 3 / 4"):
        assert text.read({"time_signature": metre}).time_signature == "3"
    said = text.read({"bpm": 97, "key": "C major", "time_signature": "6/8", "duration_s": 9.7})
    assert text.written("x", said)[0] == (
        "# Instruction\nFill the audio semantic mask based on the given conditions:\n\n# Caption\nx\n\n"
        "# Metas\n- bpm: 97\n- timesignature: 6\n- keyscale: C major\n- duration: 9 seconds\n"
        "<|endoftext|>\n"
    )


@pytest.mark.parametrize(
    "details",
    [{"tempo": 120}, {"keyscale": "C"}, {"bpm": "fast"}, {"bpm": 0}, {"time_signature": "waltz"}],
    ids=str,
)
def test_nothing_is_dropped_silently(bundle: Any, details: dict[str, Any]):
    (name, value) = next(iter(details.items()))
    with pytest.raises(UserError, match=rf"{name.replace('_', ' ')}|{value}"):
        bundle.encode_text(["a hum"], [details])


def test_what_would_be_cut_off_is_refused(bundle: Any):
    with pytest.raises(UserError, match="no room for its bpm, key"):
        bundle.encode_text(["x" * 400], [{"bpm": 120, "key": "C major"}])
    with pytest.raises(UserError, match="lyrics of 2"):
        bundle.encode_text(["x"], [{"lyrics": "la " * 700}])


def test_a_token_may_stand_in_caption_and_lyrics(bundle: Any):
    plain = bundle.encode_text(["my [new]"], [{"lyrics": "oh [new]"}])[0]
    first = int(bundle.module.text_encoder.config.vocab_size)
    try:
        bundle.use_tokens({"[new]": 2})
        words = bundle._words.ids("my [new]", text.Said(lyrics="oh [new]"))
    finally:
        bundle.use_tokens({})
    for name in ("ids", "repaint_ids", "lyric_ids"):
        assert [one for one in words[name].tolist() if one >= first] == [first, first + 1]
        assert not bool((plain[name] >= first).any())
