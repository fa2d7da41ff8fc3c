"""Our own kernels for a CPU against the library's, and what happens where there are none."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from unit.serve.mixing import saved

from tunesmith.families._sampling import pick
from tunesmith.families.musicgen import tiny
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.serve import _native
from tunesmith.serve._decoder import Decoder
from tunesmith.serve._native import blocks, native_product
from tunesmith.serve._pick import NativeChoice
from tunesmith.serve._products import Int8
from tunesmith.serve.mixer import Mixer
from tunesmith.types import GenerationSettings

needed = pytest.mark.skipif(_native.library() is None, reason="there is no C++ compiler")
in_8_bits = pytest.mark.skipif(
    _native.library() is None or not _native.library().tunesmith_int8(),
    reason="this processor has no product of bytes",
)
SHAPES = [(16, 16), (48, 32), (64, 1024), (208, 80)]
KINDS = [pytest.param(False, id="float32"), pytest.param(True, id="int8", marks=in_8_bits)]


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needed
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_that_of_the_library(shape: tuple[int, int]) -> None:
    weight = _drawn(*shape)
    product = native_product(weight, int8=False)
    assert product is not None
    for rows in (2, 6, 16, 30):
        x = _drawn(rows, shape[1], seed=rows)
        torch.testing.assert_close(product(x), F.linear(x, weight), rtol=1e-5, atol=1e-4)


@needed
@pytest.mark.parametrize(
    "x", [_drawn(3, 32), _drawn(2, 48), _drawn(2, 2, 32), _drawn(2, 32).double()]
)
def test_rows_that_do_not_fit_are_not_read(x: Tensor) -> None:
    product = native_product(_drawn(16, 32), int8=False)
    assert product is not None
    with pytest.raises(ValueError, match="even number of 32"):
        product(x)


@in_8_bits
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_of_bytes_is_that_of_the_rounded_numbers(shape: tuple[int, int]) -> None:
    weight = _drawn(*shape) * torch.logspace(-3, 3, shape[0])[:, None]
    product, laid = native_product(weight, int8=True), blocks(weight)
    assert product is not None
    rounded = (laid[0].transpose(1, 2).reshape(shape).double() - 128) * laid[1][:, None].double()
    x = _drawn(10, shape[1]) * torch.logspace(-4, 4, 10)[:, None]
    steps = x.abs().amax(1, keepdim=True).double() / 127
    wanted = ((x.double() / steps).round() * steps) @ rounded.T
    size = wanted.abs().amax()
    # A number that lies between two steps may go to the one or the other.
    assert float((product(x).double() - wanted).abs().amax() / size) < 2e-3
    assert float(((product(x).double() - wanted) / wanted).abs().median()) < 1e-5
    if shape[1] % 32 == 0:  # the library rounds in the same way
        near = (product(x) - Int8(weight)(x)).norm() / product(x).norm()
        assert float(near) < 1e-3


@needed
@pytest.mark.parametrize("int8", KINDS)
def test_a_row_is_the_same_in_any_company_and_place(int8: bool) -> None:
    product = native_product(_drawn(96, 64), int8=int8)
    assert product is not None
    row = _drawn(1, 64, seed=5)
    found = [
        product(torch.cat([_drawn(before, 64, seed=before), row, _drawn(15 - before, 64)]))[before]
        for before in (0, 1, 7, 8, 14, 15)
    ]
    assert all(torch.equal(one, found[0]) for one in found)
    assert torch.equal(product(torch.cat([row, 1e6 * row]))[0], found[0])


@needed
@pytest.mark.parametrize("int8", KINDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none_in_its_row(int8: bool, bad: float) -> None:
    product = native_product(_drawn(32, 48), int8=int8)
    assert product is not None
    x = _drawn(4, 48)
    x[2, 7] = bad
    assert product(x).isfinite().all(1).tolist() == [True, True, False, True]


def _begun(
    bundle: MusicgenBundle, monkeypatch: pytest.MonkeyPatch, native: bool, **options: Any
) -> Decoder:
    """A decoder of two slots with texts of different length."""
    with monkeypatch.context() as patch:
        if not native:
            patch.setenv("TUNESMITH_NATIVE", "0")
            _native.library.cache_clear()
        decoder = Decoder(bundle.module.eval(), 2, 90, **options)
    if not native:
        _native.library.cache_clear()
    for slot, prompt in enumerate(("a waltz", "two guitars, and a very long way from any home")):
        (text,) = bundle.encode_text([prompt])
        given = {"states": text["states"][None], "mask": torch.ones(1, len(text["ids"]))}
        with torch.no_grad():
            states, mask = bundle.module.text_states(given, fresh=True)
            decoder.begin(slot, torch.cat([states, 0 * states]), torch.cat([mask, 0 * mask]))
    return decoder


def _followed(decoder: Decoder, steps: int = 70) -> Tensor:
    """Logits ``[steps, 2 S, K, V]`` along drawn tokens, of slots that are at different places."""
    draw, made = torch.Generator().manual_seed(1), []
    for step in range(steps):
        tokens = torch.randint(decoder.codes, (2, decoder.codebooks), generator=draw)
        places = torch.tensor([step, max(0, step - 9)])
        made.append(decoder.step(tokens, places, step).clone())
    return torch.stack(made)


@needed
@pytest.mark.parametrize("int8", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_step_is_that_of_the_library(
    monkeypatch: pytest.MonkeyPatch, channels: int, int8: bool
) -> None:
    bundle = tiny(0, channels=channels)
    ours = _begun(bundle, monkeypatch, True, int8=int8)
    theirs = _begun(bundle, monkeypatch, False, int8=int8)
    assert ours._stepped is not None and theirs._stepped is None
    found, wanted = _followed(ours), _followed(theirs)
    if not int8:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert float((found - wanted).norm() / wanted.norm()) < (0.05 if int8 else 1e-5)


@needed
@pytest.mark.parametrize("int8", KINDS)
def test_a_step_in_parts_is_the_whole_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch, int8: bool
) -> None:
    decoder = _begun(tiny(0), monkeypatch, True, int8=int8)
    whole = _followed(decoder)
    monkeypatch.setattr(type(decoder._layers[0].qkv), "plain", property(lambda self: False))
    assert torch.equal(_followed(decoder), whole)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "lora": saved(folder / "lora", "musicgen", seed=1),
        "prefix": saved(folder / "prefix", "musicgen", "prefix", seed=2, length=3),
        "bottleneck": saved(folder / "bottleneck", "musicgen", "bottleneck", seed=3),
    }


@needed
@pytest.mark.parametrize("name", ["lora", "prefix", "bottleneck"])
def test_a_row_of_the_base_does_not_hear_who_asks_for_adapters(
    monkeypatch: pytest.MonkeyPatch, adapters: dict[str, Path], name: str
) -> None:
    bundle = tiny(0)
    mixer = Mixer(bundle, slots=2, rank=16)
    decoder = _begun(bundle, monkeypatch, True)
    theirs = _begun(bundle, monkeypatch, False)
    alone = _followed(decoder)
    mixer.add("a", adapters[name])
    mixer.set_rows(mixer.weights([{}, {"a": 1.0}]))
    found, wanted = _followed(decoder), _followed(theirs)
    assert torch.equal(found[:, [0, 2]], alone[:, [0, 2]])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found[:, 1], alone[:, 1], rtol=1e-3, atol=1e-3)
    mixer.detach()


def test_without_a_compiler_steps_take_the_library_s_kernels(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"CXX": "/no/such/compiler", "PATH": ""}.items():
        monkeypatch.setenv(name, value)
    _native.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, _native.__name__):
            decoder = Decoder(tiny(0).module.eval(), 1, 20)
        assert decoder._stepped is None
        assert "no C++ compiler" in caplog.text and len(caplog.records) == 1
        assert bool(decoder.step(torch.zeros(1, 4).long(), torch.tensor([0]), 0).isfinite().all())
    finally:
        _native.library.cache_clear()


def test_a_compiler_that_fails_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def call(command: list[str]) -> str:
        raise subprocess.CalledProcessError(1, command, stderr=b"fatal error: omp.h: not there\n")

    monkeypatch.setattr(_native, "_call", call)
    _native.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, _native.__name__):
            assert _native.library() is None
        assert "omp.h: not there" in caplog.text
    finally:
        _native.library.cache_clear()


@needed
def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    first = _native._compiled()
    assert first.parent == tmp_path / "native"
    calls: list[list[str]] = []
    real = _native._call
    monkeypatch.setattr(_native, "_call", lambda command: calls.append(command) or real(command))
    assert _native._compiled() == first
    assert [command[1:] for command in calls] == [["--version"]]
    assert list(first.parent.iterdir()) == [first]
    first.chmod(0o777)  # others could have put anything there
    with pytest.raises(OSError, match="they may write it"):
        _native._compiled()


SETTINGS = (
    GenerationSettings(),
    GenerationSettings(guidance=1.0, top_k=3),
    GenerationSettings(guidance=2.0, temperature=0.7, top_k=5, top_p=0.6),
    GenerationSettings(top_k=0, top_p=0.8),
    GenerationSettings(top_k=0),
    GenerationSettings(temperature=0.0),
    GenerationSettings(top_k=1),
)


@needed
@pytest.mark.parametrize("codes", [7, 512, 2048])
def test_tokens_are_those_that_the_family_draws(codes: int) -> None:
    draw = torch.Generator().manual_seed(0)
    slots = len(SETTINGS)
    choice = NativeChoice(slots, codes, _native.library())
    for slot, settings in enumerate(SETTINGS):
        choice.set(slot, settings)
    numbers = torch.tensor([slot for slot in range(slots) if slot != 2])
    for _ in range(100):
        logits = 3 * torch.randn(2 * slots, 4, codes, generator=draw)
        uniform = torch.rand(slots, 4, generator=draw)
        uniform[0, 0] = 0.0
        found, sound = choice(logits, uniform, numbers)
        assert bool(sound.all())
        for tokens, slot in zip(found, numbers.tolist(), strict=True):
            given, without = logits[slot], logits[slots + slot]
            mixed = without + SETTINGS[slot].guidance * (given - without)
            assert torch.equal(tokens, pick(mixed, uniform[slot], SETTINGS[slot])), slot


@needed
def test_the_ends_of_a_draw_are_the_likeliest_and_the_last_that_is_kept() -> None:
    choice = NativeChoice(1, 64, _native.library())
    logits = _drawn(2, 4, 64)
    order = logits[0].argsort(dim=-1, descending=True)
    for settings, last in (
        (GenerationSettings(guidance=1.0, top_k=9), 8),
        (GenerationSettings(guidance=1.0, top_k=0), 63),
        (GenerationSettings(guidance=1.0, top_p=1e-6), 0),
    ):
        choice.set(0, settings)
        for uniform, rank in ((0.0, 0), (1 - 2.0**-24, last)):
            found, _ = choice(logits, torch.full((1, 4), uniform), torch.tensor([0]))
            assert torch.equal(found[0], order[:, rank])


@needed
def test_a_slot_of_which_the_logits_are_no_numbers_is_told_alone() -> None:
    choice = NativeChoice(3, 32, _native.library())
    for slot in range(3):
        choice.set(slot, GenerationSettings())
    logits = torch.zeros(6, 4, 32)
    logits[4, 1, 2], logits[2, 3, 0] = (
        torch.nan,
        -torch.inf,
    )  # the second without its text, the third
    found, sound = choice(logits, torch.full((3, 4), 0.5), torch.arange(3))
    assert sound.tolist() == [True, False, False]
    assert int(found.min()) >= 0 and int(found.max()) < 32
