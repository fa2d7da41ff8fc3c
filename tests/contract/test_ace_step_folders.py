"""ACE-Steps on the disk: loaded, exported, and LoRAs of ours in diffusers' own loader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ace_step import opened, pipeline, save_ace_step
from cells import bits, mixed, shaken
from safetensors.torch import load_file, save_file

from tunesmith.errors import UserError
from tunesmith.families import base_limits, find_base, skeleton
from tunesmith.families._diffusers import quiet
from tunesmith.families.ace_step import tiny
from tunesmith.families.ace_step._tiny import tiny_parts
from tunesmith.families.ace_step.lora import save_lora
from tunesmith.families.ace_step.sample import PURPOSE
from tunesmith.formats.adapter import save_adapter
from tunesmith.methods import bottleneck, full, lora, prefix
from tunesmith.objectives.noise import noise_like
from tunesmith.types import GenerationSettings

DETAILS = {"step": 1, "steps": 1, "metrics": {}}
SETTINGS = GenerationSettings(guidance=3.0, steps=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ace_step(tmp_path_factory.mktemp("bases") / "ace", seed=3)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def both(bundle: Any, pipe: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What we and the pipeline make of one prompt and one noise, ``[C, T]``."""
    (ours,) = bundle.generate_codes(["a hum"], 0.9, [5], SETTINGS)
    start = noise_like(torch.zeros(1, *ours.shape), [5], purpose=PURPOSE)
    theirs = pipe(
        "a hum",
        audio_duration=0.9,
        num_inference_steps=SETTINGS.steps,
        guidance_scale=SETTINGS.guidance,
        latents=start.transpose(1, 2),
        output_type="latent",
    ).audios
    return ours, theirs[0].transpose(0, 1)


def test_a_folder_in_the_hubs_layout(folder: Path):
    rate_hz, channels, max_s = base_limits(str(folder))
    bundle = opened(folder)
    assert (rate_hz, channels) == (bundle.sample_rate_hz, bundle.channels) == (1600, 2)
    assert max_s == bundle.max_s == pytest.approx(1.28)
    assert bundle.family == "ace_step"
    bare = skeleton(find_base(str(folder)))
    assert {n: v.shape for n, v in bare.module.state_dict().items()} == {
        n: v.shape for n, v in bundle.module.state_dict().items()
    }
    assert all(parameter.device.type == "meta" for parameter in bare.module.parameters())


def test_hashes_are_those_of_the_parts(copy: Path):
    before = opened(copy)
    (copy / "model.safetensors").write_bytes(b"of another layout")
    assert opened(copy).base_hash == before.base_hash
    file = copy / "condition_encoder" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["null_condition_emb"] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    after = opened(copy)
    assert after.base_hash != before.base_hash
    assert after.codec_hash == before.codec_hash
    assert after.text_hash == before.text_hash


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("transformer", "proj_in_conv.weight"),
        ("condition_encoder", "silence_latent"),
        ("text_encoder", "embed_tokens.weight"),
    ],
)
def test_a_part_that_lacks_tensors_is_refused(copy: Path, part: str, name: str):
    (file,) = (copy / part).glob("*.safetensors")
    tensors = load_file(file)
    tensors.pop(name)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{part} lacks 1 tensors"):
        opened(copy)
    file.write_bytes(b"torn")
    with pytest.raises(UserError, match=f"{part} does not load"):
        opened(copy)


@pytest.mark.parametrize("part", ["scheduler", "text_encoder"])
def test_parts_of_another_kind_are_refused(copy: Path, part: str):
    index = json.loads((copy / "model_index.json").read_text())
    index[part] = ["diffusers", "NoSuchKind"]
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"NoSuchKind for its {part}"):
        opened(copy)


def test_a_turbo_is_known_by_its_config(copy: Path):
    assert opened(copy).untrainable == ""
    file = copy / "transformer" / "config.json"
    config = json.loads(file.read_text())
    for change in ({"is_turbo": True}, {"model_version": "turbo"}):
        file.write_text(json.dumps(config | change))
        assert "turbo" in opened(copy).untrainable


def test_exported_it_makes_the_same_in_the_plain_pipeline(folder: Path, tmp_path: Path):
    bundle = opened(folder)
    shaken(full.attach(bundle, full.Config()), size=0.02)
    wanted = bits(bundle)
    bundle.export(tmp_path / "out")
    pipe = pipeline(tmp_path / "out")
    for name, part in (("transformer", pipe.transformer), ("conditioner", pipe.condition_encoder)):
        for path, value in part.state_dict().items():
            assert torch.equal(value, wanted[f"{name}.{path}"])
    ours, theirs = both(bundle, pipe)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    again = opened(tmp_path / "out")
    assert torch.equal(again.generate_codes(["a hum"], 0.9, [5], SETTINGS)[0], ours)


def test_parts_for_covers_are_kept(tmp_path: Path):
    from diffusers import AceStepPipeline
    from diffusers.pipelines.ace_step import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer

    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "audio_acoustic_hidden_dim": 8,
        "num_attention_pooler_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    with quiet(), torch.random.fork_rng():
        parts = tiny_parts(3) | {
            "audio_tokenizer": AceStepAudioTokenizer(fsq_dim=16, **sizes),
            "audio_token_detokenizer": AceStepAudioTokenDetokenizer(**sizes),
        }
        AceStepPipeline(**parts).save_pretrained(tmp_path / "in")
    opened(tmp_path / "in").export(tmp_path / "out")
    again = pipeline(tmp_path / "out")
    for name in ("audio_tokenizer", "audio_token_detokenizer"):
        found, wanted = getattr(again, name).state_dict(), parts[name].state_dict()
        assert all(torch.equal(found[path], value) for path, value in wanted.items())


def test_a_transformer_wider_than_its_conditions(tmp_path: Path):
    """As in the XL checkpoints."""
    from diffusers import AceStepPipeline, AceStepTransformer1DModel

    with quiet(), torch.random.fork_rng():
        parts = tiny_parts(3)
        config = parts["transformer"].config
        small = {name: value for name, value in config.items() if not name.startswith("_")}
        wide = {"hidden_size": 48, "intermediate_size": 64, "encoder_hidden_size": 32}
        parts["transformer"] = AceStepTransformer1DModel.from_config(small | wide)
        AceStepPipeline(**parts).save_pretrained(tmp_path / "xl")
    bundle = opened(tmp_path / "xl")
    ours, theirs = both(bundle, pipeline(tmp_path / "xl"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for placement in ("input", "layers"):
        adapter = prefix.attach(bundle, prefix.Config(length=3, placement=placement))
        total, _ = bundle.module(bundle.collate(mixed(bundle), [1, 2, 3]))["velocity"]
        total.sum().backward()
        assert all(bool(one.grad.any()) for one in adapter.parameters().values())  # type: ignore[union-attr]
        adapter.detach()


@pytest.mark.parametrize(
    "config",
    [
        lora.Config(rank=4),
        lora.Config(rank=4, alpha=2.0, targets=("q", "k", "v", "o", "up", "down")),
        lora.Config(rank=4, alpha=3.0, rslora=True),
    ],
    ids=["plain", "scaled", "rslora"],
)
def test_a_lora_of_ours_opens_in_the_pipelines_own_loader(
    folder: Path, tmp_path: Path, config: lora.Config
):
    bundle, pipe = opened(folder), pipeline(folder)
    plain, _ = both(bundle, pipe)
    adapter = shaken(lora.attach(bundle, config))
    save_adapter(tmp_path / "run", adapter, bundle, DETAILS)
    save_lora(tmp_path / "run", tmp_path / "lora")
    pipe.load_lora_weights(tmp_path / "lora")
    ours, theirs = both(bundle, pipe)
    assert not torch.allclose(ours, plain, atol=1e-2)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_the_loader_cannot_hold_is_refused(folder: Path, tmp_path: Path):
    bundle = opened(folder)
    adapter = bottleneck.attach(bundle, bottleneck.Config(width=4))
    save_adapter(tmp_path / "run", adapter, bundle, DETAILS)
    with pytest.raises(UserError, match="nothing else"):
        save_lora(tmp_path / "run", tmp_path / "lora")


def test_export_to_diffusers_is_that_file(tmp_path: Path):
    from tunesmith.formats.hub import export_diffusers

    bundle = tiny()
    adapter = shaken(lora.attach(bundle, lora.Config(rank=4)))
    save_adapter(tmp_path / "run", adapter, bundle, DETAILS)
    (name,) = export_diffusers(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / name).is_file()
    assert "lora" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(UserError, match="already there"):
        export_diffusers(tmp_path / "run", tmp_path / "out")


def test_families_without_a_loader_in_diffusers_say_so(tmp_path: Path):
    from tunesmith.families.musicgen import tiny as other
    from tunesmith.formats.hub import export_diffusers

    bundle = other()
    save_adapter(tmp_path / "run", lora.attach(bundle, lora.Config(rank=4)), bundle, DETAILS)
    with pytest.raises(UserError, match="no LoRA loader for musicgen"):
        export_diffusers(tmp_path / "run", tmp_path / "out")
