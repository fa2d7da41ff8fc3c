"""Files to rows, heard once: the cache by content and by what hears."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import write_noise
from tunesmith.embeddings import open_embedder
from tunesmith.errors import UserError
from tunesmith.evaluation.hearing import cache_entry, embed, gap_closed
from tunesmith.types import Audio


class Ear:
    """Hears the mean of each channel, and counts how often it is asked."""

    label, window_s, dimension, small = "ear 1", 1.0, 2, True

    def __init__(self, key: str = "ear") -> None:
        self.key, self.asked = key, 0
        self.threads: list[int] = []

    def embed(self, audio: Audio) -> np.ndarray:
        self.asked += 1
        self.threads.append(torch.get_num_threads())
        return np.array([[audio.samples.mean(), audio.samples.std()]], np.float64)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return [write_noise(tmp_path / f"{i}.wav", 0.5, i, rate_hz=16_000) for i in range(3)]


def test_what_was_heard_is_not_heard_again(files: list[Path]) -> None:
    ear = Ear()
    first = embed(files, ear)
    again = embed(files, ear)
    assert ear.asked == 3
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(row.dtype == np.float64 for row in again)


def test_a_key_is_content_and_ear(files: list[Path], tmp_path: Path) -> None:
    ear = Ear()
    embed(files, ear)
    renamed = tmp_path / "renamed.wav"
    renamed.write_bytes(files[0].read_bytes())
    embed([renamed], ear)
    assert ear.asked == 3
    files[0].write_bytes(files[1].read_bytes())
    assert np.array_equal(*embed(files[:2], ear))
    assert ear.asked == 3
    embed([write_noise(files[0], 0.5, 9, rate_hz=16_000)], ear)
    assert ear.asked == 4
    other = Ear("another")
    embed(files[1:], other)
    assert other.asked == 2


@pytest.mark.parametrize("damage", ["torn", "empty", "wide", "nan"])
def test_a_damaged_entry_is_made_anew(files: list[Path], damage: str) -> None:
    from safetensors.numpy import save_file

    ear = Ear()
    wanted = embed(files, ear)
    entry = cache_entry(files[1], ear)
    if damage == "torn":
        entry.write_bytes(entry.read_bytes()[:-3])
    elif damage == "empty":
        entry.write_bytes(b"")
    else:
        rows = np.zeros((1, 5)) if damage == "wide" else np.full((1, 2), np.nan)
        save_file({"rows": rows}, entry)
    made = embed(files, ear)
    assert ear.asked == 4
    assert all(np.array_equal(a, b) for a, b in zip(made, wanted, strict=True))
    embed(files, ear)
    assert ear.asked == 4
    assert not list(entry.parent.glob(".tmp-*"))


def test_a_plain_function_hears_anew_each_time(files: list[Path], tmp_path: Path) -> None:
    ear = Ear()
    for _ in range(2):
        assert len(embed(files, lambda audio: ear.embed(audio))) == 3
    assert ear.asked == 6 and not (tmp_path / "cache").exists()


def test_small_networks_get_one_thread_and_the_others_what_there_is(files: list[Path]) -> None:
    torch.set_num_threads(2)
    small, large = Ear("small"), Ear("large")
    large.small = False
    embed(files, small)
    embed(files, large)
    assert set(small.threads) == {1} and set(large.threads) == {2}
    assert torch.get_num_threads() == 2


def test_the_embedded_ear_is_the_default(files: list[Path]) -> None:
    ear = open_embedder("pocket")
    rows = embed(files)
    assert [one.shape for one in rows] == [(1, 64)] * 3
    assert cache_entry(files[0], ear).is_file()
    assert all(np.array_equal(a, b) for a, b in zip(rows, embed(files, ear), strict=True))
    assert gap_closed(files, files, files, [files], ear=ear).drop == 0.0


def test_a_file_that_cannot_be_heard_is_named(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_text("text")
    for bad in ("no.wav", "missing.wav"):
        with pytest.raises(UserError, match=rf"{bad} cannot be read"):
            embed([files[0], tmp_path / bad], Ear())
    empty = write_noise(tmp_path / "empty.wav", 0.0, 0, rate_hz=16_000)
    with pytest.raises(UserError, match=r"empty\.wav: tagger: no samples"):
        embed([empty])
