"""Batches of any family: who shares one, that nobody is changed by company, adapters that come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import save_adapter
from tunesmith.formats.switch import Switch
from tunesmith.registry import plugin
from tunesmith.serve.batch_engine import BatchEngine
from tunesmith.serve.request import Request
from tunesmith.types import Audio, GenerationSettings

WAIT_S = 120.0
SECONDS = 0.5  # a power of two: what speaks is made with just this length
EQUAL, OTHER = 3e-4, 3e-3
QUICK = GenerationSettings(steps=2, top_k=0)


class Ear:
    """A sink that remembers."""

    def __init__(self, on_progress: Callable[[float], None] = lambda share: None) -> None:
        self.told: list[float] = []
        self.parts: list[Audio] = []
        self.end: Any = None
        self._over, self._on_progress = threading.Event(), on_progress

    def progress(self, share: float) -> None:
        self.told.append(share)
        self._on_progress(share)

    def part(self, audio: Audio) -> None:
        self.parts.append(audio)

    def _ended(self, how: Any) -> None:
        assert self.end is None, "a job ends once"
        self.end = how
        self._over.set()

    def finished(self) -> None:
        self._ended("finished")

    def failed(self, error: Exception) -> None:
        self._ended(error)

    def cancelled(self) -> None:
        self._ended("cancelled")

    def wait(self) -> Any:
        assert self._over.wait(WAIT_S)
        return self.end

    @property
    def sound(self) -> np.ndarray:
        assert self.wait() == "finished", self.end
        (audio,) = self.parts
        return audio.samples


def wish(seed: int, prompt: str = "slow blues", **more: Any) -> Request:
    plain = {"id": f"{prompt}-{seed}", "duration_s": SECONDS, "settings": QUICK}
    return Request(**plain | {"prompt": prompt, "seed": seed} | more)


class Noted:
    """A bundle whose batches are noted: ``(prompts, seconds, details)`` of each."""

    def __init__(self, bundle: Bundle) -> None:
        self.batches: list[tuple[list[str], float, Any]] = []
        inner = bundle.generate_codes

        def generate(prompts: Sequence[str], seconds: float, *args: Any, **more: Any) -> Any:
            self.batches.append((list(prompts), seconds, more.get("details")))
            return inner(prompts, seconds, *args, **more)

        bundle.generate_codes = generate  # type: ignore[method-assign]

    @property
    def sizes(self) -> list[int]:
        return [len(prompts) for prompts, _, _ in self.batches]


def tiny(family: str) -> Bundle:
    return plugin("families", family).load().tiny(0)


def saved(folder: Path, family: str, method: str, seed: int, **details: Any) -> Path:
    """An adapter of a tiny base, far enough from its start to be heard."""
    bundle, module = tiny(family), plugin("methods", method).load()
    adapter = module.attach(bundle, module.Config(), seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    save_adapter(folder, adapter, bundle, details)
    return folder


@pytest.fixture
def opened() -> Iterator[Callable[..., tuple[BatchEngine, Noted]]]:
    """Engines of tiny bases; those that were not stopped are stopped."""
    engines: list[BatchEngine] = []

    def make(family: str, **options: Any) -> tuple[BatchEngine, Noted]:
        engines.append(BatchEngine(tiny(family), **{"slots": 4, "window_s": 0.0} | options))
        return engines[-1], Noted(engines[-1].bundle)

    yield make
    for engine in engines:
        engine.stop()


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference, against how far the sound swings: tiny codecs whisper, and not around 0."""
    size = min(one.shape[1], other.shape[1])
    difference = np.abs(one[:, :size] - other[:, :size]).max()
    return float(difference / max(np.ptp(one[:, :size]), 1e-12))


def asked(engine: BatchEngine, *requests: Request) -> list[Ear]:
    ears = [Ear() for _ in requests]
    for request, ear in zip(requests, ears, strict=True):
        engine.submit(request, ear)
    return ears


# --- batches ---


@pytest.mark.parametrize(
    "family", ["musicgen", "stable_audio", "stable_audio_3", "ace_step", "speecht5", "csm"]
)
def test_every_family_is_served_and_a_row_is_the_same_in_any_company(opened: Any, family: str):
    engine, noted = opened(family)
    together = asked(engine, *(wish(seed, "abc"[: 1 + seed]) for seed in range(3)))
    engine.start()
    for ear in together:
        assert ear.wait() == "finished"
        assert ear.told[0] == 0
        assert ear.told[-1] == 1
        assert ear.told == sorted(ear.told)
        assert len(ear.told) > 2
    (alone,) = asked(engine, wish(1, "ab", id="again"))
    # The vocoder and the diffusion of a whole batch differ from one row's in their last bits.
    assert apart(alone.sound, together[1].sound) < EQUAL
    assert apart(alone.sound, together[0].sound) > OTHER
    assert noted.sizes == [3, 1]
    bundle = tiny(family)
    settings = wish(1).settings
    (plain,) = bundle.generate(["ab"], SECONDS, [1], settings)
    assert apart(plain.samples, alone.sound) < EQUAL


def test_only_what_can_share_a_batch_does_and_the_oldest_goes_first(opened: Any):
    engine, noted = opened("stable_audio")
    ears = asked(
        engine,
        wish(0, "a"),
        wish(1, "b", duration_s=0.8),
        wish(2, "c"),
        wish(3, "d", settings=GenerationSettings(steps=3)),
        wish(4, "e", duration_s=0.8),
        *(wish(5 + n, "f") for n in range(3)),
    )
    engine.start()
    for ear in ears:
        ear.wait()
    assert [prompts for prompts, _, _ in noted.batches] == [
        ["a", "c", "f", "f"],
        ["b", "e"],
        ["d"],
        ["f"],
    ]
    assert [ear.parts[0].duration_s for ear in ears[:2]] == pytest.approx([0.5, 0.8], abs=0.04)


@pytest.mark.parametrize("family", ["csm", "speecht5"])
def test_lengths_that_are_the_most_share_a_batch_and_depend_on_nobody(opened: Any, family: str):
    engine, noted = opened(family)
    some = [wish(0, "a", duration_s=0.3), wish(1, "b", duration_s=0.4), wish(2, duration_s=0.7)]
    together = asked(engine, *some)
    engine.start()
    for ear in together:
        ear.wait()
    assert sorted(noted.sizes) == [1, 2]
    (alone,) = asked(engine, wish(0, "a", duration_s=0.3, id="again"))
    assert alone.sound.shape == together[0].sound.shape
    assert apart(alone.sound, together[0].sound) < EQUAL
    limit = round(0.3 * engine.bundle.frame_rate_hz) / engine.bundle.frame_rate_hz
    assert alone.parts[0].duration_s <= limit + 0.05


def test_one_that_cannot_be_made_does_not_take_the_others_with_it(opened: Any):
    engine, noted = opened("speecht5")
    ears = asked(engine, wish(0, "a"), wish(1, "too long " * 200), wish(2, "b"))
    engine.start()
    assert isinstance(ears[1].wait(), UserError)
    assert ears[0].wait() == ears[2].wait() == "finished"
    assert noted.sizes == [3, 1, 1, 1]


def test_too_little_memory_for_all_is_enough_for_each(opened: Any):
    engine, _ = opened("csm")
    inner = engine.bundle.generate_codes

    def small(prompts: Sequence[str], *args: Any, **more: Any) -> Any:
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(prompts, *args, **more)

    engine.bundle.generate_codes = small
    ears = asked(engine, wish(0), wish(1))
    engine.start()
    assert [ear.wait() for ear in ears] == ["finished", "finished"]


def test_a_moment_is_waited_for_company(opened: Any):
    engine, noted = opened("csm", window_s=WAIT_S, slots=2)
    engine.start()
    (first,) = asked(engine, wish(0))
    (second,) = asked(engine, wish(1))
    assert first.wait() == second.wait() == "finished"
    assert noted.sizes == [2]


# --- calling off, the end ---


def test_called_off_while_it_waits(opened: Any):
    engine, noted = opened("csm")
    ears = asked(engine, wish(0, "a"), wish(1, "b"), wish(2, "c"))
    engine.cancel("b-1")
    engine.cancel("b-1")
    engine.cancel("nobody")
    engine.start()
    assert [ear.wait() for ear in ears] == ["finished", "cancelled", "finished"]
    assert noted.batches[0][0] == ["a", "c"]
    assert ears[1].told == []


def test_called_off_while_it_runs(opened: Any):
    engine, noted = opened("csm")

    def call_off(share: float) -> None:
        if share > 0:
            engine.cancel("a-0")

    first, second = Ear(call_off), Ear()
    engine.submit(wish(0, "a"), first)
    engine.submit(wish(1, "b"), second)
    engine.start()
    assert (first.wait(), second.wait()) == ("cancelled", "finished")
    assert first.parts == []
    assert noted.sizes == [2]


def test_a_batch_that_nobody_wants_any_more_is_stopped(opened: Any):
    engine, _ = opened("csm")
    seen: list[float] = []

    def call_off(share: float) -> None:
        seen.append(share)
        if share > 0:
            engine.cancel("a-0")

    ear = Ear(call_off)
    engine.submit(wish(0, "a", duration_s=1.2), ear)
    engine.start()
    assert ear.wait() == "cancelled"
    (after,) = asked(engine, wish(1))
    assert after.wait() == "finished"
    assert max(seen) < 0.5


def test_stopping_calls_off_what_is_left(opened: Any):
    engine, _ = opened("csm")
    begun = threading.Event()

    def hold(share: float) -> None:
        begun.set()

    ears = [Ear(hold), Ear()]
    engine.submit(wish(0, "a", duration_s=1.2), ears[0])
    engine.submit(wish(1, "b", duration_s=0.4), ears[1])
    engine.start()
    assert begun.wait(WAIT_S)
    engine.stop(0.0)
    assert {ear.wait() for ear in ears} <= {"cancelled", "finished"}
    assert ears[1].end == "cancelled"


def test_stopping_can_wait_for_all(opened: Any):
    engine, _ = opened("csm")
    ears = asked(engine, *(wish(seed, duration_s=0.2 + seed / 10) for seed in range(3)))
    engine.start()
    engine.stop(WAIT_S)
    assert [ear.end for ear in ears] == ["finished"] * 3


# --- adapters ---


def test_blends_and_the_base_share_a_batch(opened: Any, tmp_path: Path):
    for number, name in enumerate(("jazz", "lofi")):
        saved(tmp_path / name, "musicgen", "lora", number)
    engine, noted = opened("musicgen")
    for name in ("jazz", "lofi"):
        engine.add_adapter(name, tmp_path / name)
    assert engine.adapters() == {name: tmp_path / name for name in ("jazz", "lofi")}
    mixes = [{}, {"jazz": 1.0}, {"jazz": 0.3, "lofi": 0.7}]
    ears = asked(
        engine, *(wish(3, id=str(number), adapters=mix) for number, mix in enumerate(mixes))
    )
    engine.start()
    found = [ear.sound for ear in ears]
    assert noted.sizes == [3]
    switch = Switch(tiny("musicgen"))
    for name in ("jazz", "lofi"):
        switch.add(name, tmp_path / name)
    for mix, sound in zip(mixes, found, strict=True):
        switch.select(mix)
        (plain,) = switch.bundle.generate(["slow blues"], SECONDS, [3], QUICK)
        assert apart(plain.samples, sound) < EQUAL
    assert apart(found[0], found[1]) > OTHER


def test_a_full_fine_tune_has_a_turn_of_its_own(opened: Any, tmp_path: Path):
    saved(tmp_path / "jazz", "musicgen", "lora", 0)
    saved(tmp_path / "tuned", "musicgen", "full", 1)
    engine, _ = opened("musicgen")
    before = {name: value.clone() for name, value in engine.bundle.module.state_dict().items()}
    engine.start()
    for name in ("jazz", "tuned"):
        engine.add_adapter(name, tmp_path / name)
    mixes = [{"jazz": 1.0}, {"tuned": 1.0}, {}, {"tuned": 1.0}]
    ears = asked(engine, *(wish(3, id=str(n), adapters=mix) for n, mix in enumerate(mixes)))
    found = [ear.sound for ear in ears]
    switch = Switch(tiny("musicgen"))
    for name in ("jazz", "tuned"):
        switch.add(name, tmp_path / name)
    for mix, sound in zip(mixes, found, strict=True):
        switch.select(mix)
        (plain,) = switch.bundle.generate(["slow blues"], SECONDS, [3], QUICK)
        assert apart(plain.samples, sound) < EQUAL
    assert apart(found[1], found[2]) > OTHER
    (both,) = asked(engine, wish(3, id="both", adapters={"jazz": 1.0, "tuned": 1.0}))
    assert isinstance(both.wait(), UserError)
    (last,) = asked(engine, wish(3, id="last"))
    assert np.array_equal(last.sound, found[2])
    engine.stop()
    after = engine.bundle.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_adapters_come_and_go(opened: Any, tmp_path: Path):
    for number, name in enumerate(("one", "two")):
        saved(tmp_path / name, "musicgen", "lora", number)
    engine, _ = opened("musicgen")
    engine.start()
    with pytest.raises(UserError):
        engine.add_adapter("nowhere", tmp_path / "nowhere")
    with pytest.raises(UserError):
        engine.remove_adapter("jazz")
    engine.add_adapter("jazz", tmp_path / "one")
    (first,) = asked(engine, wish(3, id="1", adapters={"jazz": 1.0}))
    sound = first.sound
    engine.add_adapter("jazz", tmp_path / "two")
    (second,) = asked(engine, wish(3, id="2", adapters={"jazz": 1.0}))
    assert apart(sound, second.sound) > OTHER
    engine.remove_adapter("jazz")
    assert engine.adapters() == {}
    (third,) = asked(engine, wish(3, id="3", adapters={"jazz": 1.0}))
    assert "jazz" in str(third.wait())
    engine.add_adapter("jazz", tmp_path / "one")
    (fourth,) = asked(engine, wish(3, id="4", adapters={"jazz": 1.0}))
    assert np.array_equal(fourth.sound, sound)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_voice_is_spoken_by_its_rows_and_by_no_other(opened: Any, tmp_path: Path, method: str):
    size = int(tiny("speecht5").voice.numel())  # type: ignore[attr-defined]
    voices = np.eye(size)[:2].tolist()
    for number in range(2):
        said = {"conditioning": {"speaker": voices[number]}}
        saved(tmp_path / str(number), "speecht5", method, number, **said)
    engine, _ = opened("speecht5")
    engine.start()
    for number in range(2):
        engine.add_adapter(str(number), tmp_path / str(number))
    mixes = [{"0": 1.0}, {"1": 1.0}, {}]
    ears = asked(engine, *(wish(3, id=f"id{n}", adapters=mix) for n, mix in enumerate(mixes)))
    found = [ear.sound for ear in ears]
    for number, mix in enumerate(mixes):
        switch = Switch(tiny("speecht5"), {name: tmp_path / name for name in mix})
        switch.select(mix)
        (plain,) = switch.bundle.generate(["slow blues"], SECONDS, [3], QUICK)
        assert apart(plain.samples, found[number]) < EQUAL
        voice = switch.bundle.voice  # type: ignore[attr-defined]
        assert bool(voice.any()) == bool(mix)
        switch.select({})
        assert not switch.bundle.voice.any()  # type: ignore[attr-defined]
    # What the asker says goes before what the adapter was trained with.
    said = {"details": {"speaker": str(voices[1])}, "adapters": {"0": 1.0}, "id": "said"}
    (other,) = asked(engine, wish(3, **said))
    assert apart(other.sound, found[0]) > OTHER
