"""What every family has to keep, whatever is trained on it."""

from __future__ import annotations

import traceback
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cells import Variant, close, example, losses, mixed, noise, shaken
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.errors import Stopped, UserError
from tunesmith.families._bundle import Bundle
from tunesmith.methods import lora
from tunesmith.objectives.holes import Holes
from tunesmith.tasks.generate import generate
from tunesmith.types import ROLES, GenerationSettings


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    return {}


@pytest.fixture
def bundle(variant: Variant, bundles: dict[str, Bundle]) -> Bundle:
    """One bundle a variant: these tests read only."""
    return bundles.setdefault(str(variant), variant.make())


def test_counts_are_those_of_forward(bundle: Bundle):
    batch = bundle.collate(mixed(bundle), [1, 2, 3], drop=0.5)
    with torch.no_grad():
        terms = bundle.module(batch)
    counts = bundle.module.count(batch)
    assert terms.keys() == counts.keys() == bundle.term_weights.keys()
    for name, (sums, count) in terms.items():
        assert sums.shape == count.shape == counts[name].shape == (3,)
        assert torch.equal(count, counts[name])
        assert bool((count > 0).all())
        assert bool(torch.isfinite(sums).all())


def test_seeded_by_name_alone(variant: Variant):
    state = torch.random.get_rng_state()
    first, second, other = variant.make(0), variant.make(0), variant.make(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    tensors = first.module.state_dict()
    assert all(torch.equal(second.module.state_dict()[n], v) for n, v in tensors.items())
    assert any(not torch.equal(other.module.state_dict()[n], v) for n, v in tensors.items())
    assert first.base_hash != other.base_hash


def test_the_codec_follows_the_module_to_another_device(variant: Variant):
    made: Any = variant.make()
    if not hasattr(made, "codec"):
        pytest.skip("its codec is a part of the module")
    assert made.codec is not None  # in memory before, as when the linears are quantised afterwards
    made.module.to("meta")
    assert {one.device.type for one in made.codec.parameters()} == {"meta"}


def test_nothing_trains_before_a_method_says_so(bundle: Bundle):
    assert not any(parameter.requires_grad for parameter in bundle.module.parameters())


def test_sites_lead_to_linears_of_the_stated_width(bundle: Bundle):
    assert bundle.sites
    for site in bundle.sites:
        assert site.role in ROLES
        component: Any = bundle.components[site.component]
        if site.role in ("self_attention", "cross_attention", "feed_forward"):
            assert component.get_submodule(site.output).weight.shape[0] == site.width
            for path in site.inputs.values():
                assert isinstance(component.get_submodule(path), torch.nn.Linear)


def test_what_is_cached_is_plain_and_on_the_cpu(bundle: Bundle):
    one = example(bundle, 0.5, "words")
    for tensor in (one.codes, *one.text.values()):
        assert tensor.device.type == "cpu"
        assert not tensor.requires_grad
        assert not tensor.is_inference()
    assert torch.equal(one.codes, example(bundle, 0.5, "words").codes)
    alone, beside = bundle.encode_text(["a"])[0], bundle.encode_text(["much longer", "a"])[1]
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_rows_whose_caption_was_dropped_keep_to_themselves(bundle: Bundle):
    """Dropped and kept rows of different text lengths in one batch: each as if it were alone."""
    clips = mixed(bundle, 4)
    kept, dropped = bundle.collate(clips, [1, 2, 3, 4]), bundle.collate(clips, [1, 2, 3, 4], drop=1)
    with_text, without = losses(bundle, kept), losses(bundle, dropped)
    assert any(not torch.allclose(with_text[name], without[name], rtol=1e-4) for name in with_text)
    some = bundle.collate(clips, [1, 2, 3, 4], drop=0.5)
    mixed_losses = losses(bundle, some)
    sides = set()
    for row in range(4):
        mine = {name: value[row] for name, value in mixed_losses.items()}
        for side, whole in (("kept", with_text), ("dropped", without)):
            theirs = {name: value[row] for name, value in whole.items()}
            if all(torch.allclose(mine[n], theirs[n], rtol=1e-5, atol=1e-5) for n in mine):
                sides.add(side)
                break
        else:
            pytest.fail(f"row {row} is neither its kept nor its dropped self")
    assert sides == {"kept", "dropped"}
    # A row without its caption does not know what the caption was.
    renamed = [
        type(clip)(clip.clip_id, clip.codes, bundle.encode_text([f"other {n}"])[0])
        for n, clip in enumerate(clips)
    ]
    close(losses(bundle, bundle.collate(renamed, [1, 2, 3, 4], drop=1)), without, 1e-5)


class MadeOnTheHost(TorchDispatchMode):
    """Where tensors are made of Python's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "lift_fresh" in str(func):
            self.places += traceback.format_stack(limit=6)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("holes", [False, True])
def test_a_step_that_can_be_recorded_waits_for_nothing(bundle: Bundle, holes: bool):
    """What is recorded on a GPU must not look at a number: with tensors that have none it still runs."""
    kept = bundle.module.holes, bundle.module.repeats
    if holes:
        if not bundle.inpainting:
            pytest.skip(bundle.no_inpainting)
        bundle.module.holes, bundle.module.repeats = Holes(), bundle.inpainting == "widened"
    try:
        batch = bundle.collate(mixed(bundle), [1, 2, 3], drop=0.5)
        fixed = bundle.module.static(batch)
        if fixed is None:
            pytest.skip("no step of this family is recorded")
        bundle.module(fixed)  # what is made once and kept
        with MadeOnTheHost() as made:
            bundle.module(fixed)
        assert not made.places  # a copy to the device, which no recording takes
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            text = {name: mode.from_tensor(value) for name, value in fixed.text.items()}
            codes, frames = mode.from_tensor(fixed.codes), mode.from_tensor(fixed.frames)
            terms = bundle.module(replace(fixed, codes=codes, frames=frames, text=text))
        assert {len(total) for total, _ in terms.values()} == {3}
    finally:
        bundle.module.holes, bundle.module.repeats = kept


def test_dropping_is_drawn_from_the_seed(bundle: Bundle):
    one = example(bundle, 0.3)
    rates = bundle.collate([one] * 400, list(range(400)), drop=0.25)
    again = bundle.collate([one] * 400, list(range(400)), drop=0.25)
    assert all(torch.equal(rates.text[name], again.text[name]) for name in rates.text)
    full = bundle.collate([one] * 400, list(range(400)))
    changed = torch.zeros(400, dtype=torch.bool)
    for name, value in full.text.items():
        changed |= (rates.text[name] != value).view(400, -1).any(dim=1)
    # Four standard deviations of a binomial around a quarter.
    assert abs(int(changed.sum()) - 100) < 4 * (400 * 0.25 * 0.75) ** 0.5


def test_rate_channels_and_length_are_honoured(bundle: Bundle):
    for duration_s in (0.5, 1.0, bundle.max_s):
        for audio in bundle.generate(["a", "longer words"], duration_s, [1, 2]):
            assert audio.sample_rate_hz == bundle.sample_rate_hz
            assert audio.channels == bundle.channels
            if bundle.free_length:
                assert 0 < audio.duration_s <= duration_s + 1 / bundle.frame_rate_hz
            else:
                assert audio.duration_s == pytest.approx(duration_s, abs=1 / bundle.frame_rate_hz)
            assert audio.samples.dtype == np.float32
            assert np.isfinite(audio.samples).all()
            assert np.abs(audio.samples).max() <= 1
    for wrong in (0.0, -1.0, bundle.max_s + 1):
        with pytest.raises(UserError, match="seconds is"):
            next(generate(bundle, ["a"], duration_s=wrong))


def test_a_seed_gives_the_same_alone_and_in_a_batch(bundle: Bundle):
    settings = GenerationSettings(guidance=3.0)
    prompts, seeds = ["one", "a second, longer prompt", ""], [7, 8, 9]
    together = bundle.generate_codes(prompts, 0.6, seeds, settings)
    for prompt, seed, row in zip(prompts, seeds, together, strict=True):
        (alone,) = bundle.generate_codes([prompt], 0.6, [seed], settings)
        # Latents may differ in their last bits: products are summed in another order.
        assert bundle.mismatch(row, alone) == 0
    (other,) = bundle.generate_codes(["one"], 0.6, [70], settings)
    assert bundle.mismatch(together[0], other) > 0.1


def test_takes_do_not_depend_on_the_batch_size(bundle: Bundle):
    wanted = {
        size: list(generate(bundle, ["x", "yy"], duration_s=0.3, seed=4, count=3, batch_size=size))
        for size in (1, 4, 8)
    }
    for takes in wanted.values():
        assert [(t.prompt, t.seed) for t in takes] == [
            (p, s) for p in ("x", "yy") for s in (4, 5, 6)
        ]
        for take, first in zip(takes, wanted[1], strict=True):
            np.testing.assert_allclose(take.audio.samples, first.audio.samples, atol=1e-5)


def test_a_continuation_begins_with_what_was_given(bundle: Bundle):
    given = noise(bundle, 0.4, seed=3)
    codes = bundle.encode_audio(given)
    settings = GenerationSettings(guidance=3.0)
    found = bundle.generate_codes(["x", "y"], 1.0, [1, 2], settings, [given, given])
    for row in found:
        assert row.shape[-1] == round(bundle.frame_rate_hz)
        assert torch.equal(row[:, : codes.shape[-1]].long(), codes.long())
    assert not torch.equal(found[0], found[1])
    with pytest.raises(UserError, match="the sound to continue"):
        next(generate(bundle, ["x"], duration_s=0.4, continued=given))


def test_generation_leaves_the_mode_and_the_global_generators_alone(bundle: Bundle):
    bundle.module.train()
    state = torch.random.get_rng_state()
    bundle.generate_codes(["x"], 0.2, [1], GenerationSettings())
    assert bundle.module.training
    assert torch.equal(torch.random.get_rng_state(), state)
    bundle.module.eval()


def test_generation_stops_when_asked(bundle: Bundle):
    calls = iter([0, 0, 15])
    with pytest.raises(Stopped) as caught:
        bundle.generate_codes(
            ["x"], 1.0, [1], GenerationSettings(), should_stop=lambda: next(calls)
        )
    assert caught.value.signal_number == 15


def test_the_codec_comes_back_after_its_release(variant: Variant):
    bundle = variant.make()
    codes = bundle.encode_audio(noise(bundle, 0.3, 1))
    before = bundle.decode_audio(codes).samples
    bundle.release_codec()
    np.testing.assert_array_equal(bundle.decode_audio(codes).samples, before)


def test_sound_of_another_rate_is_refused(bundle: Bundle):
    from tunesmith.types import Audio

    wrong = Audio(np.zeros((1, 800), np.float32), bundle.sample_rate_hz * 2)
    with pytest.raises(UserError, match="Hz"):
        bundle.encode_audio(wrong)


def test_activation_checkpointing_changes_nothing_but_memory(variant: Variant):
    """Loss and gradients with and without; a fresh bundle each, in training mode."""
    found = []
    for enabled in (False, True):
        bundle = variant.make()
        for parameter in bundle.module.parameters():
            parameter.requires_grad_(True)
        bundle.checkpoint_activations(enabled)
        bundle.module.train()
        batch = bundle.collate(mixed(bundle), [1, 2, 3])
        torch.manual_seed(0)
        loss = torch.stack([total.sum() for total, _ in bundle.module(batch).values()]).sum()
        loss.backward()
        grads = {n: p.grad for n, p in bundle.module.named_parameters() if p.grad is not None}
        found.append({"loss": loss.detach(), **grads})
    assert len(found[0]) > 10
    close(found[1], found[0], 1e-5)


def test_activation_checkpointing_leaves_frozen_tables_alone(variant: Variant):
    """With an adapter on a frozen base: the same gradients, and none for what is below it."""
    found = []
    for enabled in (False, True):
        bundle = variant.make()
        adapter = shaken(lora.attach(bundle, lora.Config(rank=2)))
        bundle.checkpoint_activations(enabled)
        bundle.module.train()
        batch = bundle.collate(mixed(bundle), [1, 2, 3])
        torch.manual_seed(0)
        torch.stack([total.sum() for total, _ in bundle.module(batch).values()]).sum().backward()
        found.append({n: p.grad for n, p in adapter.parameters().items() if p.grad is not None})
    assert len(found[0]) > 3
    close(found[1], found[0], 1e-5)


def test_mismatch_counts_what_differs(bundle: Bundle):
    codes = example(bundle, 0.5).codes
    assert bundle.mismatch(codes, codes) == 0
    other = codes.clone()
    other[..., : codes.shape[-1] // 2] += 1
    assert bundle.mismatch(codes, other) == pytest.approx(0.5, abs=0.05)
