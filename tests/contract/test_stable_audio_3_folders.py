"""Stable Audio 3 from folders: autoencoder, loading, refusals, what is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import bits, close, example, losses, mixed, noise, shaken
from diffusers import (
    StableAudio3AudioToAudioPipeline,
    StableAudio3InpaintPipeline,
    StableAudio3Pipeline,
)
from safetensors.torch import load_file, save_file
from tiny import save_stable_audio_3, write_data

from tunesmith.config import load_config
from tunesmith.errors import UserError
from tunesmith.families import base_limits, find_base, load, skeleton
from tunesmith.families.stable_audio_3 import codec, tiny
from tunesmith.formats.adapter import load_adapter, save_adapter
from tunesmith.methods import full, lora, prefix
from tunesmith.training.plan_memory import Pass, Request, memory
from tunesmith.training.run import train


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


# --- the autoencoder ---


def test_latents_are_the_autoencoders_own(folder: Path):
    bundle, pipe = opened(folder), pipeline(folder)
    audio = noise(bundle, 0.7, seed=4)
    with torch.no_grad():
        theirs = pipe.vae.encode(torch.from_numpy(audio.samples)[None]).latents
        back = pipe.vae.decode(theirs).sample.clamp(-1, 1)
    ours = bundle.encode_audio(audio)
    assert torch.equal(ours, theirs[0])
    assert torch.equal(torch.from_numpy(bundle.decode_audio(ours).samples), back[0])
    assert not torch.allclose(bundle.codec.bottleneck.running_std, torch.ones(1))


def test_a_long_sound_in_parts_is_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch):
    bundle = opened(folder)
    audio = noise(bundle, 4.01, seed=4)
    latents = bundle.encode_audio(audio)
    sound = bundle.decode_audio(latents).samples
    monkeypatch.setattr(codec, "WHOLE", 16)
    torch.testing.assert_close(bundle.encode_audio(audio), latents, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(bundle.decode_audio(latents).samples, sound, atol=1e-4)
    monkeypatch.setattr(codec, "_reach", lambda vae: 0)
    assert not torch.allclose(bundle.encode_audio(audio), latents, atol=1e-2)


# --- words, seams ---


def test_words_are_filled_up_on_the_tokenizers_side(folder: Path):
    bundle = opened(folder)
    (left,) = bundle.encode_text(["ab"])
    bundle.tokenizer.padding_side = "right"
    (right,) = bundle.encode_text(["ab"])
    assert left["present"].tolist() == [0] * 45 + [1] * 3
    assert right["present"].tolist() == [1] * 3 + [0] * 45
    assert torch.equal(left["ids"][-3:], right["ids"][:3])


@pytest.mark.parametrize("placement", ["layers", "input"])
def test_a_prefix_fades_to_the_base(placement: str):
    """Masks of joined keys and states reach the attention: strengths go through all between."""
    bundle: Any = tiny(0)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    base = losses(bundle, batch)
    adapter = prefix.attach(bundle, prefix.Config(length=4, placement=placement, init="random"))
    adapter.set_strength(1e-7)
    close(losses(bundle, batch), base, 1e-4)
    adapter.set_strength(1.0)
    whole = losses(bundle, batch)["velocity"]
    adapter.set_strength(0.5)
    half = losses(bundle, batch)["velocity"]
    assert not torch.allclose(whole, base["velocity"], rtol=1e-3)
    assert not torch.allclose(half, base["velocity"], rtol=1e-3)
    assert not torch.allclose(half, whole, rtol=1e-3)


# --- folders ---


def test_a_folder_in_the_hubs_layout(folder: Path):
    rate_hz, channels, max_s = base_limits(str(folder))
    bundle = opened(folder)
    assert (rate_hz, channels) == (bundle.sample_rate_hz, bundle.channels) == (1600, 2)
    assert max_s == bundle.max_s == 1.28
    assert bundle.frame_rate_hz == 25
    bare = skeleton(find_base(str(folder)))
    assert {n: v.shape for n, v in bare.module.state_dict().items()} == {
        n: v.shape for n, v in bundle.module.state_dict().items()
    }
    assert all(parameter.device.type == "meta" for parameter in bare.module.parameters())


@pytest.mark.parametrize("kind", [StableAudio3InpaintPipeline, StableAudio3AudioToAudioPipeline])
def test_a_folder_of_either_other_pipeline_is_recognised(folder: Path, tmp_path: Path, kind: Any):
    copy = changed(folder, tmp_path, _class_name=kind.__name__)
    assert opened(copy).base_hash == opened(folder).base_hash


def changed(folder: Path, tmp_path: Path, **index: Any) -> Path:
    """A copy whose ``model_index.json`` says otherwise."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | index))
    return copy


def test_an_older_conversions_scheduler_is_refused(folder: Path, tmp_path: Path):
    copy = changed(folder, tmp_path, scheduler=["diffusers", "PingPongScheduler"])
    with pytest.raises(UserError, match="PingPongScheduler"):
        opened(copy)


def test_parts_that_are_torn_are_refused(folder: Path, tmp_path: Path):
    copy = changed(folder, tmp_path)
    file = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("memory_tokens")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="transformer lacks 1 tensors"):
        opened(copy)
    (copy / "tokenizer" / "tokenizer.json").unlink()
    shutil.copy(folder / "transformer" / file.name, file)
    with pytest.raises(UserError, match="no tokenizer"):
        opened(copy)


def test_exported_it_opens_in_the_plain_pipeline(folder: Path, tmp_path: Path):
    bundle = opened(folder)
    shaken(full.attach(bundle, full.Config()), size=0.02)
    wanted = bits(bundle)
    bundle.export(tmp_path / "out")
    theirs = pipeline(tmp_path / "out")
    for part, name in (("transformer", "transformer"), ("duration_embedder", "conditioner")):
        for path, value in getattr(theirs, part).state_dict().items():
            assert torch.equal(value, wanted[f"{name}.{path}"])
    again = opened(tmp_path / "out")
    assert again.base_hash != bundle.base_hash


def test_a_fused_linear_is_adapted_once(folder: Path):
    bundle = opened(folder)
    paths = lora.target_paths(bundle, lora.Config())["transformer"]
    assert len(paths) == len(set(paths)) == 2 * 3  # to_qkv, to_q, to_kv of two layers
    only = lora.target_paths(bundle, lora.Config(targets=("v",)))["transformer"]
    assert [path.rpartition(".")[2] for path in only] == ["to_qkv", "to_kv"] * 2


def test_a_lora_of_ours_opens_in_diffusers(folder: Path, tmp_path: Path):
    """PEFT's two files, put on the pipeline's transformer."""
    from peft import PeftModel

    bundle = opened(folder)
    adapter = shaken(lora.attach(bundle, lora.Config(rank=4)))
    save_adapter(tmp_path, adapter, bundle, {"step": 1, "steps": 1, "metrics": {}})
    batch = bundle.collate([example(bundle, 0.5)], [1])
    t = torch.tensor([0.5])
    with torch.no_grad():
        told = bundle.module.conditions(batch.text, torch.tensor([0.5]))
        ours = bundle.module.velocity(batch.codes, t, told)
        apart = PeftModel.from_pretrained(
            pipeline(folder).transformer, tmp_path / "adapter" / "transformer"
        )
        theirs = apart(
            batch.codes,
            t,
            encoder_hidden_states=told.states,
            encoder_attention_mask=told.present,
            global_hidden_states=told.timing,
            return_dict=False,
        )[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    load_adapter(tmp_path, opened(folder))


def test_dropout_that_there_is_none_of_is_refused(folder: Path):
    bundle = opened(folder)
    bundle.set_dropout(0.0)
    with pytest.raises(UserError, match="its transformer has none"):
        full.attach(bundle, full.Config(dropout=0.1))


# --- runs ---


def test_a_run_on_a_distilled_checkpoint_is_refused(distilled: Path, tmp_path: Path):
    data = write_data(tmp_path / "data", (0.4, 0.4, 0.4), rate_hz=1600, channels=2)
    settings = {"base": str(distilled), "method": "lora", "data": str(data)}
    loaded = load_config(settings=settings | {"out": str(tmp_path / "out"), "train.steps": 1})
    with pytest.raises(UserError, match="does not train: it is distilled"):
        train(loaded)


def test_what_a_run_needs_can_be_planned(folder: Path):
    """Acted out without weights, so that nothing in the family may depend on values."""
    found = [
        memory(
            Request(
                base=find_base(str(folder)),
                attach=lambda bundle: lora.attach(bundle, lora.Config(), None),
                passes=(Pass(clips, 1.0),),
                caption="a test",
                device="cuda",
                dtype=torch.float32,
            )
        )
        for clips in (2, 8)
    ]
    assert found[1].parts["activations"] > 2 * found[0].parts["activations"]
