"""A base taught to fill holes: it begins as the base, hears what is given, and is taken off again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import Variant, bits, close, example, losses, mixed, noise, same_bits, shaken

from tunesmith.analysis import repeats
from tunesmith.analysis.repeats import repeated, sources, spectra
from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.families._inpainting import WidenedInput
from tunesmith.formats.adapter import load_adapter, read_card, save_adapter
from tunesmith.methods import lora
from tunesmith.methods._together import Beside, as_taught, attach_all
from tunesmith.tasks import inpaint
from tunesmith.tasks.edit import edit
from tunesmith.training.selftest import overfit
from tunesmith.types import Audio, GenerationSettings, Source

DETAILS = {"step": 1, "steps": 1, "metrics": {}}


def able(variant: Variant) -> Bundle:
    bundle = variant.make()
    if not bundle.inpainting:
        pytest.skip(bundle.no_inpainting)
    return bundle


def unable(variant: Variant) -> Bundle:
    bundle = variant.make()
    if bundle.inpainting:
        pytest.skip("it can")
    return bundle


def attached(bundle: Bundle, **settings: Any) -> Any:
    config = inpaint.Config(**settings)
    return attach_all(
        bundle, lora, lora.Config(rank=4), [Beside("task", "inpaint", inpaint, config)], 0
    )


def test_it_begins_as_the_base(variant: Variant):
    """With nothing given, and where the input was widened also with holes: the new weights are zero."""
    bundle = able(variant)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    before = losses(bundle, batch)
    settings = GenerationSettings(guidance=3.0)
    takes = bundle.generate_codes(["a"], 0.4, [1], settings)
    adapter = attached(bundle, plain=0.999999)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    close(losses(bundle, batch), before, 1e-5)
    again = bundle.generate_codes(["a"], 0.4, [1], settings)
    torch.testing.assert_close(again[0], takes[0], rtol=1e-4, atol=1e-4)
    count = inpaint.parameter_count(bundle, inpaint.Config())
    assert count == sum(p.numel() for p in adapter.others[0].parameters().values())


def test_only_what_is_missing_is_learned(variant: Variant):
    bundle = able(variant)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    whole = {name: count.clone() for name, count in bundle.module.count(batch).items()}
    attached(bundle, plain=0.0)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    with torch.no_grad():
        terms = bundle.module(batch)
    for name, (total, count) in terms.items():
        assert torch.equal(count, bundle.module.count(batch)[name])
        assert bool((count >= 1).all())
        assert bool((count < whole[name]).all())
        assert bool(torch.isfinite(total).all())


def test_what_is_given_is_heard(variant: Variant):
    """One clip of three is told by its beginning alone: trained, the hole is filled with its end."""
    bundle = able(variant)
    adapter = attached(bundle, plain=0.0, masks=("tail",))
    clip = example(bundle, 0.8, "a certain noise")
    found, _ = overfit(bundle, adapter, clip, lr=1e-2, steps=60, limit_s=1e9, target=-1.0)
    assert np.mean(found[-10:]) < 0.9 * np.mean(found[:10])
    moved = [p for p in adapter.others[0].parameters().values() if bool(p.detach().any())]
    assert len(moved) == len(adapter.others[0].parameters())
    adapter.set_strength(1.0)
    bundle.module.eval()
    # What is given changes what is said of the hole.
    settings = GenerationSettings(guidance=1.0)
    sources = [Source(noise(bundle, 0.8, seed=seed), spans=((0.4, 0.8),)) for seed in (3, 4)]
    one, other = bundle.remake_codes(["x", "x"], sources, [5, 5], settings)
    half = one.shape[-1] // 2
    assert not torch.allclose(one[:, half + 1 :], other[:, half + 1 :], atol=1e-3)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_widened_input_in_numbers(strength: float):
    """Inputs of 2 latents and widths of 3, once with what is given and once with a guess."""
    draw = torch.Generator().manual_seed(1)
    inner = torch.nn.Linear(2, 3)
    layer = WidenedInput(inner, 2, 3, torch.device("cpu"))
    layer.extra.data = torch.randn(3, 3, generator=draw)
    layer.gains.data = torch.tensor([0.5, -2.0])
    layer.strength = strength
    x, given = torch.randn(1, 2, 2, generator=draw), torch.randn(1, 2, 2, generator=draw)
    layer.told = torch.cat([given, torch.tensor([[[1.0], [0.0]]])], dim=-1)
    found = layer(x)[0]
    for row, (gain, mask) in enumerate(((0.5, 1.0), (-2.0, 0.0))):
        told = torch.cat([given[0, row], torch.tensor([mask])])
        wanted = inner.weight @ (x[0, row] + strength * gain * given[0, row]) + inner.bias
        wanted = wanted + strength * layer.extra @ told
        torch.testing.assert_close(found[row], wanted)


def widened(variant: Variant) -> Any:
    bundle: Any = able(variant)
    if bundle.inpainting != "widened":
        pytest.skip("its own input is told of what is given, and of nothing else")
    return bundle


def with_spectra(bundle: Bundle, seconds: float = 1.2) -> Any:
    """A clip that says half a second over and over."""
    once = noise(bundle, 0.4, seed=2).samples
    audio = Audio(np.tile(once, 3), bundle.sample_rate_hz)
    clip = replace(example(bundle, seconds), codes=bundle.encode_audio(audio))
    heard = spectra(audio, bundle.frame_rate_hz, clip.frames)
    return replace(clip, spectra=torch.from_numpy(heard)), audio


def test_what_is_missing_is_told_as_the_same_sound_says_it_elsewhere(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
):
    """In training and in generation alike; of a clip without spectra nothing is told."""
    monkeypatch.setattr(repeats, "_SHORTEST_S", 0.1)
    bundle = widened(variant)
    adapter = shaken(attached(bundle, plain=0.0, masks=("span",)))
    clip, audio = with_spectra(bundle)
    dumb = replace(clip, spectra=None)
    batch = bundle.collate([clip, dumb], [1, 1])
    given = bundle.module.holes.given([1], batch.frames[:1], batch.codes.shape[-1])[0]
    size = clip.frames
    named = sources(clip.spectra, given[:size], bundle.frame_rate_hz)
    with torch.no_grad():
        ((total, _),) = bundle.module(batch).values()
    assert not torch.isclose(total[0], total[1], rtol=1e-3)
    first = bundle.components[bundle.input_place[0]].get_submodule(bundle.input_place[1])
    told = first.told[..., :-1].transpose(1, 2) * ~batch.text["given"][:, None]
    assert torch.equal(told[0, :, :size], repeated(clip.codes, named))
    assert bool((named[~given[:size]] >= 0).all())
    assert not bool(told[0, :, size:].any())
    assert not bool(told[1].any())
    begin, end = (int(x) for x in (~given[:size]).nonzero()[[0, -1], 0])
    span = (begin / bundle.frame_rate_hz, (end + 1) / bundle.frame_rate_hz)
    settings = GenerationSettings(guidance=3.0, steps=1)
    bundle.remake_codes(["x", "y"], [Source(audio, spans=(span,))] * 2, [1, 2], settings)
    assert first.told.shape[0] == 4
    for row in first.told:
        torch.testing.assert_close(row[begin : end + 1, :-1].T, told[0, :, begin : end + 1])
        assert not bool(row[begin : end + 1, -1].any())
    bundle.generate_codes(["x"], 1.2, [1], settings, [Audio(audio.samples[:, :-500], 1600)])
    assert bool(first.told[:, size - 5 : size, :-1].any())

    adapter.detach()
    assert not bundle.module.repeats
    shaken(attached(bundle, plain=0.0, repeats=False))
    assert "spectra" not in bundle.collate([clip], [1]).text


@pytest.mark.parametrize("plain", [0.0, 0.1])
def test_guidance_leads_away_from_nothing_given_where_that_was_learnt(
    variant: Variant, plain: float
):
    bundle = widened(variant)
    shaken(attached(bundle, plain=plain))
    settings = GenerationSettings(guidance=3.0, steps=1)
    source = Source(noise(bundle, 1.2, seed=2), spans=((0.4, 0.8),))
    bundle.remake_codes(["x", "y"], [source] * 2, [1, 2], settings)
    first = bundle.components[bundle.input_place[0]].get_submodule(bundle.input_place[1])
    away, toward = first.told.chunk(2)
    assert bool(toward.any())
    assert torch.equal(away, torch.zeros_like(toward) if plain else toward)


def test_saved_loaded_and_taken_off(variant: Variant, tmp_path: Path):
    bundle = able(variant)
    before = bits(bundle)
    adapter = shaken(attached(bundle))
    save_adapter(tmp_path, adapter, bundle, DETAILS)
    card = read_card(tmp_path)
    assert card["task"]["name"] == "inpaint"
    assert card["method"]["name"] == "lora"
    assert not card["linear"]
    for parameter in adapter.parameters().values():
        parameter.requires_grad_(False)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    wanted = losses(bundle, batch)
    fresh = variant.make()
    load_adapter(tmp_path, fresh)
    same = losses(fresh, fresh.collate(mixed(fresh), [1, 2, 3]))
    assert all(torch.equal(same[name], wanted[name]) for name in wanted)
    with pytest.raises(UserError, match="cannot be merged"):
        adapter.merge()
    adapter.detach()
    same_bits(bits(bundle), before)
    assert bundle.module.holes is None


def test_the_bare_base_is_measured_on_the_same_holes(variant: Variant):
    bundle = able(variant)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    plain = losses(bundle, batch)
    one = Beside("task", "inpaint", inpaint, inpaint.Config(plain=0.0))
    with as_taught(bundle, [one]):
        batch = bundle.collate(mixed(bundle), [1, 2, 3])
        bare = losses(bundle, batch)
    assert bundle.module.holes is None
    assert any(not torch.equal(bare[name], plain[name]) for name in bare)
    if bundle.inpainting == "widened":  # the new weights are zero, so only what is asked differs
        attach_all(bundle, lora, lora.Config(rank=4), [one], 0)
        close(losses(bundle, batch), bare, 1e-5)


def banded(bundle: Bundle, count: int = 3) -> list[Any]:
    """Clips, each with two versions that lack a band."""
    clips = mixed(bundle, count)
    return [
        replace(clip, banded=[clip.codes + 1.0 + n, clip.codes - 1.0 - n])
        for n, clip in enumerate(clips)
    ]


def test_a_missing_band_is_heard_as_such(variant: Variant):
    """Of a row with a missing band all is learned, and its band-less latents are what is given."""
    bundle = able(variant)
    config = inpaint.Config(masks=("band",), plain=0.0)
    if bundle.inpainting == "own":
        (fault,) = inpaint.check(bundle, config)
        assert fault.key == "task.masks"
        return
    clips = banded(bundle)
    batch = bundle.collate(clips, [1, 2, 3])
    whole = {name: count.clone() for name, count in bundle.module.count(batch).items()}
    adapter = shaken(attached(bundle, masks=("band",), plain=0.0))
    batch = bundle.collate(clips, [1, 2, 3])
    counts = bundle.module.count(batch)
    assert all(torch.equal(counts[name], whole[name]) for name in counts)
    wanted = losses(bundle, batch)
    others = [replace(clip, banded=[x + 2.0 for x in clip.banded]) for clip in clips]
    told = losses(bundle, bundle.collate(others, [1, 2, 3]))
    assert any(not torch.allclose(told[name], wanted[name], rtol=1e-4) for name in told)
    # Which version it is comes from the seed, and is one of the two.
    rows = {name: value[0] for name, value in wanted.items()}
    alone = []
    for index in (0, 1):
        one = replace(clips[0], banded=[clips[0].banded[index]])
        found = losses(bundle, bundle.collate([one], [1]))
        alone.append(all(torch.allclose(found[n][0], rows[n], rtol=1e-4) for n in rows))
    assert alone.count(True) == 1
    adapter.detach()
    with pytest.raises(UserError, match="was not taught"):
        next(inpaint.fill_band(bundle, "x", noise(bundle, 0.8, seed=1), (200.0, 400.0)))


def test_a_band_is_made_anew_and_the_rest_stays(variant: Variant):
    bundle = able(variant)
    if bundle.inpainting == "own":
        pytest.skip("its input is of time alone")
    shaken(attached(bundle, masks=("band",), plain=0.0))
    audio = noise(bundle, 1.0, seed=1)
    (take,) = inpaint.fill_band(bundle, "x", audio, (200.0, 400.0), seed=3)
    assert take.audio.samples.shape == audio.samples.shape
    spectra = [np.abs(np.fft.rfft(x.samples[0])) for x in (audio, take.audio)]
    hz = np.fft.rfftfreq(audio.samples.shape[1], 1 / audio.sample_rate_hz)
    outside, inside = (hz < 150) | (hz > 500), (hz > 240) & (hz < 340)
    assert np.abs(spectra[1] - spectra[0])[outside].mean() < 0.05 * spectra[0][outside].mean()
    assert np.abs(spectra[1] - spectra[0])[inside].mean() > 0.2 * spectra[0][inside].mean()
    for wrong in ((400.0, 200.0), (-1.0, 5.0), (900.0, 1000.0)):
        with pytest.raises(UserError, match="is no band"):
            next(inpaint.fill_band(bundle, "x", audio, wrong))


def test_samples_outside_of_the_holes_come_back_as_they_were(variant: Variant):
    bundle = able(variant)
    audio = noise(bundle, 1.0, seed=1)
    rate = bundle.sample_rate_hz
    takes = list(inpaint.inpaint(bundle, "x", audio, [(0.3, 0.5), (0.7, 0.8)], seed=4, count=2))
    assert [take.seed for take in takes] == [4, 5]
    for take in takes:
        assert take.audio.samples.shape == audio.samples.shape
        fade = round(inpaint.FADE_S * rate) + 1
        outside = np.ones(audio.samples.shape[1], bool)
        for begin, end in ((0.3, 0.5), (0.7, 0.8)):
            outside[round(begin * rate) - fade : round(end * rate) + fade] = False
        assert outside.sum() > 0.5 * rate
        assert np.array_equal(take.audio.samples[:, outside], audio.samples[:, outside])
        inside = slice(round(0.3 * rate), round(0.5 * rate))
        apart = np.abs(take.audio.samples[:, inside] - audio.samples[:, inside])
        assert apart.mean() > 0.01
    assert not np.array_equal(takes[0].audio.samples, takes[1].audio.samples)


def test_a_long_recording_is_heard_around_its_hole(variant: Variant):
    bundle = able(variant)
    rate = bundle.sample_rate_hz
    audio = noise(bundle, bundle.max_s + 1.5, seed=1)
    hole = (bundle.max_s + 0.2, bundle.max_s + 0.5)
    (take,) = inpaint.inpaint(bundle, "x", audio, [hole])
    assert take.audio.samples.shape == audio.samples.shape
    different = np.flatnonzero((take.audio.samples != audio.samples).any(axis=0))
    fade = inpaint.FADE_S * rate + 1
    assert different.min() >= hole[0] * rate - fade
    assert different.max() <= hole[1] * rate + fade
    with pytest.raises(UserError, match="one after the other"):
        next(inpaint.inpaint(bundle, "x", audio, [(0.0, bundle.max_s + 0.5)]))


def test_a_recording_of_another_rate_keeps_its_own(variant: Variant):
    bundle = able(variant)
    plain = noise(bundle, 1.0, seed=1).samples[:1]
    audio = type(noise(bundle, 0.1, 1))(np.tile(plain, (3 - bundle.channels, 1)), 2200)
    (take,) = inpaint.inpaint(bundle, "x", audio, [(0.2, 0.4)])
    assert take.audio.sample_rate_hz == 2200
    assert take.audio.samples.shape == audio.samples.shape
    different = np.flatnonzero((take.audio.samples != audio.samples).any(axis=0))
    assert different.min() >= 0.2 * 2200 - 0.011 * 2200
    assert different.max() <= 0.4 * 2200 + 0.011 * 2200
    assert len(different) > 0.19 * 2200


def test_edits_go_by_degrees(variant: Variant):
    bundle = able(variant)
    audio = noise(bundle, 0.8, seed=1)
    codec = bundle.decode_audio(bundle.encode_audio(audio)).samples
    apart = []
    for change in (0.0, 0.5, 1.0):
        (take,) = edit(bundle, ["x"], audio, change, seed=2)
        assert take.audio.samples.shape == audio.samples.shape
        apart.append(np.abs(take.audio.samples - codec[:, : audio.samples.shape[1]]).mean())
    assert apart[0] < 1e-5
    assert apart[0] < apart[1]
    assert apart[0] < apart[2]
    with pytest.raises(UserError, match="a change of"):
        next(edit(bundle, ["x"], audio, 1.5))


@pytest.mark.parametrize(
    "spans", [[], [(0.5, 0.4)], [(-0.1, 0.2)], [(0.5, 5.0)], [(2.0, 3.0)]], ids=str
)
def test_spans_that_a_recording_does_not_have(spans: list[tuple[float, float]]):
    with pytest.raises(UserError, match="span"):
        inpaint.check_spans(spans, 1.0)


def test_a_family_that_cannot_says_why(variant: Variant):
    bundle = unable(variant)
    (fault,) = inpaint.check(bundle, inpaint.Config())
    assert fault.key == "task.name"
    with pytest.raises(UserError, match="holes"):
        attached(bundle)
    audio = noise(bundle, 0.8, seed=1)
    with pytest.raises(UserError, match="left to right"):
        next(inpaint.inpaint(bundle, "x", audio, [(0.2, 0.4)]))
    with pytest.raises(UserError, match="left to right"):
        next(edit(bundle, ["x"], audio, 0.5))


def test_a_hole_that_reaches_the_end_is_a_continuation(variant: Variant):
    bundle = unable(variant)
    audio = noise(bundle, 0.8, seed=1)
    source = Source(audio, spans=((0.4, 0.8),))
    (found,) = bundle.remake_codes(["x"], [source], [3], bundle.sampling)
    given = bundle.encode_audio(audio)
    assert found.shape == given.shape
    known = round(0.4 * bundle.frame_rate_hz)
    cut = type(audio)(audio.samples[:, : round(0.4 * audio.sample_rate_hz)], audio.sample_rate_hz)
    assert torch.equal(found[:, :known].long(), bundle.encode_audio(cut)[:, :known].long())
