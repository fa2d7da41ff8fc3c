"""A step of which the host sees nothing, as on a GPU, against the one that it follows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith.families._sampling import pick
from tunesmith.families.musicgen import tiny
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.serve._decoder import Decoder
from tunesmith.serve._pick import Choice
from tunesmith.serve._slots import Slots
from tunesmith.types import GenerationSettings

SETTINGS = (
    GenerationSettings(),
    GenerationSettings(guidance=1.0, top_k=3),
    GenerationSettings(guidance=2.0, temperature=0.7, top_k=5, top_p=0.6),
    GenerationSettings(top_k=0, top_p=0.8),
    GenerationSettings(temperature=0.0),
)
CPU = torch.device("cpu")


def test_slots_with_settings_of_their_own_are_sampled_as_each_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    slots, codes = len(SETTINGS), 40
    choice = Choice(slots, codes, CPU)
    for slot, settings in enumerate(SETTINGS):
        choice.set(slot, settings)
    for _ in range(20):
        logits = 3 * torch.randn(2 * slots, 4, codes, generator=draw)
        uniform = torch.rand(slots, 4, generator=draw)
        found, sound = choice(logits, uniform)
        assert bool(sound.all())
        for slot, settings in enumerate(SETTINGS):
            given, without = logits[slot], logits[slots + slot]
            mixed = without + settings.guidance * (given - without)
            assert torch.equal(found[slot], pick(mixed, uniform[slot], settings))


def test_a_slot_of_which_the_logits_are_no_numbers_is_told() -> None:
    choice = Choice(2, 8, CPU)
    logits = torch.zeros(4, 4, 8)
    logits[3, 1, 2] = torch.nan  # the second slot's, without the text
    choice.set(1, GenerationSettings())
    assert choice(logits, torch.zeros(2, 4))[1].tolist() == [True, False]


def _begun(bundle: MusicgenBundle, slots: int, apart: bool) -> tuple[Decoder, Slots]:
    module = bundle.module.eval()
    decoder = Decoder(module, slots, 120)
    return decoder, Slots(decoder, module.shifts, module.pad, apart=apart)


def _begin(bundle: MusicgenBundle, decoder: Decoder, slots: Slots, slot: int, seed: int) -> None:
    (text,) = bundle.encode_text([f"a waltz, number {seed}"])
    given = {"states": text["states"][None], "mask": torch.ones(1, len(text["ids"]))}
    with torch.no_grad():
        states, mask = bundle.module.text_states(given, fresh=True)
    decoder.begin(slot, torch.cat([states, 0 * states]), torch.cat([mask, 0 * mask]))
    slots.begin(slot, 20 + seed, seed, SETTINGS[seed % len(SETTINGS)])


@pytest.mark.parametrize("channels", [1, 2])
def test_steps_of_which_the_host_sees_nothing_write_the_same_tokens(channels: int) -> None:
    bundle = tiny(0, channels=channels)
    found: list[list[Tensor]] = []
    for apart in (False, True):
        decoder, slots = _begun(bundle, 2, apart)
        codes, seed = [], 0
        running: dict[int, int] = {}
        while len(codes) < 6:
            for slot in slots.free:  # those that ended make room for others
                _begin(bundle, decoder, slots, slot, seed)
                running[slot], seed = 20 + seed, seed + 1
            assert slots.step() == []
            for slot, frames in list(running.items()):
                if slots.done(slot) >= frames:
                    codes.append(slots.codes(slot, frames))
                    slots.end(slot)
                    del running[slot]
        found.append(codes)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_broken_sequence_is_told_and_its_slot_is_sound_again() -> None:
    bundle = tiny(0)
    decoder, slots = _begun(bundle, 2, True)
    for slot in (0, 1):
        _begin(bundle, decoder, slots, slot, slot)
    with torch.inference_mode():
        decoder._text[:, 1] = torch.nan
    assert slots.step() == [1]
    with pytest.raises(FloatingPointError):
        slots.codes(1, 1)
    slots.codes(0, 1)
    slots.end(1)
    decoder.clear(1)
    _begin(bundle, decoder, slots, 1, 3)
    for _ in range(3):
        assert slots.step() == []


def test_sounds_decoded_together_are_those_decoded_alone() -> None:
    bundle = tiny(0, channels=2)
    draw = torch.Generator().manual_seed(0)
    codes = [torch.randint(32, (8, 20), generator=draw) for _ in range(3)]
    for one, sound in zip(codes, bundle.decode_together(codes), strict=True):
        alone = bundle.decode_audio(one).samples
        assert sound.samples.shape == alone.shape
        assert abs(sound.samples - alone).max() < 1e-5
        assert abs(alone).max() > 1e-3


def test_texts_read_together_are_heard_as_those_read_alone() -> None:
    bundle = tiny(0)
    prompts = ["a waltz", "", "slow strings and a lone trumpet over the rain"]
    module, found = bundle.module.eval(), []
    for together in (False, True):
        decoder = Decoder(module, 4, 20)
        slots = [2, 0, 3]
        with torch.no_grad():
            if together:
                states, mask = bundle.encode_text_together(prompts)
                parts = [(slots, states, mask)]
            else:
                texts = bundle.encode_text(prompts)
                masks = [
                    torch.full((1, len(t["ids"])), int(p != ""))
                    for t, p in zip(texts, prompts, strict=True)
                ]
                parts = [
                    ([s], t["states"][None], m) for s, t, m in zip(slots, texts, masks, strict=True)
                ]
            for some, states, mask in parts:
                states, mask = module.text_states({"states": states, "mask": mask}, fresh=True)
                decoder.begin(some, torch.cat([states, 0 * states]), torch.cat([mask, 0 * mask]))
        tokens, places = torch.arange(16).view(4, 4), torch.zeros(4, dtype=torch.long)
        logits = decoder.step(tokens, places, 0).clone()
        found.append(logits[[2, 0, 3, 6, 4, 7]])
    assert torch.allclose(*found, atol=1e-5)
    assert (found[0][0] - found[0][2]).abs().max() > 1e-3  # what is said matters


@pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels for a GPU")
def test_kernels_of_our_own_are_as_near_as_the_librarys() -> None:
    from torch.nn import functional as F

    from tunesmith.serve import _kernels as kernels

    torch.manual_seed(0)
    size, device = 1024, torch.device("cuda")
    for rows in (2, 32):
        x = torch.randn(rows, size, device=device, dtype=torch.bfloat16) + 0.5
        weight = torch.randn(64, size, device=device, dtype=torch.bfloat16) / size**0.5
        norm = torch.nn.LayerNorm(size, device=device, dtype=torch.bfloat16)
        torch.nn.init.normal_(norm.weight, 1, 0.2)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
        made = kernels.Norm(norm, weight)
        scaled = F.layer_norm(x.float(), (size,), made.gain.float(), made.bias.float(), norm.eps)
        exact = F.gelu(F.linear(scaled, weight.float())) + 1
        for way in (kernels.LIBRARY, *kernels.ways(rows, size)):
            out = torch.ones(rows, 64, device=device, dtype=torch.bfloat16)
            kernels.product(x, weight, out, way, norm=made, activation="gelu", add=True)
            assert float((out.float() - exact).norm() / exact.norm()) < 0.01, way
        cache = torch.randn(rows, 300, 4 * 64, device=device, dtype=torch.bfloat16)
        query = torch.randn(rows, 6 * 64, device=device, dtype=torch.bfloat16)
        heard = torch.empty(rows, 2 * 64, device=device, dtype=torch.bfloat16)
        lengths = torch.arange(rows // 2, device=device) * 17
        kernels.attend(query, cache, lengths, heard, 64, kernels.spans(rows)[0])
        for row in range(rows):
            length = int(lengths[row % len(lengths)])
            assert torch.equal(cache[row, length], query[row, 2 * 64 :])
            keys, values = cache[row, : length + 1].float().view(-1, 2, 2, 64).unbind(1)
            asked = query[row, : 2 * 64].float().view(2, 1, 64)
            exact = F.scaled_dot_product_attention(
                asked, keys.transpose(0, 1), values.transpose(0, 1)
            )
            assert float((heard[row].float() - exact.flatten()).norm() / exact.norm()) < 0.01
