from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
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


# --- from the hub ---


class Hub:
    """A repository that gives those of its files that are asked for, as the hub's client does."""

    def __init__(self, files: dict[str, str], cache: Path) -> None:
        self.files, self.cache = files, cache

    def snapshot(self, name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        for file in filter_repo_objects(self.files, allow_patterns=allow_patterns):
            path = self.cache / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.files[file])
        return str(self.cache)

    @property
    def fetched(self) -> set[str]:
        return {
            path.relative_to(self.cache).as_posix()
            for path in self.cache.rglob("*")
            if path.is_file()
        }


INDEX = {
    "_class_name": "StableAudioPipeline",
    "_diffusers_version": "0.30.0",
    "transformer": ["diffusers", "StableAudioDiTModel"],
    "scheduler": ["diffusers", "CosineDPMSolverMultistepScheduler"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "safety_checker": [None, None],
    "sizes": [1, 2, 3],
}
PIPELINE = (
    "model_index.json",
    "README.md",
    "LICENSE.txt",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "scheduler/scheduler_config.json",
    "tokenizer/spiece.model",
)
BESIDE = (
    "model.safetensors",
    "model.ckpt",
    "original/model.safetensors",
    "safety_checker/model.safetensors",
    "transformer/diffusion_pytorch_model.bin",
    "onnx/transformer.onnx",
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    files = dict.fromkeys((*PIPELINE, *BESIDE), "x") | {"model_index.json": json.dumps(INDEX)}
    found = Hub(files, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", found.snapshot)
    return found


def test_of_a_pipeline_only_its_own_folders_are_fetched(hub: Hub):
    base = find_base("owner/pipeline")
    assert (base.family.name, base.path) == ("stable_audio", hub.cache)
    assert hub.fetched == set(PIPELINE)


def test_for_planning_no_weights_are_fetched(hub: Hub):
    find_base("owner/pipeline", weights=False)
    assert hub.fetched == {file for file in PIPELINE if not file.endswith(".safetensors")}
    find_base("owner/pipeline")
    assert hub.fetched == set(PIPELINE)


def test_of_other_bases_all_safetensors_are_fetched(hub: Hub):
    whole = {"config.json": json.dumps({"model_type": "musicgen"})}
    hub.files = whole | dict.fromkeys(("model.safetensors", "model.bin", "spiece.model"), "x")
    assert find_base("owner/model").family.name == "musicgen"
    assert hub.fetched == {"config.json", "model.safetensors", "spiece.model"}


def test_weights_of_another_layout_stay_on_the_hub(hub: Hub):
    """``sesame/csm-1b`` holds its weights twice, and says which are for this library."""
    index = "transformers.safetensors.index.json"
    shards = [f"transformers-0000{number}-of-00002.safetensors" for number in (1, 2)]
    hub.files = dict.fromkeys((*shards, "model.safetensors", "ckpt.pt"), "x") | {
        "config.json": json.dumps({"model_type": "csm", "transformers_weights": index}),
        index: json.dumps({"weight_map": {"a": shards[1], "b": shards[0], "c": shards[1]}}),
    }
    find_base("owner/model")
    assert hub.fetched == {"config.json", index, *shards}


def test_an_index_that_leads_out_of_its_folder_is_refused(hub: Hub):
    hub.files["model_index.json"] = json.dumps({**INDEX, "../up": ["a", "b"]})
    with pytest.raises(UserError, match=r"'\.\./up' is no name of a folder") as caught:
        find_base("owner/pipeline")
    assert "\n" not in str(caught.value)
