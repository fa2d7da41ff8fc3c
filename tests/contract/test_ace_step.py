"""Our ACE-Step is ACE-Step: held against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ace_step import SONG, opened, pipeline, save_ace_step
from cells import example, mixed, noise
from diffusers.models.transformers.ace_step_transformer import AceStepAttnProcessor2_0

from tunesmith.families.ace_step import tiny
from tunesmith.families.ace_step.sample import PURPOSE, levels
from tunesmith.families.ace_step.words import stacked
from tunesmith.objectives.holes import Holes
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import timesteps
from tunesmith.types import GenerationSettings, Source

THEIRS = {
    "lyrics": SONG["lyrics"],
    "vocal_language": "de",
    "bpm": 97,
    "keyscale": "F# minor",
    "timesignature": "3",
}
CASES = [
    ("a hum", {}, {"lyrics": ""}),
    ("something a good deal longer", SONG, THEIRS),
    ("", {"bpm": 120}, {"lyrics": "", "bpm": 120}),
    ("x" * 400, {}, {"lyrics": ""}),  # cut, as it is there
]
GUIDANCE = pytest.mark.parametrize("guidance", [1.0, 4.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ace_step(tmp_path_factory.mktemp("bases") / "ace", seed=3)


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ace_step(tmp_path_factory.mktemp("bases") / "turbo", seed=3, turbo=True)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Any:
    return opened(folder)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return pipeline(folder)


def shown(pipe: Any, **options: Any) -> list[dict[str, Any]]:
    """What the pipeline's transformer is shown, call by call."""
    seen: list[dict[str, Any]] = []

    def spy(module: Any, args: Any, given: Any) -> None:
        seen.append(given)

    handle = pipe.transformer.register_forward_pre_hook(spy, with_kwargs=True)
    try:
        pipe(**options, output_type="latent")
    finally:
        handle.remove()
    return seen


# --- what the transformer is told ---


@pytest.mark.parametrize(("caption", "ours", "theirs"), CASES)
def test_conditioning_is_the_pipelines_own_bit_for_bit(
    bundle: Any, pipe: Any, caption: str, ours: dict[str, Any], theirs: dict[str, Any]
):
    (seen, *_) = shown(
        pipe,
        prompt=caption,
        audio_duration=1.2,
        num_inference_steps=2,
        guidance_scale=3.0,
        **theirs,
    )
    (row,) = bundle.encode_text([caption], [{**ours, "duration_s": 1.2}])
    with torch.no_grad():
        for lost, which in ((False, slice(0, 1)), (True, slice(1, 2))):
            told = bundle.module.conditions(stacked([row], [lost]))
            assert torch.equal(told.packed, seen["encoder_hidden_states"][which])
            assert told.mask is None
        beside = bundle.module.surroundings(1, 30)
    assert torch.equal(beside, seen["context_latents"][:1])
    assert torch.equal(beside[..., 8:], torch.ones(1, 30, 8))
    assert torch.equal(seen["timestep"], seen["timestep_r"])


def test_a_row_is_told_the_same_in_a_batch(bundle: Any):
    details = [{**ours, "duration_s": 1.0} for _, ours, _ in CASES]
    rows = bundle.encode_text([caption for caption, _, _ in CASES], details)
    lost = [False, False, True, False]
    with torch.no_grad():
        told = bundle.module.conditions(stacked(rows, lost))
        for number, row in enumerate(rows):
            alone = bundle.module.conditions(stacked([row], [lost[number]]))
            length = alone.packed.shape[1]
            assert int(told.present[number].sum()) == length
            torch.testing.assert_close(
                told.packed[number, :length], alone.packed[0], rtol=1e-5, atol=1e-5
            )


# --- attention, loss ---


def test_the_velocity_is_diffusers_own_bit_for_bit(folder: Path, pipe: Any):
    bundle = opened(folder)
    module = bundle.module
    clips = [example(bundle, 0.6, "a hum", seed=n) for n in range(2)]
    batch = bundle.collate(clips, [1, 2])
    t = torch.tensor([0.1, 0.7])
    with torch.no_grad():
        told = module.conditions(batch.text)
        beside = module.surroundings(2, batch.codes.shape[-1])
        ours = module.velocity(batch.codes, t, told, beside)
        theirs = pipe.transformer(
            hidden_states=batch.codes.transpose(1, 2),
            timestep=t,
            timestep_r=t,
            encoder_hidden_states=told.packed,
            context_latents=beside,
            return_dict=False,
        )[0]
    assert batch.codes.shape[-1] % 2 == 1  # the last patch is half empty
    assert isinstance(pipe.transformer.layers[0].self_attn.processor, AceStepAttnProcessor2_0)
    assert torch.equal(ours.transpose(1, 2), theirs)


def test_the_loss_by_hand():
    """Row by row, frame by frame, from diffusers' own transformer."""
    bundle: Any = tiny(0)
    module = bundle.module
    clips = mixed(bundle)
    batch = bundle.collate(clips, [5, 6, 7])
    with torch.no_grad():
        (total, count) = module(batch)["velocity"]
        for row, clip in enumerate(clips):
            data = clip.codes[None]
            t = timesteps([5 + row], "logit_normal", mean=-0.4, std=1.0, greatest_of=2)
            epsilon = noise_like(data, [5 + row])
            noisy = (1 - t) * data + t * epsilon
            silence = module.conditioner.silence_latent[:, : clip.frames]
            said = module.transformer(
                hidden_states=noisy.transpose(1, 2),
                timestep=t,
                timestep_r=t,
                encoder_hidden_states=module.conditions(stacked([clip.text], [False])).packed,
                context_latents=torch.cat([silence, torch.ones_like(silence)], dim=-1),
                return_dict=False,
            )[0].transpose(1, 2)
            by_hand = sum(
                float((said - (epsilon - data))[0, :, frame].square().mean())
                for frame in range(clip.frames)
            )
            assert float(count[row]) == clip.frames
            assert float(total[row]) == pytest.approx(by_hand, rel=1e-4)


def test_rows_with_holes_are_shown_what_repainting_shows(folder: Path, pipe: Any):
    bundle = opened(folder)
    module = bundle.module
    sound = noise(bundle, 1.2, seed=2)
    wave = torch.from_numpy(sound.samples)
    (seen, *_) = shown(
        pipe,
        prompt="a hum",
        task_type="repaint",
        src_audio=wave,
        repainting_start=0.4,
        repainting_end=0.8,
        audio_duration=1.2,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
    )
    latents = seen["context_latents"][:1, :, :8].transpose(1, 2)  # theirs are drawn, not the mean
    given = torch.ones(1, 30, dtype=torch.bool)
    given[:, 10:20] = False
    (row,) = bundle.encode_text(["a hum"], [{"duration_s": 1.2}])
    other = bundle.encode_text(["longer than a hum by far"], [{"duration_s": 1.2}])[0]
    with torch.no_grad():
        beside = module.surroundings(1, 30, latents, given)
        told = module.conditions(stacked([row], [False]), repainted=torch.tensor([True]))
        two = module.conditions(
            stacked([other, row], [False, False]), repainted=torch.tensor([False, True])
        )
        plain = module.conditions(stacked([other], [False]))
    assert torch.equal(beside, seen["context_latents"][:1])
    assert torch.equal(told.packed, seen["encoder_hidden_states"][:1])
    for number, alone in enumerate((plain, told)):
        length = alone.packed.shape[1]
        assert int(two.present[number].sum()) == length
        torch.testing.assert_close(
            two.packed[number, :length], alone.packed[0], rtol=1e-5, atol=1e-5
        )
    module.holes = Holes(plain=0.0)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    together = module(batch)["velocity"][0]
    for number, clip in enumerate(mixed(bundle)):
        alone = module(bundle.collate([clip], [number + 1]))["velocity"][0]
        torch.testing.assert_close(alone[0], together[number], rtol=1e-4, atol=1e-4)


# --- sampling ---


@GUIDANCE
@pytest.mark.parametrize(("caption", "ours", "theirs"), CASES[:3])
def test_sampling_is_the_pipelines_own(
    bundle: Any,
    pipe: Any,
    guidance: float,
    caption: str,
    ours: dict[str, Any],
    theirs: dict[str, Any],
):
    seed, steps = 11, 12
    settings = GenerationSettings(guidance=guidance, steps=steps)
    (found,) = bundle.generate_codes([caption], 0.9, [seed], settings, details=[ours])
    start = noise_like(torch.zeros(1, *found.shape), [seed], purpose=PURPOSE)
    made = pipe(
        caption,
        audio_duration=0.9,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=start.transpose(1, 2),
        output_type="latent",
        **theirs,
    ).audios
    torch.testing.assert_close(found, made[0].transpose(0, 1), rtol=1e-5, atol=1e-5)


@GUIDANCE
def test_several_prompts_of_one_length(bundle: Any, pipe: Any, guidance: float):
    """Only then: of other lengths, the pipeline lets what fills the shorter ones be seen."""
    seeds = [3, 4]
    settings = GenerationSettings(guidance=guidance, steps=6)
    found = torch.stack(bundle.generate_codes(["a hum", "a cry"], 0.6, seeds, settings))
    start = noise_like(torch.zeros_like(found), seeds, purpose=PURPOSE)
    made = pipe(
        ["a hum", "a cry"],
        ["", ""],
        audio_duration=0.6,
        num_inference_steps=6,
        guidance_scale=guidance,
        latents=start.transpose(1, 2),
        output_type="latent",
    ).audios
    torch.testing.assert_close(found, made.transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_a_turbo_takes_eight_steps_without_guidance(turbo: Path):
    bundle, pipe = opened(turbo), pipeline(turbo)
    assert bundle.untrainable.startswith("it is a turbo")
    assert bundle.settings == ("steps",)
    assert (bundle.sampling.guidance, bundle.sampling.steps) == (1.0, 8)
    for settings in (bundle.sampling, GenerationSettings(guidance=5.0)):
        (found,) = bundle.generate_codes(["a hum"], 0.9, [5], settings)
        start = noise_like(torch.zeros(1, *found.shape), [5], purpose=PURPOSE)
        made = pipe(
            "a hum", audio_duration=0.9, latents=start.transpose(1, 2), output_type="latent",
            guidance_scale=1.0,
        ).audios  # fmt: skip
        torch.testing.assert_close(found, made[0].transpose(0, 1), rtol=1e-5, atol=1e-5)


def test_levels_are_the_pipelines(pipe: Any):
    for steps, shift in ((8, 3.0), (50, 3.0), (7, 1.0)):
        theirs = pipe._get_timestep_schedule(steps, shift, dtype=torch.float32)
        assert levels(steps, shift) == theirs.tolist()
    assert levels(8, 3.0, most=0.6)[0] == 0.6
    assert levels(8, 3.0, most=0.6) == sorted(levels(8, 3.0, most=0.6), reverse=True)


def test_nothing_said_is_unconditional(bundle: Any):
    """An empty prompt is the null state; with lyrics or a tempo it is not."""
    settings = GenerationSettings(guidance=1.0)
    (plain,) = bundle.generate_codes([""], 0.4, [1], settings)
    (guided,) = bundle.generate_codes([""], 0.4, [1], GenerationSettings(guidance=5.0))
    (told,) = bundle.generate_codes([""], 0.4, [1], settings, details=[{"bpm": 120}])
    assert bool(torch.isfinite(guided).all())
    torch.testing.assert_close(plain, guided, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, told, atol=1e-2)


# --- recordings made anew ---


def test_what_is_kept_stays_and_what_is_asked_for_is_new(bundle: Any):
    source = Source(noise(bundle, 0.8, seed=2), spans=((0.2, 0.4),))
    given = bundle.encode_audio(source.audio)
    (found,) = bundle.remake_codes(["x"], [source], [1], GenerationSettings(guidance=3.0))
    hole = torch.zeros(given.shape[1], dtype=torch.bool)
    hole[5:10] = True  # 0.2 to 0.4 s at 25 frames a second
    assert found.shape == given.shape
    assert torch.equal(found[:, ~hole], given[:, ~hole])
    assert bundle.mismatch(given[:, hole], found[:, hole]) > 0.3


def test_strength_goes_from_the_recording_to_none_of_it(bundle: Any):
    audio = noise(bundle, 0.8, seed=2)
    given = bundle.encode_audio(audio)
    settings = GenerationSettings(guidance=1.0)
    apart = []
    for strength in (0.0, 0.1, 0.5, 1.0):
        (found,) = bundle.remake_codes(["x"], [Source(audio, strength=strength)], [1], settings)
        apart.append(float((found - given).square().mean()))
    assert apart[0] == 0
    assert apart == sorted(apart)
    (plain,) = bundle.generate_codes(["x"], 0.8, [1], settings)
    (whole,) = bundle.remake_codes(["x"], [Source(audio)], [1], settings)
    torch.testing.assert_close(whole, plain, rtol=1e-4, atol=1e-4)


def test_what_is_too_loud_is_made_softer(bundle: Any):
    codes = 8 * bundle.encode_audio(noise(bundle, 0.8, seed=2))
    with torch.no_grad():
        wave = bundle.codec.decode(codes[None]).sample[0].numpy()
    assert np.abs(wave).max() > 1
    found = bundle.decode_audio(codes).samples
    np.testing.assert_allclose(found, wave / np.abs(wave).max(), rtol=1e-5, atol=1e-6)


def test_long_sounds_go_through_the_autoencoder_in_parts(bundle: Any):
    """Half a minute more than one part holds; where parts meet, it is as if there were none."""
    codec = bundle.codec
    frames = codec.tile_latent_min_length + 300
    sound = noise(bundle, frames / bundle.frame_rate_hz, seed=2)
    ours = bundle.encode_audio(sound)
    made = bundle.decode_audio(ours).samples
    codec.use_tiling = False
    try:
        whole = bundle.encode_audio(sound)
        once = bundle.decode_audio(ours).samples
    finally:
        codec.use_tiling = True
    assert ours.shape == whole.shape == (8, frames)
    torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(made, once, rtol=1e-4, atol=1e-4)
