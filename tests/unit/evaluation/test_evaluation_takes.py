"""Takes as files: the same ones again, never twice, and never those of another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import TINY_HZ, write_noise
from tunesmith.errors import ResourceError, Stopped, UserError
from tunesmith.evaluation.hearing import embed, gap_closed, read
from tunesmith.evaluation.takes import make_takes, through_codec
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.formats.sound import read_made_of
from tunesmith.training.signals import StopFlag

PROMPTS = ["noise number one", "noise number two", "noise number three"]


class Heard:
    """Collects events."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def __call__(self, kind: str, values: Any) -> None:
        assert kind == "takes"
        self.done.append(values["done"])


def take(out: Path, base: Path, prompts: list[str] = PROMPTS, **changes: Any) -> list[str]:
    settings = {"run": None, "seed": 3, "duration_s": 0.5, "stop": StopFlag(), "on_event": Heard()}
    return make_takes(out=out, base=str(base), prompts=prompts, **(settings | changes))


def test_takes_are_files_that_say_how_they_were_made(tiny_base: Path, tmp_path: Path) -> None:
    files = take(tmp_path, tiny_base)
    assert [Path(file).name for file in files] == ["000.flac", "001.flac", "002.flac"]
    assert [read_made_of(Path(file))["seed"] for file in files] == [3, 4, 5]
    assert [read_made_of(Path(file))["prompt"] for file in files] == PROMPTS
    assert all(read(file).duration_s == pytest.approx(0.5, abs=0.05) for file in files)


def test_company_does_not_change_a_take(tiny_base: Path, tmp_path: Path) -> None:
    together = take(tmp_path / "a", tiny_base)
    alone = take(tmp_path / "b", tiny_base, batch_size=1)
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(read(one).samples, read(other).samples)


def test_what_is_there_is_not_made_again(tiny_base: Path, tmp_path: Path) -> None:
    files = [Path(file) for file in take(tmp_path, tiny_base)]
    files[1].write_bytes(files[1].read_bytes()[:100])  # as a crash of the disk would leave it
    before = [file.stat().st_mtime_ns for file in files]
    heard = Heard()
    take(tmp_path, tiny_base, on_event=heard)
    after = [file.stat().st_mtime_ns for file in files]
    assert heard.done == [2, 3]
    assert (before[0], before[2]) == (after[0], after[2]) and before[1] != after[1]


def test_takes_of_another_base_or_seed_are_not_reused(
    tiny_base: Path, other_base: Path, tmp_path: Path
) -> None:
    first = [read(file).samples for file in take(tmp_path, tiny_base)]
    for base, seed in ((other_base, 3), (tiny_base, 9)):
        heard = Heard()
        again = take(tmp_path, base, on_event=heard, seed=seed)
        assert heard.done == [0, 3]
        assert not np.array_equal(read(again[0]).samples, first[0])


def test_a_stop_keeps_what_was_made(tiny_base: Path, tmp_path: Path) -> None:
    stop = StopFlag()

    def on_event(kind: str, values: Any) -> None:
        if values["done"] == 1:
            stop.set()

    with pytest.raises(Stopped):
        take(tmp_path, tiny_base, batch_size=1, stop=stop, on_event=on_event)
    assert (tmp_path / "000.flac").is_file() and not (tmp_path / "002.flac").exists()


def test_where_memory_ends_fewer_takes_are_made_at_a_time(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [read(file).samples for file in take(tmp_path / "a", tiny_base)]
    most, asked = 1, []

    def generate(self: Any, prompts: list[str], *rest: Any, **named: Any) -> Any:
        asked.append(len(prompts))
        if len(prompts) > most:
            raise torch.OutOfMemoryError
        return whole(self, prompts, *rest, **named)

    whole = MusicgenBundle.generate
    monkeypatch.setattr(MusicgenBundle, "generate", generate)
    made = take(tmp_path / "b", tiny_base)
    assert asked[0] == 3 and asked[-3:] == [1, 1, 1]
    for one, other in zip(made, wanted, strict=True):
        assert np.array_equal(read(one).samples, other)
    most = 0
    with pytest.raises(ResourceError, match=r"does not hold one take of 0\.5 s"):
        take(tmp_path / "c", tiny_base)


def test_a_length_beyond_the_base_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="beyond"):
        take(tmp_path, tiny_base, duration_s=60.0)


def test_recordings_through_the_codec(tiny_base: Path, tmp_path: Path) -> None:
    sources = [str(write_noise(tmp_path / f"{i}.wav", 0.5, i)) for i in range(2)]
    heard = Heard()
    arguments: dict[str, Any] = {"out": tmp_path / "codec", "base": str(tiny_base)}
    made = through_codec(files=sources, stop=StopFlag(), on_event=heard, **arguments)
    assert heard.done == [1, 2]
    for file, source in zip(made, sources, strict=True):
        assert read(file).sample_rate_hz == TINY_HZ
        assert not np.array_equal(read(file).samples, read(source).samples)
    before = [Path(file).stat().st_mtime_ns for file in made]
    through_codec(files=sources, stop=StopFlag(), on_event=heard, **arguments)
    assert [Path(file).stat().st_mtime_ns for file in made] == before
    through_codec(files=sources[::-1], stop=StopFlag(), on_event=heard, **arguments)
    assert Path(made[0]).stat().st_mtime_ns != before[0]


def test_files_become_embeddings_and_a_gap(tmp_path: Path) -> None:
    files = [str(write_noise(tmp_path / f"{i}.wav", 2.0, i, rate_hz=16000)) for i in range(4)]
    rows = embed(files)
    assert [one.shape for one in rows] == [(2, 64)] * 4
    made = gap_closed(files, files, files, [files, files])
    assert made.drop == 0.0 and made.n_reference == 4 and made.n_takes == 4


def test_a_file_that_is_no_sound_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_text("text")
    with pytest.raises(UserError, match=r"no\.wav cannot be read"):
        read(tmp_path / "no.wav")
