"""The demo from end to end with tiny numbers, and again over what is already there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tunesmith import demo as demo_module
from tunesmith.demo import demo
from tunesmith.errors import UserError
from tunesmith.metrics import tagger


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A demo of 4 + 2 clips, two trainings of two steps, and three takes of two seconds."""
    folder = tmp_path_factory.mktemp("demo")
    for name, count in (("style", 4), ("general", 2), ("held-out", 3)):
        for file in sorted((demo_module.CLIPS / name).iterdir())[: 2 * count]:
            (folder / "clips" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / "clips" / name)
    patch = pytest.MonkeyPatch()
    patch.setattr(demo_module, "CLIPS", folder / "clips")
    patch.setattr(demo_module, "_SECONDS", 2.0)
    result = demo(folder / "out", steps=2, seeds=2, takes=3, workers=1)
    yield folder / "out", result
    patch.undo()


def test_the_clips_in_the_package_are_enough_to_measure_with():
    """The bar is 128 held-out clips; captions name the style, which the tagger must not know."""
    held_out = sorted((demo_module.CLIPS / "held-out").glob("*.ogg"))
    assert len(held_out) >= demo_module.TAKES == 128
    captions = [file.with_suffix(".txt").read_text() for file in held_out]
    assert all("calypso" in caption for caption in captions)
    known = [name for names in tagger.load().classes.values() for name in names]
    assert not {"calypso", "steel drums", "steel pan"} & set(known)
    package = demo_module.CLIPS.parent
    # Each embedded base with what belongs to it: MusicGen with tagger and clips, the diffusion base, the voice.
    diffusion = sum(file.stat().st_size for file in (package / "diffusion").rglob("*"))
    voice = sum(
        file.stat().st_size
        for name in ("voice", "listeners")
        for file in (package / name).rglob("*")
    )
    whole = sum(file.stat().st_size for file in package.rglob("*"))
    spoken = sum(file.stat().st_size for file in (package / "demo-voice").rglob("*"))
    assert diffusion < 25e6
    assert voice < 25e6
    assert whole - diffusion - voice - spoken < 25e6


def test_report_json_has_the_gap_and_what_it_stands_on(made):
    out, result = made
    told = json.loads((out / "report.json").read_text())
    assert told == result.numbers
    assert told["gap_closed"].keys() == {"median", "seeds", "p"}
    assert len(told["gap_closed"]["seeds"]) == len(told["gap"]["adapted"]) == len(told["runs"]) == 2
    assert 0 < told["gap_closed"]["p"] <= 1
    assert told["n"] == {"reference": 3, "generated": 3}
    assert told["embedding"] == tagger.NAME
    assert told["base"]["kad"] == told["gap"]["base"]
    assert told["steps"] == 2
    losses = [run["general_loss_after"] for run in told["runs"]]
    assert told["general_loss_after"] == max(losses)


def test_the_page_tells_it(made):
    out, result = made
    page = (out / "report.html").read_text()
    assert "How far it went" in page and "What it cannot say" in page
    assert "calypso" in page and result.says


def test_a_second_time_trains_and_generates_nothing(made):
    out, result = made
    kept = [*out.glob("run-*/adapter.json"), *out.glob("takes/*/*.flac")]
    assert len(kept) == 2 + 4 * 3
    before = [file.stat().st_mtime_ns for file in kept]
    events = []
    again = demo(out, seeds=2, takes=3, workers=1, on_event=lambda kind, _: events.append(kind))
    assert [file.stat().st_mtime_ns for file in kept] == before
    assert "start" not in events
    assert again.numbers == result.numbers


def test_other_steps_need_another_folder(made):
    with pytest.raises(UserError, match="trained for 2 steps, not 5"):
        demo(made[0], steps=5, seeds=2, takes=3, workers=1)


def test_too_few_to_prove_anything(tmp_path: Path):
    with pytest.raises(UserError, match="prove nothing"):
        demo(tmp_path, takes=1)
