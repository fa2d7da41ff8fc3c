from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.errors import UserError
from tunesmith.families import base_limits, find_base, fingerprint, load, skeleton


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "copy"))


def test_a_folder_is_recognised_and_tells_its_limits(tiny_base: Path):
    base = find_base(str(tiny_base))
    assert (base.family.name, base.licence, base.non_commercial) == (
        "musicgen",
        "Apache-2.0",
        False,
    )
    assert base_limits(str(tiny_base)) == (1600, 1, 4.0)
    bundle = load(base)
    assert (bundle.sample_rate_hz, bundle.channels, bundle.max_s) == (1600, 1, 4.0)
    assert bundle.base_hash == fingerprint(tiny_base)


def test_the_licence_of_a_base_without_notes_is_the_familys(copy: Path):
    (copy / "tunesmith.json").unlink()
    base = find_base(str(copy))
    assert base.licence == "CC-BY-NC-4.0"
    assert base.non_commercial
    assert base_limits(str(copy))[2] == 30.0


def test_the_embedded_base_is_found():
    rate, channels, max_s = base_limits("pocket")
    assert rate >= 8000
    assert channels in (1, 2)
    assert max_s > 0


def test_the_fingerprint_tells_any_change_of_any_tensor(tmp_path: Path):
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "decoder.a": torch.randn(64, 64, generator=draw),
        "decoder.b": torch.randn(3, generator=draw),
        "text_encoder.c": torch.randn(900, generator=draw),
    }

    def of(changed: dict[str, torch.Tensor], prefix: str = "") -> str:
        save_file(changed, tmp_path / "model.safetensors", metadata={"made": str(len(changed))})
        return fingerprint(tmp_path, prefix)

    plain = of(tensors)
    assert of(dict(reversed(tensors.items()))) == plain
    for name, tensor in tensors.items():
        assert of({**tensors, name: tensor + 1e-6}) != plain
        assert of({**tensors, name: tensor.double()}) != plain
        assert of({**tensors, name: tensor[:-1].clone()}) != plain
        assert of({k: v for k, v in tensors.items() if k != name}) != plain
        assert of({("x" if k == name else k): v for k, v in tensors.items()}) != plain
    part = of(tensors, "decoder.")
    assert part != plain
    assert of({**tensors, "text_encoder.c": torch.zeros(1)}, "decoder.") == part
    assert of({**tensors, "decoder.b": torch.zeros(3)}, "decoder.") != part


@pytest.mark.parametrize("text", [b"", b"12", b"\xff" * 40, b"\x05\0\0\0\0\0\0\0{{{{{"])
def test_torn_weights_have_no_fingerprint(tmp_path: Path, text: bytes):
    (tmp_path / "model.safetensors").write_bytes(text)
    with pytest.raises(UserError, match=r"safetensors"):
        fingerprint(tmp_path)


def test_bases_that_do_not_load_say_why(copy: Path):
    weights = copy / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    save_file({k: v for k, v in tensors.items() if k != name}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 tensors"):
        load(find_base(str(copy)))
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError):
        load(find_base(str(copy)))
    weights.unlink()
    with pytest.raises(UserError):
        load(find_base(str(copy)))


def test_a_base_without_its_tokenizer_says_so(copy: Path):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load(find_base(str(copy)))


def test_a_skeleton_has_shapes_and_no_weights(tiny_base: Path):
    base = find_base(str(tiny_base))
    bones, whole = skeleton(base), load(base)
    assert {p.device.type for p in bones.module.parameters()} == {"meta"}
    wanted = {name: p.shape for name, p in whole.module.named_parameters()}
    assert {name: p.shape for name, p in bones.module.named_parameters()} == wanted
    assert bones.sites == whole.sites
