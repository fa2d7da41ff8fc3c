"""Names, folders and hub ids; what is refused, in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import save_base

from tunesmith.captioners import open_captioner
from tunesmith.captioners._model import find, mono_at, place
from tunesmith.errors import UserError
from tunesmith.types import Audio


def refused(name, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_captioner(str(name), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_package_is_light():
    code = "import sys, tunesmith.captioners; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_that_is_nothing():
    assert "neither a folder nor a hub id - did you mean 'clap'?" in refused("clab")
    assert "neither a folder nor in the cache" in refused("nobody/nothing")
    assert "neither a folder nor in the cache" in refused("clap")
    assert "neither a folder nor in the cache" in refused("clap:nobody/nothing")


def test_a_folder_that_is_no_captioner(tmp_path, models):
    assert "no config.json" in refused(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "names no model_type" in refused(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_audio"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "no .safetensors weights, and pickled ones are never opened" in refused(tmp_path)
    musicgen = save_base(tmp_path / "musicgen")
    assert (
        "is a 'musicgen' model, which cannot listen and write - checked: Qwen2-Audio, Audio "
        "Flamingo 3, Music Flamingo; or 'clap' for tags"
    ) in refused(musicgen)
    assert "is a 'qwen2_audio' model, not a CLAP" in refused(f"clap:{models('qwen2_audio')}")


def test_a_model_without_a_processor_or_a_chat_template(tmp_path, models):
    folder = shutil.copytree(models("qwen2_audio"), tmp_path / "bare")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}")
    assert "has no place for one sound" in refused(folder)
    (folder / "processor_config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    assert "cannot be opened" in refused(folder)


@pytest.mark.parametrize("kind", ["qwen2_audio", "clap"])
def test_weights_that_are_missing_are_not_made_up(tmp_path, models, kind):
    folder = shutil.copytree(models(kind), tmp_path / "torn")
    weights = load_file(folder / "model.safetensors")
    name = max(weights)
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = refused(folder)
    assert "1 weights missing or misshapen, first " in message and name in message
    (folder / "model.safetensors").write_bytes(b"torn")
    assert "cannot be opened" in refused(folder)


def test_device_and_dtype(models):
    assert "no device 'gpu' here" in refused(models("clap"), device="gpu")
    assert "no dtype 'float23' - did you mean 'float32'" in refused(models("clap"), dtype="float23")
    assert [str(part) for part in place("cpu", "auto", small=False)] == ["cpu", "torch.float32"]
    assert [str(part) for part in place("cpu", "bfloat16", small=True)] == ["cpu", "torch.bfloat16"]


def cached(folder: Path, cache: Path, monkeypatch, commit: str = "0123456789abcdef" + 24 * "0"):
    """Puts a model where a download would have left it; its id is ``someone/tiny``."""
    from huggingface_hub import constants

    store = cache / "models--someone--tiny"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return shutil.copytree(folder, store / "snapshots" / commit)


def test_a_hub_id_in_the_cache(tmp_path, models, monkeypatch, clips):
    """Offline, a model that was downloaded once opens by its id, and its commit is its version."""
    folder = cached(models("qwen2_audio"), tmp_path, monkeypatch)
    captioner = open_captioner("someone/tiny")
    assert captioner.name == "someone/tiny" and captioner.source == "model"
    assert captioner.fingerprint.startswith("someone/tiny@0123456789abcdef+")
    assert captioner.caption(clips) == open_captioner(str(models("qwen2_audio"))).caption(clips)
    assert open_captioner(f"someone/tiny@{folder.name}").fingerprint == captioner.fingerprint


def test_weights_are_asked_for_last(tmp_path, models, monkeypatch):
    folder = cached(models("clap"), tmp_path, monkeypatch)
    (folder / "model.safetensors").unlink()
    assert "'clap:someone/tiny' has no .safetensors weights" in refused("clap:someone/tiny")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "vits"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "is a 'vits' model, which cannot listen and write" in refused("someone/tiny")


def test_the_version_of_a_folder_is_its_contents(tmp_path, models):
    first = find(str(models("clap")))
    copy = shutil.copytree(models("clap"), tmp_path / "clap-copy")
    (copy / "README.md").write_text("words")
    assert find(str(copy)).version == first.version and find(str(copy)).label == "clap-copy"
    assert find(str(models("clap", seed=1))).version != first.version
    weights = Path(copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\1")
    assert find(str(copy)).version != first.version


def test_sound_is_mixed_resampled_and_cut():
    time_s = np.arange(2 * 44_100) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time_s)
    clip = Audio(np.stack([tone, 0.5 * tone]).astype(np.float32), 44_100)
    mono = mono_at(clip, 16_000)
    assert mono.shape == (32_000,) and mono.dtype == np.float32
    wanted = 0.375 * np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000)
    assert np.abs(mono - wanted)[500:-500].max() < 1e-3
    assert np.array_equal(mono_at(Audio(mono[None], 16_000), 16_000, 1.0), mono[:16_000])
    assert len(mono_at(clip, 16_000, 1.5)) == 24_000
