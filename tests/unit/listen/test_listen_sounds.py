"""What is served differs in nothing but the sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from listening import RATE_HZ, tone
from typer.testing import CliRunner

from tunesmith.analysis.loudness import integrated_lufs, true_peak_dbtp
from tunesmith.cli import app
from tunesmith.errors import UserError
from tunesmith.formats.sound import write_sound
from tunesmith.listen.design import SOUNDS, read_test
from tunesmith.listen.gather import Sounds, Voice, from_words
from tunesmith.listen.make import create
from tunesmith.listen.sounds import Format, conformed, low_anchor, measure, pink_noise
from tunesmith.types import Audio


def lufs(path: Path) -> float | None:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return integrated_lufs(samples, rate)


def test_all_sounds_have_one_loudness_rate_length_and_header(tmp_path):
    """One side is louder, stereo, longer, and says who made it; none of that is left."""
    rng = np.random.default_rng(0)
    for item in range(4):
        quiet = 0.02 * rng.standard_normal((1, 8000)).astype(np.float32)
        loud = 0.2 * rng.standard_normal((2, 17_640)).astype(np.float32)
        write_sound(tmp_path / "base" / f"{item}.flac", Audio(quiet, 8000), {"prompt": "p"})
        made_of = {"prompt": "p", "adapter": "secret"}
        write_sound(tmp_path / "mine" / f"{item}.wav", Audio(loud, 16_000), made_of)
    given = from_words([str(tmp_path / "base"), str(tmp_path / "mine")], takes=tmp_path / "takes")
    test = create(tmp_path / "t", given, kind="ab", seed=0)
    assert (test.sample_rate_hz, test.channels) == (16_000, 2)
    files = sorted((tmp_path / "t" / SOUNDS).iterdir())
    assert len(files) == 9
    headers = {file.read_bytes()[:44] for file in files if file.name != test.level}
    sizes = {file.stat().st_size for file in files if file.name != test.level}
    assert len(headers) == len(sizes) == 1
    for file in files:
        assert b"secret" not in file.read_bytes() and b"Tunesmith" not in file.read_bytes()
        assert lufs(file) == pytest.approx(test.loudness_lufs, abs=0.1)
    assert any("cut to the shortest" in note for note in test.notes)


def test_the_level_goes_down_until_nothing_clips(tmp_path):
    """A sine with one spike: the spike decides, for all."""
    for side in ("a", "b"):
        tone(tmp_path / side / "0.wav", 500)
    samples, rate = soundfile.read(tmp_path / "b" / "0.wav")
    samples[2000] = 0.99
    soundfile.write(tmp_path / "b" / "0.wav", 0.02 * samples, rate, subtype="FLOAT")
    given = from_words([str(tmp_path / "a"), str(tmp_path / "b")], takes=tmp_path)
    test = create(tmp_path / "t", given, kind="ab", loudness_lufs=-14)
    assert test.loudness_lufs < -16
    peaks = []
    for name in test.items[0].sounds:
        samples, rate = soundfile.read(tmp_path / "t" / SOUNDS / name, always_2d=True)
        peaks.append(true_peak_dbtp(samples.astype(np.float32), rate))
    assert max(peaks) == pytest.approx(-1.0, abs=0.1)
    levels = [lufs(tmp_path / "t" / SOUNDS / name) for name in test.items[0].sounds]
    assert levels[0] == pytest.approx(levels[1], abs=0.1)
    assert any("instead of -14" in note for note in test.notes)


def test_silence_stays_silence(tmp_path, voices):
    given = voices("base", "mine", items=2)
    soundfile.write(given.voices[1].files["00"], np.zeros(4800), RATE_HZ)
    test = create(tmp_path / "t", given, kind="ab")
    assert any("1 of 4 sounds are silent" in note for note in test.notes)


def test_versions_are_cut_to_the_shortest_and_faded(tmp_path):
    files = [tone(tmp_path / "a.wav", 300, seconds=0.5), tone(tmp_path / "b.wav", 300, seconds=1)]
    made, longer = conformed(files, Format(RATE_HZ, 1), 30)
    assert [len(sound) for sound in made] == [4000, 4000]
    assert longer == pytest.approx(0.5)
    assert np.array_equal(made[0], made[1]) and abs(made[1][-1, 0]) < 1e-3


def test_the_low_anchor_keeps_below_and_loses_above():
    """ITU-R BS.1534-3, 5.1: 0.1 dB up to 3.5 kHz, 25 dB down at 4 kHz, 50 dB at 4.5 kHz."""
    times = np.arange(44_100) / 44_100

    def gain_db(hz: float) -> float:
        wave = np.sin(2 * np.pi * hz * times).astype(np.float32)[:, None]
        middle = low_anchor(wave, 44_100)[10_000:-10_000]
        return 20 * np.log10(np.sqrt((middle**2).mean()) / np.sqrt(0.5))

    assert all(abs(gain_db(hz)) < 0.1 for hz in (100, 1000, 3000, 3450))
    assert gain_db(4000) < -25 and gain_db(4500) < -50 and gain_db(10_000) < -50


def test_the_level_noise_is_as_loud_as_the_music():
    noise = pink_noise(Format(32_000, 2), -30.0)
    assert measure(noise, 32_000).lufs == pytest.approx(-30, abs=0.1)
    power = np.abs(np.fft.rfft(noise[:, 0].astype(np.float64))) ** 2
    octaves = [power[round(hz * 5) : round(hz * 10)].sum() for hz in (200, 800, 3200)]
    assert max(octaves) / min(octaves) < 1.2  # equal power an octave


def test_mos_sides_are_systems_then_reference_then_anchor(tmp_path):
    for side in ("real", "one", "two"):
        for item in range(2):
            path = tmp_path / side / f"{item}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, 0.1 * np.random.default_rng(item).standard_normal(16_000), 16_000)
    words = [str(tmp_path / side) for side in ("real", "one", "two")]
    given = from_words(words, takes=tmp_path / "takes")
    test = create(tmp_path / "t", given, kind="mos", reference="real", anchor="lowpass")
    assert [(side.name, side.role) for side in test.sides] == [
        ("one", "system"),
        ("two", "system"),
        ("real", "reference"),
        ("lowpass", "anchor"),
    ]
    samples, rate = soundfile.read(tmp_path / "t" / SOUNDS / test.items[0].sounds[3])
    power = np.abs(np.fft.rfft(samples)) ** 2
    cut = round(4500 / rate * len(samples))
    assert power[cut:].sum() < 1e-4 * power.sum()


def test_sides_from_an_evaluation(tmp_path, voices):
    import json

    from tunesmith.evaluation.findings import Evaluation, Subject, to_json

    given = voices("base", "mine", items=3)
    takes = [tuple(map(str, voice.files.values())) for voice in given.voices]
    found = Evaluation(
        {
            "base": Subject("base", "pocket", takes[0]),
            "run": Subject("run", "mine", takes[1]),
            "real": Subject("folder", "real", takes[0]),
        },
        reference="",
        prompts=("one", "two", "three"),
        seeds=(5, 6, 7),
        seconds=1.0,
        findings=(),
    )
    (tmp_path / "ev").mkdir()
    (tmp_path / "ev" / "evaluation.json").write_text(json.dumps(to_json(found)))
    sounds = from_words([str(tmp_path / "ev")], takes=tmp_path)
    assert [voice.name for voice in sounds.voices] == ["pocket", "mine"]
    assert sounds.prompts == {"000": "one", "001": "two", "002": "three"}
    assert sounds.seeds["002"] == 7
    assert sounds.voices[1].files["001"] == Path(takes[1][1])


def test_prompts_are_read_from_files_that_agree(tmp_path):
    sound = Audio(np.full((1, 8000), 0.1, np.float32), 8000)
    for side, prompt in (("a", "waltz"), ("b", "waltz")):
        write_sound(tmp_path / side / "x.wav", sound, {"prompt": prompt, "seed": 3, "by": side})
        write_sound(tmp_path / side / "y.wav", sound, {"prompt": prompt + side, "seed": 3})
    given = from_words([str(tmp_path / "a"), str(tmp_path / "b")], takes=tmp_path)
    assert given.prompts == {"x": "waltz"} and given.seeds == {"x": 3, "y": 3}


def test_all_are_taken_where_there_are_fewer_than_usual(tmp_path, voices):
    voices("base", "mine", items=3)
    words = ["listen", "new", *(str(tmp_path / name) for name in ("t", "base", "mine"))]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert len(read_test(tmp_path / "t").items) == 3


def test_names_and_missing_files(tmp_path, voices):
    voices("base", "mine", items=3)
    (tmp_path / "mine" / "02.wav").unlink()
    words = [f"before={tmp_path / 'base'}", f"after={tmp_path / 'mine'}"]
    given = from_words(words, takes=tmp_path)
    assert [voice.name for voice in given.voices] == ["before", "after"]
    assert given.keys == ["00", "01"]
    assert given.notes == ("1 of 3 items are not there from every side and were left out.",)


def sides(names: tuple[str, ...], folder: Path) -> Sounds:
    return Sounds(tuple(Voice(name, {"0": tone(folder / f"{name}.wav", 300)}) for name in names))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "abc"}, "unknown"),
        ({"kind": "ab", "reference": "base"}, "no reference"),
        ({"kind": "mos", "reference": "gone"}, "is no side"),
        ({"kind": "mos", "anchor": "lowpass"}, "made from the reference"),
        ({"kind": "mos", "reference": "base", "anchor": "lowpass"}, "hardly anything"),
        ({"kind": "ab", "items": 2}, "there are 1"),
        ({"kind": "ab", "training": 1}, "leave none"),
        ({"kind": "ab", "longest_s": 0.1}, "of each sound"),
    ],
)
def test_settings_that_make_no_test(tmp_path, settings, said):
    with pytest.raises(UserError, match=said):
        create(tmp_path / "t", sides(("base", "mine"), tmp_path), **settings)


def test_a_folder_in_use_is_left_alone(tmp_path, test_folder):
    folder = test_folder()
    before = read_test(folder)
    with pytest.raises(UserError, match="holds a test already"):
        create(folder, sides(("a", "b"), tmp_path), kind="ab")
    assert read_test(folder) == before
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is in use"):
        create(tmp_path, sides(("a", "b"), tmp_path), kind="ab")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": "x"}'])
def test_a_torn_key_is_one_line(tmp_path, test_folder, text):
    folder = test_folder()
    (folder / "test.json").write_text(text)
    with pytest.raises(UserError, match="not readable"):
        read_test(folder)


def test_nobody_else_may_read_the_key(test_folder):
    folder = test_folder()
    assert (folder / "test.json").stat().st_mode & 0o077 == 0
    assert (folder / SOUNDS).stat().st_mode & 0o077 == 0
