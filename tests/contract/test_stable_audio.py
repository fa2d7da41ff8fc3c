"""Our Stable Audio is Stable Audio: held against diffusers' own pipeline."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import bits, example, mixed, noise, shaken
from diffusers import StableAudioPipeline
from diffusers.models.attention_processor import StableAudioAttnProcessor2_0
from tiny import save_stable_audio

from tunesmith.analysis.repeats import BANDS
from tunesmith.errors import UserError
from tunesmith.families import base_limits, find_base, load, skeleton
from tunesmith.families.stable_audio import tiny
from tunesmith.families.stable_audio.bundle import StableAudioBundle, _stacked
from tunesmith.families.stable_audio.sample import PURPOSE
from tunesmith.formats.adapter import load_adapter, save_adapter
from tunesmith.methods import full, lora
from tunesmith.objectives import v_prediction
from tunesmith.objectives.noise import noise_like
from tunesmith.objectives.timesteps import timesteps
from tunesmith.types import Audio, GenerationSettings, Source

CHANNELS = pytest.mark.parametrize("channels", [1, 2])
PROMPTS = ["a hum", "something a good deal longer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_audio(tmp_path_factory.mktemp("bases") / "sao", seed=3)


def opened(folder: Path) -> Any:
    return load(find_base(str(folder)))


def pipeline(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe: Any = StableAudioPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- what the transformer is told ---


@pytest.mark.parametrize("text", [*PROMPTS, "x" * 300, ""])
def test_conditioning_is_the_pipelines_own_bit_for_bit(folder: Path, text: str):
    bundle, pipe = opened(folder), pipeline(folder)
    words = _stacked(bundle.encode_text([text]), [False])
    with torch.no_grad():
        ours = bundle.module.conditions(words, torch.tensor([0.7]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = pipe.encode_prompt([text], "cpu", False)
        begin, end = pipe.encode_duration(0.0, 0.7, "cpu", False, 1)
    assert ours.mask is None
    assert torch.equal(ours.states, torch.cat([theirs, begin, end], dim=1))
    assert torch.equal(ours.timing, torch.cat([begin, end], dim=2))
    assert bool(theirs.any())


def test_a_row_without_its_caption_is_what_the_pipeline_guides_away_from(folder: Path):
    """Zeros for words and times in cross-attention; the times before the latents stay."""
    bundle, pipe = opened(folder), pipeline(folder)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(module: Any, args: Any, options: Any) -> None:
        seen.append((options["encoder_hidden_states"], options["global_hidden_states"]))

    handle = pipe.transformer.register_forward_pre_hook(spy, with_kwargs=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the Brownian tree's ends
        pipe(PROMPTS, audio_end_in_s=0.5, num_inference_steps=2, guidance_scale=3.0)
    handle.remove()
    clips = [example(bundle, 0.5, text) for text in PROMPTS]
    frames = torch.tensor([12.5, 12.5])
    for drop, rows in ((1.0, slice(0, 2)), (0.0, slice(2, 4))):
        batch = bundle.collate(clips, [1, 2], drop=drop)
        with torch.no_grad():
            told = bundle.module.conditions(batch.text, frames / bundle.frame_rate_hz)
        torch.testing.assert_close(told.states, seen[0][0][rows], rtol=0, atol=1e-6)
        torch.testing.assert_close(told.timing, seen[0][1][rows], rtol=0, atol=1e-6)
        assert bool(told.states.any()) == (drop == 0)


def test_timing_follows_the_clip(folder: Path):
    bundle = opened(folder)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    seconds = batch.frames / bundle.frame_rate_hz
    assert seconds.tolist() == pytest.approx([0.32, 0.52, 0.72])  # 0.3, 0.5, 0.7 in whole frames
    told = bundle.module.conditions(batch.text, seconds)
    assert not torch.equal(told.timing[0], told.timing[1])


# --- attention, loss ---


def test_attention_without_a_child_is_diffusers_own_bit_for_bit(folder: Path):
    bundle = opened(folder)
    module = bundle.module
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    with torch.no_grad():
        told = module.conditions(batch.text, batch.frames / bundle.frame_rate_hz)
        ours = module.velocity(batch.codes, torch.tensor([0.1, 0.5, 0.9]), told)
        module.transformer.set_attn_processor(StableAudioAttnProcessor2_0())
        theirs = module.velocity(batch.codes, torch.tensor([0.1, 0.5, 0.9]), told)
    assert torch.equal(ours, theirs)


@CHANNELS
def test_the_loss_by_hand(channels: int):
    """Row by row, frame by frame, from the plain transformer; silence after a second is not learned."""
    bundle: Any = tiny(0, channels=channels)
    module = bundle.module
    module.tail = 3
    batch = bundle.collate(mixed(bundle), [5, 6, 7])
    quiet = bundle._silence()
    with torch.no_grad():
        (total, count) = module(batch)["velocity"]
        for row in range(3):
            frames = int(batch.frames[row])
            data = batch.codes[row : row + 1]
            assert torch.equal(data[0, :, frames:], quiet.expand(-1, module.window - frames))
            t = timesteps([5 + row])
            epsilon = noise_like(data, [5 + row])
            angle = t[0] * torch.pi / 2
            noisy = torch.cos(angle) * data + torch.sin(angle) * epsilon
            wanted = torch.cos(angle) * epsilon - torch.sin(angle) * data
            one = {name: value[row : row + 1] for name, value in batch.text.items()}
            told = module.conditions(one, batch.frames[row : row + 1] / bundle.frame_rate_hz)
            said = module.velocity(noisy, t, told)
            learned = min(frames + 3, module.window)
            by_hand = sum(
                float((said - wanted)[0, :, frame].square().mean()) for frame in range(learned)
            )
            assert float(count[row]) == learned
            assert float(total[row]) == pytest.approx(by_hand, rel=1e-4)


def test_silence_in_a_window_is_what_encoding_a_padded_clip_gives(folder: Path):
    bundle = opened(folder)
    sound = noise(bundle, 0.4, seed=1)
    whole = torch.zeros(1, bundle.channels, bundle.module.window * bundle.hop)
    whole[0, :, : sound.samples.shape[1]] = torch.from_numpy(sound.samples)
    with torch.no_grad():
        theirs = bundle.codec.encode(whole).latent_dist.mode()[0]
    ours = bundle._window([bundle.encode_audio(sound)])[0]
    frames = bundle.encode_audio(sound).shape[1]
    torch.testing.assert_close(ours[:, :frames], theirs[:, :frames], rtol=1e-4, atol=1e-4)
    middle = slice(frames + 8, -8)  # beyond what the sound and the window's end reach
    torch.testing.assert_close(ours[:, middle], theirs[:, middle], rtol=1e-4, atol=1e-4)


# --- sampling ---


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampling_is_the_pipelines_own(folder: Path, guidance: float):
    bundle, pipe = opened(folder), pipeline(folder)
    seeds = [11, 12]
    settings = GenerationSettings(guidance=guidance, steps=12)
    ours = bundle.generate_codes(PROMPTS, 0.6, seeds, settings)
    shape = torch.zeros(2, 8, bundle.module.window)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pipe(
            PROMPTS,
            audio_end_in_s=0.6,
            num_inference_steps=12,
            guidance_scale=guidance,
            latents=noise_like(shape, seeds, purpose=PURPOSE),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
        ).audios
    found = torch.stack(ours)
    torch.testing.assert_close(found, theirs[..., : found.shape[-1]], rtol=1e-4, atol=1e-4)


def test_more_steps_are_taken_when_asked(folder: Path):
    bundle = opened(folder)
    calls = []
    bundle.generate_codes(
        ["a"], 0.2, [1], GenerationSettings(steps=7), should_stop=lambda: calls.append(1) or 0
    )
    assert len(calls) == 7
    calls.clear()
    bundle.generate_codes(
        ["a"], 0.2, [1], GenerationSettings(), should_stop=lambda: calls.append(1) or 0
    )
    assert len(calls) == 20  # the folder's own


# --- recordings made anew ---


def source(bundle: Any, **changes: Any) -> Source:
    return Source(noise(bundle, 0.8, seed=2), **changes)


def test_what_is_kept_stays_and_what_is_asked_for_is_new(folder: Path):
    bundle = opened(folder)
    given = bundle.encode_audio(source(bundle).audio)
    settings = GenerationSettings(guidance=3.0)
    held = source(bundle, spans=((0.2, 0.4),))
    (found,) = bundle.remake_codes(["x"], [held], [1], settings)
    assert found.shape == given.shape
    hole = torch.zeros(given.shape[1], dtype=torch.bool)
    hole[5:10] = True  # 0.2 to 0.4 s at 25 frames a second
    assert torch.equal(found[:, ~hole], given[:, ~hole])
    assert bundle.mismatch(given[:, hole], found[:, hole]) > 0.3


def test_strength_goes_from_the_recording_to_none_of_it(folder: Path):
    bundle = opened(folder)
    given = bundle.encode_audio(source(bundle).audio)
    apart = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        one = source(bundle, strength=strength)
        (found,) = bundle.remake_codes(["x"], [one], [1], GenerationSettings(guidance=1.0))
        apart.append(float((found - given).square().mean()))
    assert apart[0] == 0
    assert apart == sorted(apart)
    plain = bundle.generate_codes(["x"], 0.8, [1], GenerationSettings(guidance=1.0))
    (whole,) = bundle.remake_codes(
        ["x"], [source(bundle, strength=1.0)], [1], GenerationSettings(guidance=1.0)
    )
    torch.testing.assert_close(whole, plain[0], rtol=1e-4, atol=1e-4)


# --- folders ---


def test_a_folder_in_the_hubs_layout(folder: Path):
    rate_hz, channels, max_s = base_limits(str(folder))
    bundle = opened(folder)
    assert (rate_hz, channels) == (bundle.sample_rate_hz, bundle.channels) == (1600, 2)
    assert max_s == bundle.max_s == pytest.approx(1.28)
    assert bundle.family == "stable_audio"
    bare = skeleton(find_base(str(folder)))
    assert {n: v.shape for n, v in bare.module.state_dict().items()} == {
        n: v.shape for n, v in bundle.module.state_dict().items()
    }
    assert all(parameter.device.type == "meta" for parameter in bare.module.parameters())


def test_the_first_trainers_copy_of_the_weights_is_not_read(folder: Path, tmp_path: Path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = opened(copy).base_hash
    (copy / "model.safetensors").write_bytes(b"of another layout")
    assert opened(copy).base_hash == before


def test_a_part_that_lacks_tensors_is_refused(folder: Path, tmp_path: Path):
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("proj_in.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="transformer lacks 1 tensors"):
        opened(copy)
    file.write_bytes(b"torn")
    with pytest.raises(UserError, match="transformer does not load"):
        opened(copy)


def test_another_pipelines_scheduler_is_refused(folder: Path, tmp_path: Path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    index = json.loads((copy / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "NoSuchScheduler"]
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="NoSuchScheduler"):
        opened(copy)


def test_exported_it_opens_in_the_plain_pipeline(folder: Path, tmp_path: Path):
    bundle = opened(folder)
    adapter = full.attach(bundle, full.Config())
    shaken(adapter, size=0.02)
    wanted = bits(bundle)
    bundle.export(tmp_path / "out")
    theirs = pipeline(tmp_path / "out").transformer.state_dict()
    for name, value in theirs.items():
        assert torch.equal(value, wanted[f"transformer.{name}"])


def test_a_lora_of_ours_opens_in_diffusers(folder: Path, tmp_path: Path):
    """PEFT's two files, put on the pipeline's transformer by diffusers' own adapter loader."""
    from peft import PeftModel

    bundle = opened(folder)
    adapter = shaken(lora.attach(bundle, lora.Config(rank=4)))
    save_adapter(tmp_path, adapter, bundle, {"step": 1, "steps": 1, "metrics": {}})
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    t = torch.tensor([0.2, 0.5, 0.8])
    with torch.no_grad():
        told = bundle.module.conditions(batch.text, batch.frames / bundle.frame_rate_hz)
        ours = bundle.module.velocity(batch.codes, t, told)
        plain = pipeline(folder).transformer
        apart = PeftModel.from_pretrained(plain, tmp_path / "adapter" / "transformer")
        theirs = apart(
            batch.codes,
            t,
            encoder_hidden_states=told.states,
            global_hidden_states=told.timing,
            rotary_embedding=bundle.module.rotary(batch.codes.shape[-1], torch.device("cpu")),
            return_dict=False,
        )[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    again = opened(folder)
    load_adapter(tmp_path, again)


def test_the_numbers_of_the_objective_are_the_schedulers(folder: Path):
    bundle = opened(folder)
    scheduler = bundle.scheduler
    scheduler.set_timesteps(20)
    t = scheduler.timesteps.float()
    torch.testing.assert_close(
        v_prediction.edm_sigma(t), scheduler.sigmas[:-1], rtol=1e-3, atol=1e-4
    )


def test_sound_as_long_as_it_was_asked_for(folder: Path):
    bundle = opened(folder)
    audio: Audio = bundle.generate(["x"], 0.5, [1])[0]
    assert audio.samples.shape == (2, 12 * 64)  # twelve whole frames


def test_what_is_cached_is_not_shared_with_another_family(tmp_path: Path):
    """Two families may have one and the same text encoder, and keep different things of it."""
    from tiny import write_data

    from tunesmith.data.encode import encode
    from tunesmith.data.load import load_dataset
    from tunesmith.families.musicgen import tiny as musicgen

    clips = load_dataset(write_data(tmp_path, (0.4, 0.5, 0.6)))
    ours, theirs = tiny(0, channels=1), musicgen(0)
    theirs._codec_hash, theirs._text_hash = ours.codec_hash, ours.text_hash
    for bundle in (theirs, ours):
        found = encode(clips, bundle)[0]
        assert found.text.keys() == bundle.encode_text(["x"])[0].keys()
        assert found.codes.shape[0] == (4 if bundle is theirs else 8)


def test_a_run_that_learns_to_fill_holes_has_spectra_of_its_clips(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tiny import write_data

    from tunesmith.config import load_config
    from tunesmith.training.run import train

    heard: list[Any] = []
    plain = StableAudioBundle.collate

    def listening(self: Any, examples: Any, *more: Any) -> Any:
        heard.extend((one.frames, one.spectra) for one in examples if one.spectra is not None)
        return plain(self, examples, *more)

    monkeypatch.setattr(StableAudioBundle, "collate", listening)
    data = write_data(tmp_path / "data", (0.6, 0.5, 0.8, 0.5))
    settings = {
        "base": str(folder),
        "data": str(data),
        "train.steps": 2,
        "train.eval_every": 1,
        "preview.every": 0,
        "method": "lora",
        "task.name": "inpaint",
    }
    for repeats in (True, False):
        more = {"out": str(tmp_path / f"run-{repeats}"), "task.repeats": repeats}
        train(load_config(settings=settings | more))
        assert bool(heard) == repeats
        for frames, one in heard:
            assert one.shape == (BANDS, frames)
            assert bool((one > -3).any())
        heard.clear()


def test_positions_made_while_sampling_serve_training_too():
    bundle: Any = tiny(0)
    with torch.inference_mode():  # on another device, where they are copied to
        made = bundle.module.rotary(8, torch.device("meta"))
    assert not any(one.is_inference() for one in made)
