"""The demo of a voice from end to end with tiny numbers, and again over what is already there."""

from __future__ import annotations

import json
import shutil

import pytest
import soundfile

from tunesmith import voice_demo as demo_module
from tunesmith.errors import UserError
from tunesmith.formats.adapter import read_card
from tunesmith.voice_demo import voice_demo

# A real base, if a small one: on a machine with other work a step may take long.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A demo of eight clips, three held-out sentences, and one training of two steps."""
    folder = tmp_path_factory.mktemp("voice-demo")
    for name, count in (("voice", 8), ("held-out", 3)):
        (folder / "clips" / name).mkdir(parents=True)
        for file in sorted((demo_module.CLIPS / name).iterdir())[: 2 * count]:
            shutil.copy(file, folder / "clips" / name)
    patch = pytest.MonkeyPatch()
    patch.setattr(demo_module, "CLIPS", folder / "clips")
    patch.setattr(demo_module, "_VALID", 0.3)
    patch.setattr(demo_module, "_LONGEST_S", 4.0)
    result = voice_demo(folder / "out", steps=2, workers=1)
    yield folder / "out", result
    patch.undo()


def test_the_clips_in_the_package_are_what_the_page_says():
    seconds = {
        name: [
            soundfile.info(file).duration
            for file in sorted((demo_module.CLIPS / name).glob("*.ogg"))
        ]
        for name in ("voice", "held-out", "others")
    }
    assert 4 * 60 < sum(seconds["voice"]) < 6 * 60
    assert len(seconds["held-out"]) == 24
    assert len(seconds["others"]) >= 8
    for file in demo_module.CLIPS.rglob("*.ogg"):
        assert file.with_suffix(".txt").read_text(encoding="utf-8").strip()
    whole = sum(file.stat().st_size for file in demo_module.CLIPS.rglob("*"))
    assert whole <= 2.5e6


def test_the_numbers_have_their_bounds(made):
    out, result = made
    told = json.loads((out / "report.json").read_text())
    assert told == result.numbers
    alike = told["similarity"]
    assert len(alike["adapted"]) == len(alike["closed"]) == 1
    assert -1 <= alike["different_speakers"] < alike["same_speaker"] <= 1
    assert told["phone_error"]["zero_shot"] >= 0
    assert told["n"] == {"held_out": 3, "takes": 3}
    assert told["pitch_hz"]["recordings"] > 60
    assert told["verdict"] in ("better", "no change", "worse")
    assert "zero-shot" in told["headline"]
    assert result.says[0] == told["headline"]
    page = (out / "report.html").read_text()
    assert "zero-shot" in page and "adapted" in page and "recording" in page


def test_the_adapter_knows_whose_voice_it_is(made):
    out, _ = made
    card = read_card(out / "run-0")
    assert len(card["conditioning"]["speaker"]) == 512
    assert card["consent"] == demo_module.CONSENT
    assert card["recipe"]["name"] == "voice"
    assert card["metrics"]["judged"]["base"]["similarity"] <= 1


def test_a_second_call_trains_nothing_and_says_the_same(made):
    out, result = made
    before = (out / "run-0" / "adapter.json").stat().st_mtime_ns
    again = voice_demo(out, workers=1)
    assert again.numbers["similarity"] == result.numbers["similarity"]
    assert (out / "run-0" / "adapter.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="trained for 2 steps, not 3"):
        voice_demo(out, steps=3, workers=1)
