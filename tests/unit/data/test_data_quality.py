"""The cleanest share of the clips: what is measurably bad goes first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from tunesmith.analysis.noise import sound_to_noise_db
from tunesmith.data.load import load_dataset
from tunesmith.data.quality import MOST, best, rate

RATE_HZ = 16_000
SECONDS = 4.0


def tune(seed: int) -> np.ndarray:
    """Plucked notes with bright attacks and rests: sound with hardly any noise below it."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(0.5 * RATE_HZ)) / RATE_HZ
    notes = []
    for _ in range(round(SECONDS / 0.5)):
        hz = 110 * 2 ** (draw.integers(0, 24) / 12)
        partials = [
            np.sin(2 * np.pi * hz * k * time + draw.uniform(0, 6)) / k**0.7
            for k in range(1, int(7600 / hz))
        ]
        notes.append(np.sum(partials, axis=0) * np.exp(-12 * time) * np.minimum(1, time * 400))
    sound = np.concatenate(notes)
    return 0.6 * sound / np.abs(sound).max()


def noisy(sound: np.ndarray) -> np.ndarray:
    return sound + np.random.default_rng(1).normal(0, 0.2 * sound.std(), len(sound))


def clipped(sound: np.ndarray) -> np.ndarray:
    return np.clip(3 * sound, -0.6, 0.6)


def muffled(sound: np.ndarray) -> np.ndarray:
    filters = scipy.signal.butter(12, 1800, fs=RATE_HZ, output="sos")
    return np.asarray(scipy.signal.sosfilt(filters, sound))


def humming(sound: np.ndarray) -> np.ndarray:
    time = np.arange(len(sound)) / RATE_HZ
    return sound + sum(0.03 / k * np.sin(2 * np.pi * 50 * k * time) for k in range(1, 7))


SPOILT = {"noise": noisy, "clipping": clipped, "bandwidth": muffled, "hum": humming}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clean and four spoilt training clips, and the same kinds, fewer, to validate."""
    root = tmp_path_factory.mktemp("quality")
    for side, clean in (("train", 8), ("valid", 2)):
        (root / side).mkdir()
        for number in range(clean):
            write(root / side / f"{number}-clean.wav", tune(number + 10 * clean))
        for number, (name, spoil) in enumerate(SPOILT.items()):
            if side == "train" or name in ("noise", "hum"):
                write(root / side / f"{name}.wav", spoil(tune(number + 200 * clean)))
    return root


def write(path: Path, sound: np.ndarray) -> None:
    soundfile.write(path, sound, RATE_HZ, subtype="PCM_16")


def test_what_is_spoilt_goes_first(folder: Path):
    clips = load_dataset(folder)
    kept, told = best(clips, folder, 8 / 12)
    assert {clip.path.stem for clip in kept if clip.split == "train"} == {
        f"{number}-clean" for number in range(8)
    }
    left = {Path(one["file"]).stem: one for one in told["train"]["left_out"]}
    assert left.keys() == SPOILT.keys()
    assert told["train"]["kept"] == 8 and told["train"]["of"] == 12
    lowest = told["train"]["lowest_kept"]
    for name, one in left.items():
        assert one["score"] < lowest - 5, f"{name} is told from clean sound by a margin"
        assert max(one["lost"], key=one["lost"].get) == name, "and for the right reason"
    scores = [one["score"] for one in told["train"]["left_out"]]
    assert scores == sorted(scores), "the worst first"


def test_validation_is_chosen_from_alike_and_never_emptied(folder: Path):
    clips = load_dataset(folder)
    kept, told = best(clips, folder, 0.5)
    assert {c.path.stem for c in kept if c.split == "valid"} == {"0-clean", "1-clean"}
    assert told["valid"]["of"] == 4
    kept, told = best(clips, folder, 0.01)
    assert {side: told[side]["kept"] for side in ("train", "valid")} == {"train": 1, "valid": 1}
    assert sorted(clip.split for clip in kept) == ["train", "valid"]
    assert best(clips, folder, 1.0)[0] == clips


def test_points_are_what_the_page_says(folder: Path):
    """100 less what is listed, and none of it more than the most that one thing may cost."""
    for one in rate(load_dataset(folder), folder):
        assert one.score == pytest.approx(100 - sum(one.lost.values()), abs=0.02)
        assert all(0 < points <= MOST for points in one.lost.values())


@pytest.mark.parametrize("wanted_db", [10, 15, 20])
def test_noise_is_found_as_it_was_added(wanted_db: float):
    sound = tune(3)
    draw = np.random.default_rng(0)
    noise = draw.normal(0, sound.std() * 10 ** (-wanted_db / 20), len(sound))
    found = sound_to_noise_db((sound + noise)[:, None].astype(np.float32), RATE_HZ)
    assert found == pytest.approx(wanted_db, abs=2.0)


def test_silence_has_no_sound_above_its_noise():
    assert sound_to_noise_db(np.zeros((RATE_HZ, 1), np.float32), RATE_HZ) == 0.0
