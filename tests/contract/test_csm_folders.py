"""CSM's folders and codec against transformers', and what methods find in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import close, losses, mixed, noise, shaken
from csm import save_csm
from safetensors.torch import load_file, save_file
from transformers import CsmConfig, CsmForConditionalGeneration

from tunesmith.errors import UserError
from tunesmith.families import base_limits, find_base, load, skeleton, weight_files
from tunesmith.families.csm import SPEC, tiny
from tunesmith.families.csm._tiny import tiny_config, tiny_model, tiny_tokenizer
from tunesmith.families.csm.loss import CsmLoss
from tunesmith.formats.adapter import save_adapter
from tunesmith.methods import full, lora, prefix
from tunesmith.types import GenerationSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_csm(tmp_path_factory.mktemp("csm"), seed=3)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Any:
    """Read only."""
    return load(find_base(str(folder)))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    return CsmForConditionalGeneration.from_pretrained(folder).eval()


# --- the codec and the folder ---


def test_encoding_is_that_of_transformers(bundle: Any, plain: Any):
    audio = noise(bundle, 0.53, 1)
    codes = bundle.encode_audio(audio)
    wave = torch.from_numpy(audio.samples)[None]
    with torch.no_grad():
        assert torch.equal(codes.long(), plain.codec_model.encode(wave).audio_codes[0])
        sound = plain.codec_model.decode(codes.long()[None]).audio_values[0]
    ours = bundle.decode_audio(codes).samples
    np.testing.assert_allclose(ours, sound.clamp(-1, 1).numpy(), atol=1e-6)
    bundle.release_codec()  # what comes back is read from the folder
    assert torch.equal(bundle.encode_audio(audio), codes)
    np.testing.assert_array_equal(bundle.decode_audio(codes).samples, ours)


def test_a_folder_in_the_layout_of_the_hub(folder: Path, bundle: Any):
    base = find_base(str(folder))
    assert base.family.name == "csm"
    assert base.licence == "Apache-2.0"
    assert not base.non_commercial
    assert base_limits(str(folder)) == (1600, 1, 2.0)
    assert (bundle.sample_rate_hz, bundle.frame_rate_hz, bundle.max_s) == (1600, 25.0, 2.0)
    assert len({bundle.base_hash, bundle.codec_hash, bundle.text_hash}) == 3
    bare = skeleton(base)
    assert {p.device.type for p in bare.module.parameters()} == {"meta"}
    assert bare.sites == bundle.sites
    assert bundle.module.model.config.tie_codebooks_embeddings
    half: Any = load(base, dtype=torch.bfloat16)
    assert next(half.module.parameters()).dtype == torch.bfloat16
    audio = noise(bundle, 0.3, 1)
    assert torch.equal(half.encode_audio(audio), bundle.encode_audio(audio))


def test_hashes_tell_codec_and_words_apart(tmp_path: Path, bundle: Any):
    save_csm(tmp_path, seed=3)
    same = load(find_base(str(tmp_path)))
    assert (same.base_hash, same.codec_hash, same.text_hash) == (
        bundle.base_hash,
        bundle.codec_hash,
        bundle.text_hash,
    )
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] += 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    other = load(find_base(str(tmp_path)))
    assert other.base_hash != bundle.base_hash
    assert other.codec_hash == bundle.codec_hash


def test_a_folder_in_half_precision_has_its_skeleton_in_full(tmp_path: Path):
    """What is planned is what will be loaded, and the codec is not read for it."""
    save_csm(tmp_path)
    tiny_model(0).to(torch.bfloat16).save_pretrained(tmp_path)
    bare: Any = skeleton(find_base(str(tmp_path)))
    assert {p.dtype for p in bare.module.parameters()} == {torch.float32}
    assert {(p.dtype, p.device.type) for p in bare.codec.parameters()} == {(torch.float32, "meta")}


def test_weights_that_the_folder_names_are_the_ones(tmp_path: Path):
    """Sesame's own copy: shards of the library's layout beside one file of another."""
    save_csm(tmp_path, seed=3)
    plain = load(find_base(str(tmp_path)))
    weights = load_file(tmp_path / "model.safetensors")
    halves = list(weights)[::2], list(weights)[1::2]
    names = [f"transformers-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, keys in zip(names, halves, strict=True):
        save_file({key: weights[key] for key in keys}, tmp_path / name, {"format": "pt"})
    both = {key: name for name, keys in zip(names, halves, strict=True) for key in keys}
    index = tmp_path / "transformers.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": both}))
    save_file({"backbone.norm.scale": torch.ones(2)}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_weights": index.name}))
    assert weight_files(tmp_path) == [tmp_path / name for name in names]
    named: Any = load(find_base(str(tmp_path)))
    audio = noise(named, 0.3, 1)
    assert torch.equal(named.encode_audio(audio), plain.encode_audio(audio))
    named.release_codec()
    assert torch.equal(named.encode_audio(audio), plain.encode_audio(audio))
    ours, theirs = named.module.state_dict(), plain.module.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    for wrong in ("../other.safetensors", "weights.bin"):
        (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_weights": wrong}))
        with pytest.raises(UserError, match="transformers_weights"):
            weight_files(tmp_path)


def test_what_a_folder_lacks_is_named(tmp_path: Path):
    save_csm(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("depth_decoder.codebooks_head.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 tensors \(depth_decoder.codebooks_head"):
        load(find_base(str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError):
        load(find_base(str(tmp_path)))
    save_csm(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        load(find_base(str(tmp_path)))


def test_a_base_is_sampled_as_its_checkpoint_asks(tmp_path: Path):
    save_csm(tmp_path)
    assert load(find_base(str(tmp_path))).sampling == GenerationSettings(1.0, 0.9, 50, 1.0)
    said = {"temperature": 0.7, "top_k": 9, "do_sample": True, "depth_decoder_do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    assert load(find_base(str(tmp_path))).sampling == GenerationSettings(1.0, 0.7, 9, 1.0)


# --- methods ---


def test_the_full_geometry_has_its_seams(tmp_path: Path):
    """CSM-1B's own sizes, without weights."""
    config: Any = CsmConfig()
    config.save_pretrained(tmp_path)
    words = tiny_tokenizer()
    words.save_pretrained(tmp_path)
    bundle: Any = skeleton(find_base(str(tmp_path)))
    assert (bundle.sample_rate_hz, bundle.frame_rate_hz) == (24000, 12.5)
    roles = [site.role for site in bundle.sites]
    assert roles.count("self_attention") == roles.count("feed_forward") == 16 + 4
    assert [site.layer for site in bundle.sites if site.role == "self_attention"] == [*range(20)]
    backbone = 16 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192 + 2 * 2048) + 2048
    depth = 4 * (2 * 1024 * 1024 + 2 * 1024 * 256 + 3 * 1024 * 8192 + 2 * 1024) + 1024
    tables = (128256 + 32 * 2051) * 2048
    heads = 2048 * 2051 + 31 * 1024 * 2051 + 2048 * 1024
    size = sum(p.numel() for p in bundle.module.parameters())
    assert size == backbone + depth + tables + heads == 1_552_791_552
    rank = 16
    # q: d to d; k and v: d to a quarter of it (8 of 32 heads), in the depth decoder 2 of 8.
    wanted = rank * (16 * (2048 * 2 + 2 * (2048 + 512)) + 4 * (1024 * 2 + 2 * (1024 + 256)))
    assert lora.parameter_count(bundle, lora.Config(rank=rank)) == wanted
    vectors = prefix.parameter_count(bundle, prefix.Config(length=8))
    assert vectors == 8 * (16 * 2 * 8 * 64 + 4 * 2 * 2 * 128)
    assert not set(SPEC["declines"])


def test_a_prefix_before_the_conditioning_is_refused_with_the_reason(bundle: Any):
    (fault,) = prefix.check(bundle, prefix.Config(placement="input"))
    assert fault.key == "method.placement"
    assert "no conditioning sequence" in fault.message


def test_rates_fall_from_the_heads_down():
    bundle: Any = tiny(0)
    rates = full.attach(bundle, full.Config(layer_decay=0.5)).rates()
    root = "model/"
    assert rates[f"{root}embed_text_tokens.weight"] == 0.5**3
    assert rates[f"{root}backbone_model.layers.0.mlp.up_proj.weight"] == 0.5**2
    assert rates[f"{root}backbone_model.layers.1.mlp.up_proj.weight"] == 0.5
    assert rates[f"{root}depth_decoder.model.layers.0.mlp.up_proj.weight"] == 1
    for head in ("lm_head.weight", "depth_decoder.codebooks_head.weight"):
        assert rates.get(f"{root}{head}", 1.0) == 1


def test_dropout_reaches_the_attentions():
    bundle: Any = tiny(0)
    batch = bundle.collate(mixed(bundle), [1, 2, 3])
    still = losses(bundle, batch)
    bundle.set_dropout(0.5)
    close(losses(bundle, batch), still, 0)
    bundle.module.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        moved = {name: total for name, (total, _) in bundle.module(batch).items()}
    assert all(not torch.allclose(moved[name], still[name]) for name in still)


def test_the_tables_of_codes_are_one(bundle: Any):
    module = CsmLoss(CsmForConditionalGeneration(tiny_config()))
    for model in (module.model, bundle.module.model):
        both = (
            model.backbone_model.embed_tokens.embed_audio_tokens.weight,
            model.depth_decoder.model.embed_tokens.weight,
        )
        assert both[0] is both[1]


# PEFT asks by a name that transformers has renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_plain_peft_opens_an_adapter(folder: Path, plain: Any, tmp_path: Path):
    peft = pytest.importorskip("peft")
    bundle: Any = load(find_base(str(folder)))
    adapter = shaken(lora.attach(bundle, lora.Config(rank=4)), size=0.2)
    save_adapter(tmp_path, adapter, bundle, {})
    codes = torch.randint(0, 32, (1, 9, 4), generator=torch.Generator().manual_seed(0))
    bundle.module.eval()
    fresh = CsmForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        ours = bundle.components["model"](input_ids=codes).logits
        opened = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter" / "model").eval()
        theirs = opened(input_ids=codes).logits
        base = plain(input_ids=codes).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(base, ours, atol=1e-2)
