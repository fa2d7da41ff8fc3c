"""Our Stable Audio 3 is Stable Audio 3: held against diffusers' own pipelines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import example, mixed, noise
from diffusers import (
    StableAudio3AudioToAudioPipeline,
    StableAudio3InpaintPipeline,
    StableAudio3Pipeline,
)
from diffusers.models.transformers.transformer_stable_audio3 import (
    StableAudio3CrossAttnProcessor,
    StableAudio3SelfAttnProcessor,
)
from tiny import save_stable_audio_3

from tunesmith.families import find_base, load
from tunesmith.families.stable_audio_3 import tiny
from tunesmith.families.stable_audio_3.bundle import _stacked
from tunesmith.families.stable_audio_3.loss import length_shift, told_of
from tunesmith.families.stable_audio_3.sample import PURPOSE
from tunesmith.objectives.holes import Holes
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import timesteps
from tunesmith.types import GenerationSettings, Source

PROMPTS = ["a hum", "something a good deal longer"]
GUIDANCE = pytest.mark.parametrize("guidance", [1.0, 4.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_audio_3(tmp_path_factory.mktemp("bases") / "sa3", seed=3)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bases") / "sa3-distilled"
    return save_stable_audio_3(path, seed=3, distilled=True)


def opened(folder: Path) -> Any:
    return load(find_base(str(folder)))


def pipeline(folder: Path, kind: Any = StableAudio3Pipeline) -> Any:
    from tunesmith.families._diffusers import quiet

    with quiet():
        pipe: Any = kind.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def first_noise(seeds: list[int], frames: int) -> torch.Tensor:
    return noise_like(torch.zeros(len(seeds), 8, frames), seeds, purpose=PURPOSE)


def draws(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# --- what the transformer is told ---


@pytest.mark.parametrize("text", [*PROMPTS, "x" * 300, ""])
def test_conditioning_is_the_pipelines_own_bit_for_bit(folder: Path, text: str):
    bundle, pipe = opened(folder), pipeline(folder)
    words = _stacked(bundle.encode_text([text]))
    with torch.no_grad():
        ours = bundle.module.conditions(words, torch.tensor([0.7]))
        theirs, present = pipe.encode_prompt([text], "cpu", 1)
        timing = pipe.encode_duration(0.7, "cpu", 1, 1)
        states, present = pipe.prepare_cross_attention(theirs, present, timing)
    assert torch.equal(ours.states, states)
    assert torch.equal(ours.present, present)
    assert torch.equal(ours.timing, timing)
    assert ours.mask is None
    assert bool(theirs.any())


def test_a_row_without_its_caption_is_what_the_pipeline_guides_away_from(folder: Path):
    bundle, pipe = opened(folder), pipeline(folder)
    seen: list[dict[str, torch.Tensor]] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, options: seen.append(options), with_kwargs=True
    )
    pipe(PROMPTS, duration=0.5, num_inference_steps=2, guidance_scale=3.0)
    handle.remove()
    clips = [example(bundle, 0.5, text) for text in PROMPTS]
    for drop, rows in ((1.0, slice(0, 2)), (0.0, slice(2, 4))):
        batch = bundle.collate(clips, [1, 2], drop=drop)
        with torch.no_grad():
            told = bundle.module.conditions(batch.text, torch.tensor([0.5, 0.5]))
        torch.testing.assert_close(
            told.states, seen[0]["encoder_hidden_states"][rows], rtol=0, atol=1e-5
        )
        assert torch.equal(told.present, seen[0]["encoder_attention_mask"][rows])
        torch.testing.assert_close(
            told.timing, seen[0]["global_hidden_states"][rows], rtol=0, atol=1e-6
        )
    assert "local_add_cond" not in seen[0]


# --- the transformer ---


def plain(transformer: Any) -> Any:
    """The transformer with diffusers' own attention."""
    for block in transformer.transformer_blocks:
        block.self_attn.set_processor(StableAudio3SelfAttnProcessor())
        block.cross_attn.set_processor(StableAudio3CrossAttnProcessor())
    return transformer


@pytest.mark.parametrize("given", [False, True])
def test_what_the_transformer_says_is_diffusers_own_bit_for_bit(folder: Path, given: bool):
    bundle = opened(folder)
    module = bundle.module
    clips = [example(bundle, 0.5, text, seed=n) for n, text in enumerate(PROMPTS)]
    batch = bundle.collate(clips, [1, 2])
    t = torch.tensor([0.2, 0.7])
    keep = torch.zeros(2, 13, dtype=torch.bool)
    keep[:, :5] = True
    local = told_of(batch.codes, keep) if given else None
    with torch.no_grad():
        told = module.conditions(batch.text, torch.tensor([0.5, 0.5]))
        ours = module.velocity(batch.codes, t, told, given=local)
        theirs = [
            made(
                batch.codes,
                t,
                encoder_hidden_states=told.states,
                encoder_attention_mask=told.present,
                global_hidden_states=told.timing,
                local_add_cond=local,
                return_dict=False,
            )[0]
            for made in (module.transformer, plain(module.transformer))
        ]
    assert torch.equal(ours, theirs[0])
    assert torch.equal(ours, theirs[1])


def test_given_sound_makes_a_difference(folder: Path):
    """Else the tests of inpainting would pass with a model that does not hear it."""
    bundle = opened(folder)
    batch = bundle.collate([example(bundle, 0.5)], [1])
    with torch.no_grad():
        told = bundle.module.conditions(batch.text, torch.tensor([0.5]))
        said = [
            bundle.module.velocity(batch.codes, torch.tensor([0.5]), told, given=given)
            for given in (None, told_of(batch.codes, torch.ones(1, 13, dtype=torch.bool)))
        ]
    assert float((said[0] - said[1]).abs().mean()) > 0.05


# --- the loss ---


def test_times_shift_with_the_length_as_in_its_own_trainer():
    """1 − e^μ / (e^μ + 1/(1 − t) − 1), as ``DistributionShift`` has it, at the published settings."""
    frames = [10, 256, 1000, 4096, 9000]
    found = length_shift(frames)
    for length, s in zip(frames, found.tolist(), strict=True):
        clamped = min(max(length, 256), 4096)
        mu = -(0.5 + (1.15 - 0.5) * (clamped - 256) / (4096 - 256))
        for t in (0.1, 0.5, 0.9):
            theirs = 1 - math.exp(mu) / (math.exp(mu) + (1 / (1 - t) - 1))
            assert s * t / (1 + (s - 1) * t) == pytest.approx(theirs, rel=1e-5)


def test_the_loss_by_hand():
    """Row by row, from the plain transformer, each as long as it is."""
    bundle: Any = tiny(0)
    module = bundle.module
    batch = bundle.collate(mixed(bundle), [5, 6, 7])
    transformer = plain(tiny(0).module.transformer)
    s = math.exp(0.5)
    with torch.no_grad():
        (total, count) = module(batch)["velocity"]
        for row in range(3):
            frames = int(batch.frames[row])
            data = batch.codes[row : row + 1, :, :frames]
            u = timesteps([5 + row], "truncated_logit_normal")
            t = s * u / (1 + (s - 1) * u)
            epsilon = noise_like(data, [5 + row])
            text = {name: value[row : row + 1] for name, value in batch.text.items()}
            told = module.conditions(text, torch.tensor([frames / 25]))
            said = transformer(
                (1 - t) * data + t * epsilon,
                t,
                encoder_hidden_states=told.states,
                encoder_attention_mask=told.present,
                global_hidden_states=told.timing,
                return_dict=False,
            )[0]
            by_hand = float((said - (epsilon - data)).square().mean(dim=1).sum())
            assert float(count[row]) == frames
            assert float(total[row]) == pytest.approx(by_hand, rel=1e-4)
    assert batch.frames.tolist() == [8, 13, 18]


def test_the_loss_of_sounds_with_holes_by_hand():
    """Where something is given the inpainting pipeline's input is fed; where nothing is, none."""
    bundle: Any = tiny(0)
    module = bundle.module
    batch = bundle.collate(mixed(bundle, 6), list(range(6)))
    module.holes = Holes(plain=0.5)
    given = module.holes.given(batch.seeds, batch.frames, batch.codes.shape[-1])
    hearing = []
    with torch.no_grad():
        (total, count) = module(batch)["velocity"]
        for row in range(6):
            frames = int(batch.frames[row])
            data, keep = batch.codes[row : row + 1, :, :frames], given[row : row + 1, :frames]
            hearing.append(bool(keep.any()))
            u = timesteps([row], "truncated_logit_normal")
            t = math.exp(0.5) * u / (1 + (math.exp(0.5) - 1) * u)
            epsilon = noise_like(data, [row])
            text = {name: value[row : row + 1] for name, value in batch.text.items()}
            told = module.conditions(text, torch.tensor([frames / 25]))
            local = torch.cat([keep[:, None].float(), data * keep[:, None]], dim=1)
            local = local if hearing[-1] else None
            said = module.velocity((1 - t) * data + t * epsilon, t, told, given=local)
            apart = (said - (epsilon - data)).square().mean(dim=1)
            assert float(count[row]) == float((~keep).sum())
            assert float(total[row]) == pytest.approx(float(apart[~keep].sum()), rel=1e-4)
    assert set(hearing) == {False, True}


# --- sampling ---


@GUIDANCE
def test_sampling_is_the_pipelines_own(folder: Path, guidance: float):
    bundle, pipe = opened(folder), pipeline(folder)
    seeds = [11, 12]
    ours = bundle.generate_codes(
        PROMPTS, 0.6, seeds, GenerationSettings(guidance=guidance, steps=12)
    )
    theirs = pipe(
        PROMPTS,
        duration=0.6,
        num_inference_steps=12,
        guidance_scale=guidance,
        latents=first_noise(seeds, 15),
        output_type="latent",
    ).audios
    torch.testing.assert_close(torch.stack(ours), theirs, rtol=1e-4, atol=1e-4)


def test_a_distilled_checkpoint_serves_and_does_not_train(distilled: Path, folder: Path):
    bundle, pipe = opened(distilled), pipeline(distilled)
    assert "distilled" in bundle.untrainable
    assert opened(folder).untrainable == ""
    assert (bundle.sampling.guidance, bundle.sampling.steps) == (1.0, 8)
    seeds = [11, 12]
    ours = bundle.generate_codes(PROMPTS, 0.6, seeds, bundle.sampling)
    theirs = pipe(
        PROMPTS,
        duration=0.6,
        latents=first_noise(seeds, 15),
        generator=draws(seeds),
        output_type="latent",
    ).audios
    torch.testing.assert_close(torch.stack(ours), theirs, rtol=1e-4, atol=1e-4)
    (alone,) = bundle.generate_codes(PROMPTS[1:], 0.6, [12], bundle.sampling)
    torch.testing.assert_close(alone, ours[1], rtol=1e-4, atol=1e-4)
    assert bundle.agreement(example(bundle, 0.5)) <= 1e-4


def test_sound_is_the_pipelines_own(folder: Path):
    """Sampled in whole frames, cut to the duration."""
    bundle, pipe = opened(folder), pipeline(folder)
    (ours,) = bundle.generate(["x"], 0.51, [3], GenerationSettings(guidance=1.0, steps=5))
    theirs = pipe("x", duration=0.51, num_inference_steps=5, latents=first_noise([3], 13)).audios
    assert ours.samples.shape == (2, 816)
    np.testing.assert_allclose(ours.samples, theirs[0].numpy(), atol=1e-4)


def test_as_many_steps_as_asked(folder: Path):
    bundle = opened(folder)
    calls: list[int] = []
    for settings, wanted in ((GenerationSettings(steps=7), 7), (GenerationSettings(), 20)):
        calls.clear()
        bundle.generate_codes(["a"], 0.2, [1], settings, should_stop=lambda: calls.append(1) or 0)
        assert len(calls) == wanted


# --- recordings made anew ---


def sounds(bundle: Any, seconds: float, count: int = 2) -> list[Any]:
    return [noise(bundle, seconds, seed=n + 2) for n in range(count)]


def together(audios: list[Any]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(audio.samples) for audio in audios])


def test_holes_are_filled_as_the_inpainting_pipeline_fills_them(folder: Path):
    bundle, pipe = opened(folder), pipeline(folder, StableAudio3InpaintPipeline)
    audios, seeds = sounds(bundle, 0.8), [11, 12]
    spans = [((0.2, 0.4),), ((0.0, 0.11), (0.6, 0.8))]
    mask = torch.ones(2, 1, 20)
    mask[0, :, 5:10] = 0  # 25 frames a second
    mask[1, :, :3] = 0
    mask[1, :, 15:] = 0
    sources = [Source(audio, spans=one) for audio, one in zip(audios, spans, strict=True)]
    settings = GenerationSettings(guidance=1.0, steps=12)
    ours = torch.stack(bundle.remake_codes(PROMPTS, sources, seeds, settings))
    theirs = pipe(
        PROMPTS,
        duration=0.8,
        audio=together(audios),
        mask=mask,
        num_inference_steps=12,
        latents=first_noise(seeds, 20),
        output_type="latent",
    ).audios
    hole = (mask == 0).expand_as(ours)
    torch.testing.assert_close(ours[hole], theirs[hole], rtol=1e-4, atol=1e-4)
    given = torch.stack([bundle.encode_audio(audio) for audio in audios])
    assert torch.equal(ours[~hole], given[~hole])
    assert bundle.mismatch(given[hole], ours[hole]) > 0.3
    plain = torch.stack(bundle.generate_codes(PROMPTS, 0.8, seeds, settings))
    assert not torch.allclose(plain[hole], ours[hole], atol=1e-2)


def test_a_continuation_is_what_the_inpainting_pipeline_makes_of_its_end(folder: Path):
    bundle, pipe = opened(folder), pipeline(folder, StableAudio3InpaintPipeline)
    audios, seeds = sounds(bundle, 0.4), [11, 12]
    mask = torch.zeros(2, 1, 25)
    mask[..., :10] = 1
    settings = GenerationSettings(guidance=1.0, steps=12)
    ours = torch.stack(bundle.generate_codes(PROMPTS, 1.0, seeds, settings, audios))
    theirs = pipe(
        PROMPTS,
        duration=1.0,
        audio=together(audios),
        mask=mask,
        num_inference_steps=12,
        latents=first_noise(seeds, 25),
        output_type="latent",
    ).audios
    torch.testing.assert_close(ours[..., 10:], theirs[..., 10:], rtol=1e-4, atol=1e-4)


def test_guidance_hears_what_is_given_on_both_sides(folder: Path):
    bundle = opened(folder)
    source = Source(noise(bundle, 0.8, seed=2), spans=((0.2, 0.4),))
    made = [
        bundle.remake_codes(["x"], [source], [1], GenerationSettings(guidance=guidance))[0]
        for guidance in (1.0, 1.0 + 1e-6, 5.0)
    ]
    torch.testing.assert_close(made[0], made[1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(made[0], made[2], atol=1e-2)


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
def test_a_recording_is_changed_by_degrees_as_the_pipeline_changes_it(
    folder: Path, strength: float
):
    bundle, pipe = opened(folder), pipeline(folder, StableAudio3AudioToAudioPipeline)
    audios, seeds = sounds(bundle, 0.8), [11, 12]
    sources = [Source(audio, strength=strength) for audio in audios]
    settings = GenerationSettings(guidance=1.0, steps=12)
    ours = bundle.remake_codes(PROMPTS, sources, seeds, settings)
    theirs = pipe(
        PROMPTS,
        duration=0.8,
        audio=together(audios),
        init_noise_level=strength,
        num_inference_steps=12,
        latents=first_noise(seeds, 20),
        output_type="latent",
    ).audios
    torch.testing.assert_close(torch.stack(ours), theirs, rtol=1e-4, atol=1e-4)


def test_without_strength_a_recording_stays(folder: Path):
    bundle = opened(folder)
    audio = noise(bundle, 0.8, seed=2)
    (found,) = bundle.remake_codes(["x"], [Source(audio, strength=0.0)], [1], GenerationSettings())
    assert torch.equal(found, bundle.encode_audio(audio))
