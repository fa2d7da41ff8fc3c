"""The engine of sequences against the family's own generation, on random tiny models."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tunesmith.errors import UserError
from tunesmith.families.musicgen import tiny
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.families.musicgen.delay import apply_delay
from tunesmith.formats.adapter import load_adapter, save_adapter
from tunesmith.registry import plugin
from tunesmith.serve._decoder import Decoder
from tunesmith.serve._products import Product
from tunesmith.serve._stream import StreamDecoder
from tunesmith.serve.request import Request
from tunesmith.serve.token_engine import TokenEngine
from tunesmith.types import Audio, GenerationSettings

GREEDY = GenerationSettings(temperature=0.0)
SETTINGS = (
    GenerationSettings(),
    GenerationSettings(guidance=1.0),
    GenerationSettings(guidance=2.0, temperature=0.7, top_k=5),
    GenerationSettings(top_k=0, top_p=0.8),
)
PROMPTS = ("slow blues", "", "two guitars, no drums, a very long way from home", "a waltz")


class Ear:
    """A sink that remembers; waits are bounded so that a hung engine fails a test instead of CI."""

    def __init__(self, at_part: Any = None) -> None:
        self.shares: list[float] = []
        self.parts: list[Audio] = []
        self.how: str = ""
        self.error: Exception | None = None
        self.ended, self.begun = threading.Event(), threading.Event()
        self._at_part = at_part

    def progress(self, share: float) -> None:
        assert not self.how
        self.shares.append(share)
        self.begun.set()

    def part(self, audio: Audio) -> None:
        assert not self.how
        self.parts.append(audio)
        if self._at_part is not None:
            self._at_part()

    def _end(self, how: str) -> None:
        assert not self.how
        self.how = how
        self.ended.set()

    def finished(self) -> None:
        self._end("finished")

    def failed(self, error: Exception) -> None:
        self.error = error
        self._end("failed")

    def cancelled(self) -> None:
        self._end("cancelled")

    def sound(self) -> np.ndarray:
        assert self.ended.wait(60), "the engine never ended it"
        assert self.how == "finished", self.error
        return np.concatenate([one.samples for one in self.parts], axis=1)


@contextmanager
def engine(bundle: MusicgenBundle | None = None, **options: Any) -> Iterator[TokenEngine]:
    made = TokenEngine(bundle or tiny(0), **{"slots": 3, **options})
    made.start()
    try:
        yield made
    finally:
        made.stop()


def wanted(seed: int, **more: Any) -> Request:
    """A request that differs in everything from that of the next seed."""
    return Request(
        **{
            "id": str(seed),
            "prompt": PROMPTS[seed % len(PROMPTS)],
            "duration_s": 0.2 + 0.1 * (seed % 5),
            "seed": seed,
            "settings": SETTINGS[seed % len(SETTINGS)],
            **more,
        }
    )


def own(bundle: MusicgenBundle, request: Request) -> np.ndarray:
    """What the family itself makes of a request."""
    settings = request.settings or bundle.sampling
    (made,) = bundle.generate([request.prompt], request.duration_s, [request.seed], settings)
    return made.samples


@pytest.mark.parametrize("channels", [1, 2])
def test_logits_of_slots_at_different_places_are_the_familys(channels: int) -> None:
    bundle = tiny(0, channels=channels)
    module = bundle.module.eval()
    decoder = Decoder(module, 2, 100)
    codes = torch.randint(
        32, (2, decoder.codebooks, 80), generator=torch.Generator().manual_seed(0)
    )
    tokens, _ = apply_delay(codes, torch.tensor([80, 80]), module.shifts, module.pad)
    whole, states = [], []
    for row, prompt in enumerate(["slow blues", "two guitars, no drums, far from home"]):
        text = bundle.collate([_example(bundle, codes[row], prompt)], [0]).text
        with torch.no_grad():
            whole.append(module.hidden(tokens[row : row + 1], text)[0])
            given, mask = module.text_states(text, fresh=True)
        states.append((torch.cat([given, 0 * given]), torch.cat([mask, 0 * mask])))
    decoder.begin(0, *states[0])
    late = 9  # the second slot begins so many steps later
    for step in range(80):
        if step == late:
            decoder.begin(1, *states[1])
        places = [step, max(0, step - late)]
        now = torch.stack([tokens[row, :, place] for row, place in enumerate(places)])
        logits = decoder.step(now, torch.tensor(places), max(places))
        for row in range(1 + (step >= late)):
            expected = torch.einsum("d,kvd->kv", whole[row][places[row]], module.heads())
            assert (logits[row] - expected).abs().max() < 1e-4


def _example(bundle: MusicgenBundle, codes: Tensor, prompt: str) -> Any:
    from tunesmith.types import Example

    return Example("one", codes.to(torch.int16), bundle.encode_text([prompt])[0])


@pytest.mark.parametrize("channels", [1, 2])
def test_sounds_are_the_familys_in_whatever_company(channels: int) -> None:
    plain = tiny(0, channels=channels)
    requests = [wanted(seed) for seed in range(9)]
    with engine(tiny(0, channels=channels)) as served:
        ears = [Ear() for _ in requests]
        for request, ear in zip(requests, ears, strict=True):
            served.submit(request, ear)
        for request, ear in zip(requests, ears, strict=True):
            np.testing.assert_array_equal(ear.sound(), own(plain, request))
            assert ear.shares == sorted(ear.shares)
            assert ear.shares[0] == 0.0
            assert ear.shares[-1] == 1.0
            assert len(ear.parts) == 1


def test_the_same_seed_alone_and_among_others_that_come_and_go() -> None:
    request = wanted(6, duration_s=1.5, settings=SETTINGS[0])
    with engine() as served:
        alone = Ear()
        served.submit(request, alone)
        first = alone.sound()
        draw = random.Random(0)
        for again in range(2):
            crowd = [Ear() for _ in range(8)]
            ear = Ear()
            for number, other in enumerate(crowd):
                if number == 2 + again:  # in another slot each time
                    served.submit(request, ear)
                served.submit(wanted(100 * again + number, id=f"crowd {number}"), other)
                if draw.random() < 0.4:
                    served.cancel(f"crowd {number}")
            np.testing.assert_array_equal(ear.sound(), first)


def test_streamed_sound_is_that_of_one_piece() -> None:
    request = wanted(3, duration_s=2.0)
    with engine(chunk_s=0.4) as served:
        whole, pieces = Ear(), Ear()
        served.submit(request, whole)
        served.submit(wanted(3, duration_s=2.0, id="streamed", streamed=True), pieces)
        expected, found = whole.sound(), pieces.sound()
    assert len(pieces.parts) == 5
    # The codec's kernels round differently by length; -60 dB would be 1e-3 of full scale.
    assert np.abs(found - expected).max() < 1e-5
    # The first piece is there long before the end.
    assert pieces.parts[0].duration_s == pytest.approx(0.4)


@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_pieces_of_any_length_join_without_a_seam(chunk: int) -> None:
    bundle = tiny(0, channels=2)
    codes = torch.randint(32, (8, 61), generator=torch.Generator().manual_seed(1))
    stream, found = StreamDecoder(bundle), []
    for frames in range(chunk, 61, chunk):
        if (piece := stream.push(codes[:, :frames])) is not None:
            found.append(piece.samples)
            assert frames - found[0].shape[1] // 32 >= stream.behind
    last = stream.push(codes, last=True)
    assert last is not None
    joined = np.concatenate([*found, last.samples], axis=1)
    expected = bundle.decode_audio(codes).samples
    assert joined.shape == expected.shape
    assert np.abs(joined - expected).max() < 1e-5
    # A seam is not excluded by luck: a piece decoded on its own does differ.
    alone = bundle.decode_audio(codes[:, 30:]).samples
    assert np.abs(alone[:, :320] - expected[:, 30 * 32 : 40 * 32]).max() > 1e-3


def test_cancelled_ones_end_and_leave_their_slot() -> None:
    with engine(slots=1) as served:
        running, waiting, after = Ear(), Ear(), Ear()
        served.submit(wanted(0, id="running", duration_s=4.0), running)
        served.submit(wanted(1, id="waiting"), waiting)
        assert running.begun.wait(60)
        served.cancel("waiting")
        served.cancel("running")
        served.cancel("nobody")
        assert waiting.ended.wait(60)
        assert running.ended.wait(60)
        assert (running.how, waiting.how) == ("cancelled", "cancelled")
        assert not waiting.shares
        served.submit(wanted(2), after)
        np.testing.assert_array_equal(after.sound(), own(tiny(0), wanted(2)))


def test_what_fails_fails_alone() -> None:
    def broken() -> None:
        raise RuntimeError("a listener's own fault")

    with engine() as served:
        beside, deaf, too_long, unknown = Ear(), Ear(broken), Ear(), Ear()
        served.submit(wanted(4), beside)
        served.submit(wanted(1, id="deaf"), deaf)
        served.submit(wanted(1, id="long", duration_s=99.0), too_long)
        served.submit(wanted(1, id="unknown", adapters={"jazz": 1.0}), unknown)
        for ear in (deaf, too_long, unknown):
            assert ear.ended.wait(60)
            assert ear.how == "failed"
        assert isinstance(too_long.error, UserError)
        assert isinstance(unknown.error, UserError)
        assert isinstance(deaf.error, RuntimeError)
        np.testing.assert_array_equal(beside.sound(), own(tiny(0), wanted(4)))


def test_numbers_that_are_none_stay_in_their_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(slots=2) as served:
        encode = served.bundle.encode_text

        def poisoned(captions: Any, *more: Any) -> Any:
            found = encode(captions, *more)
            if captions == ["poison"]:
                found[0]["states"][:] = float("nan")
            return found

        monkeypatch.setattr(served.bundle, "encode_text", poisoned)
        bad, good = Ear(), Ear()
        served.submit(wanted(0, id="bad", prompt="poison"), bad)
        served.submit(wanted(4, duration_s=1.0), good)
        assert bad.ended.wait(60)
        assert isinstance(bad.error, FloatingPointError)
        np.testing.assert_array_equal(good.sound(), own(tiny(0), wanted(4, duration_s=1.0)))
        next_in_slot = [Ear(), Ear()]
        for number, ear in enumerate(next_in_slot):
            served.submit(wanted(5, id=f"next {number}"), ear)
        for ear in next_in_slot:
            np.testing.assert_array_equal(ear.sound(), own(tiny(0), wanted(5)))


def test_stop_finishes_what_it_can_and_calls_off_the_rest() -> None:
    patient = TokenEngine(tiny(0), slots=2)
    patient.start()
    ears = [Ear() for _ in range(3)]
    for seed, ear in enumerate(ears):
        patient.submit(wanted(seed), ear)
    patient.stop(drain_s=60)
    assert [ear.how for ear in ears] == ["finished"] * 3
    hasty = TokenEngine(tiny(0), slots=1)
    hasty.start()
    ears = [Ear() for _ in range(3)]
    for seed, ear in enumerate(ears):
        hasty.submit(wanted(seed, duration_s=4.0), ear)
    hasty.stop()
    assert {ear.how for ear in ears} <= {"cancelled", "finished"}
    assert ears[-1].how == "cancelled"


def test_the_base_is_what_it_was_when_the_engine_has_stopped() -> None:
    bundle = tiny(0)
    before = {name: value.clone() for name, value in bundle.module.state_dict().items()}
    kinds = [type(one) for one in bundle.module.modules()]
    with engine(bundle) as served:
        ear = Ear()
        served.submit(wanted(0), ear)
        ear.sound()
    after = bundle.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert kinds == [type(one) for one in bundle.module.modules()]


ADAPTERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "lora": ("lora", {"targets": ("q", "k", "v", "o", "up", "down"), "rank": 4}),
    "narrow": ("bottleneck", {"width": 4}),
    "prefix": ("prefix", {"length": 3}),
    "before": ("prefix", {"length": 3, "placement": "input"}),
    "word": ("textual_inversion", {"token": "[mine]", "vectors": 2}),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """One adapter of each kind, away from its start."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, (name, (method, options)) in enumerate(ADAPTERS.items()):
        bundle, module = tiny(0), plugin("methods", method).load()
        adapter = module.attach(bundle, module.Config(**options), seed)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.parameters().values():
                scale = max(float(parameter.square().mean().sqrt()), 0.1)
                parameter.add_(scale * torch.randn(parameter.shape, generator=draw))
        save_adapter(root / name, adapter, bundle, {})
    return {name: root / name for name in ADAPTERS}


@pytest.mark.parametrize("int8", [False, True])
def test_each_has_its_own_adapter(saved: Mapping[str, Path], int8: bool) -> None:
    """In 8 bits the base differs by rounding, so only that adapters show is asked for there."""
    prompt = "[mine] and a slow blues"
    requests = [
        Request(name, prompt, 0.5, 3, GREEDY, {name: 1.0} if name else {}) for name in ["", *saved]
    ]
    with engine(slots=4, int8=int8) as served:
        for name, folder in saved.items():
            served.add_adapter(name, folder)
        assert dict(served.adapters()) == dict(saved)
        ears = [Ear() for _ in requests]
        for request, ear in zip(requests, ears, strict=True):
            served.submit(request, ear)
        sounds = {r.id: ear.sound() for r, ear in zip(requests, ears, strict=True)}
        for name in saved:
            assert not np.array_equal(sounds[name], sounds[""]), f"{name} does nothing"
        served.remove_adapter("lora")
        gone = Ear()
        served.submit(Request("gone", prompt, 0.2, 3, GREEDY, {"lora": 1.0}), gone)
        assert gone.ended.wait(60)
        assert isinstance(gone.error, UserError)
    if int8:
        return
    np.testing.assert_array_equal(sounds[""], own(tiny(0), requests[0]))
    for request in requests[1:]:
        bundle = tiny(0)
        adapter = load_adapter(saved[request.id], bundle)
        asked = Request("", adapter.prompt(prompt), 0.5, 3, GREEDY)
        np.testing.assert_array_equal(sounds[request.id], own(bundle, asked), err_msg=request.id)


def test_int8_is_near_and_does_not_depend_on_company() -> None:
    draw = torch.Generator().manual_seed(0)
    linear = nn.Linear(256, 128, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(128, 256, generator=draw))
    x = torch.randn(6, 256, generator=draw) * torch.tensor([1.0, 100, 1e-3, 1, 1, 0])[:, None]
    product = Product([linear], int8=True)
    with torch.inference_mode():
        exact, found = linear(x), product(x)
        others = torch.cat([x[:1], 1e6 * x[3:4]])
        assert torch.equal(product(others)[0], found[0])
    error = (found - exact).norm(dim=1)[:5] / exact.norm(dim=1)[:5]
    assert float(error.max()) < 0.02
    assert float(error.min()) > 1e-4  # it is in 8 bits indeed
    assert not found[5].any()


def test_int8_sounds_the_same_alone_and_among_others() -> None:
    with engine(int8=True) as served:
        alone = Ear()
        served.submit(wanted(4), alone)
        first = alone.sound()
        crowd = [Ear() for _ in range(4)]
        for number, ear in enumerate(crowd):
            served.submit(wanted(4 if number == 2 else number, id=str(number)), ear)
        np.testing.assert_array_equal(crowd[2].sound(), first)


def test_products_hold_no_weight_twice() -> None:
    linears = [nn.Linear(8, size, bias=size == 4) for size in (3, 4, 5)]
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = torch.cat([one(x) for one in linears], -1)
        product = Product(linears)
        torch.testing.assert_close(product(x), expected)
        with torch.no_grad():
            linears[1].weight.zero_()
        torch.testing.assert_close(product(x)[:, 3:7], linears[1].bias.expand(2, -1))
        storages = {one.weight.untyped_storage().data_ptr() for one in linears}
        assert len(storages) == 1


def test_another_family_is_refused() -> None:
    with pytest.raises(UserError, match="speecht5"):
        TokenEngine(plugin("families", "speecht5").load().tiny(0))
    with pytest.raises(UserError, match="0 slots"):
        TokenEngine(tiny(0), slots=0)


def test_idle_it_makes_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    with engine() as served:
        wait = served._some.wait
        monkeypatch.setattr(served._some, "wait", lambda *a: (waits.append(1), wait(*a))[1])
        ear = Ear()
        served.submit(wanted(0), ear)
        ear.sound()
        ear = Ear()
        served.submit(wanted(1), ear)
        ear.sound()
    assert len(waits) <= 3
