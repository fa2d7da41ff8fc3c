"""Every embedding through the code path of a hub id: a folder in the hub's layout, random weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.embeddings import TextEmbedder, open_embedder
from tunesmith.embeddings._embedder import cut, sound_at
from tunesmith.errors import UserError
from tunesmith.metrics import tagger
from tunesmith.registry import plugins
from tunesmith.types import Audio

# kind: window in seconds, width of a row
MODELS = {
    "clap": (2.0, 16),
    "encodec": (1.0, 16),
    "stereo": (1.0, 16),
    "dac": (1.0, 16),
    "wavlm": (4.0, 16),
    "wavlm_sv": (10.0, 12),
}


def refused(name: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_embedder(str(name), "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_specs_say_what_is_promised():
    known = plugins("embeddings")
    inside = {"pocket", "voiceprint", "resemblyzer"}  # whose weights come in a package
    assert known.keys() == inside | {"clap", "encodec", "dac", "wavlm", "wavlm_sv"}
    for name, one in known.items():
        assert one.spec["name"] == name and one.spec["hears"] in ("music", "sound", "speech")
        assert {"summary", "default", "licence", "text", "needs", "dimension"} <= one.spec.keys()
        assert one.spec["default"] or one.spec.get("suggests") or name in inside


def test_the_package_is_light():
    code = (
        "import sys, tunesmith.embeddings\n"
        "from tunesmith.registry import plugins\n"
        "plugins('embeddings'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", MODELS)
def test_rows_one_a_window_and_the_same_each_time(saved, noise, kind):
    window_s, width = MODELS[kind]
    ear = open_embedder(str(saved(kind)), "cpu")
    assert (ear.window_s, ear.dimension, ear.small) == (window_s, width, False)
    for windows, count, rate_hz, channels in (
        (2.5, 3, 8000, 1),
        (0.001, 1, 8000, 1),
        (1, 1, 22_050, 2),
    ):
        sound = noise(windows * window_s, rate_hz, channels)
        rows = ear.embed(sound)
        assert rows.dtype == np.float64 and np.isfinite(rows).all()
        assert rows.shape == (count, width)
    assert np.array_equal(rows, ear.embed(sound))
    again = open_embedder(str(saved(kind)), "cpu")
    assert (again.key, again.label) == (ear.key, ear.label)
    assert np.array_equal(again.embed(sound), rows)


@pytest.mark.parametrize("kind", MODELS)
def test_another_sound_and_other_weights_give_other_rows(saved, noise, kind):
    ear = open_embedder(str(saved(kind)), "cpu")
    other = open_embedder(str(saved(kind, seed=1)), "cpu")
    sound = noise(MODELS[kind][0])
    rows = ear.embed(sound)
    size = np.abs(rows).max()
    assert np.abs(ear.embed(noise(MODELS[kind][0], seed=1)) - rows).max() > 1e-4 * size
    assert np.abs(other.embed(sound) - rows).max() > 1e-2 * size
    assert ear.key != other.key and ear.label != other.label


@pytest.mark.parametrize("kind", ["encodec", "dac", "wavlm"])
def test_a_row_is_its_windows_alone(saved, noise, kind):
    window_s, _ = MODELS[kind]
    ear = open_embedder(str(saved(kind)), "cpu")
    rate_hz = 16_000 if kind == "wavlm" else 1600
    parts = [noise(window_s, rate_hz, seed=seed) for seed in range(3)]
    whole = Audio(np.concatenate([part.samples for part in parts], axis=1), rate_hz)
    apart = np.concatenate([ear.embed(part) for part in parts])
    np.testing.assert_allclose(ear.embed(whole), apart, rtol=1e-3, atol=1e-6)


def test_codecs_pool_what_their_encoder_gives(saved, noise):
    import torch
    from transformers import DacModel, EncodecModel

    sound = noise(1.0, 1600)
    values = torch.from_numpy(sound.samples)[None]
    with torch.inference_mode():
        latents = EncodecModel.from_pretrained(saved("encodec")).eval().encoder(values).double()[0]
    wanted = torch.cat([latents.mean(dim=1), latents.std(dim=1, correction=0)]).numpy()
    np.testing.assert_allclose(open_embedder(str(saved("encodec")), "cpu").embed(sound)[0], wanted)
    with torch.inference_mode():
        latents = DacModel.from_pretrained(saved("dac")).eval().encoder(values).double()[0]
    wanted = latents.mean(dim=1).numpy()
    np.testing.assert_allclose(open_embedder(str(saved("dac")), "cpu").embed(sound)[0], wanted)


def test_a_levelled_stereo_codec_does_not_hear_gain_but_hears_sides(saved, noise):
    ear = open_embedder(str(saved("stereo")), "cpu")
    sound = noise(1.0, 1600, channels=2)
    rows = ear.embed(sound)
    louder = ear.embed(Audio(4 * sound.samples, 1600))
    np.testing.assert_allclose(louder, rows, rtol=1e-4)
    swapped = ear.embed(Audio(sound.samples[::-1].copy(), 1600))
    assert np.abs(swapped - rows).max() > 1e-3
    mono = noise(1.0, 1600)
    twice = Audio(np.repeat(mono.samples, 2, axis=0), 1600)
    assert np.array_equal(ear.embed(mono), ear.embed(twice))


def test_wavlm_is_the_mean_over_layers_and_frames(saved, noise):
    import torch
    from transformers import WavLMForXVector, WavLMModel

    sound = noise(1.0)
    level = (sound.samples[0] - sound.samples[0].mean()) / np.sqrt(sound.samples[0].var() + 1e-7)
    values = torch.from_numpy(level.astype(np.float32))[None]
    model = WavLMModel.from_pretrained(saved("wavlm")).eval()
    with torch.inference_mode():
        states = model(values, output_hidden_states=True).hidden_states
    assert len(states) == 3
    wanted = torch.stack(states[1:]).double().mean(dim=(0, 2))[0].numpy()
    rows = open_embedder(f"wavlm:{saved('wavlm')}", "cpu").embed(sound)
    np.testing.assert_allclose(rows[0], wanted, rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        voice = WavLMForXVector.from_pretrained(saved("wavlm_sv")).eval()(values).embeddings[0]
    rows = open_embedder(f"wavlm_sv:{saved('wavlm_sv')}", "cpu").embed(sound)
    np.testing.assert_allclose(rows[0], (voice / voice.norm()).numpy(), rtol=1e-3, atol=1e-5)


def test_clap_has_one_space_for_sound_and_text(saved, noise):
    ear = open_embedder(f"clap:{saved('clap')}", "cpu")
    assert isinstance(ear, TextEmbedder)
    assert not isinstance(open_embedder("pocket"), TextEmbedder)
    texts = [f"a tune of {number}" for number in range(70)]
    rows = ear.embed_text(texts)
    assert rows.shape == (70, 16) and rows.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ear.embed(noise(5.0)), axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(ear.embed_text(texts[66:67])[0], rows[66], atol=1e-5)
    assert np.isfinite(ear.embed_text(["long " * 200])).all()
    with pytest.raises(UserError, match="no texts"):
        ear.embed_text([])


def test_a_collapsed_clap_is_refused_as_the_captioner_refuses_it(saved):
    folder = saved("clap", collapsed=True)
    assert "cannot tell texts apart (cosine of unrelated ones: 1.000)" in refused(f"clap:{folder}")


def test_the_embedded_network_is_the_tagger(noise):
    ear = open_embedder("pocket")
    sound = noise(2.6, 22_050, 2)
    assert np.array_equal(ear.embed(sound), tagger.load().embed(sound))
    assert (ear.dimension, ear.window_s, ear.small) == (64, 1.0, True)
    assert ear.label.startswith("pocket tagger-64@") and len(ear.label.partition("@")[2]) == 12


def test_the_config_decides_where_no_embedding_is_named(saved):
    for kind in ("clap", "encodec", "dac", "wavlm", "wavlm_sv"):
        assert open_embedder(str(saved(kind)), "cpu").label.startswith(f"{kind} {kind}@")
    # A WavLM with a head is a WavLM, too, to who asks for one.
    assert open_embedder(f"wavlm:{saved('wavlm_sv')}", "cpu").label.startswith("wavlm ")


def test_what_is_not_there(tmp_path, saved):
    assert "no embedding 'clapp' - did you mean 'clap'?" in refused("clapp")
    assert "neither a folder nor in the cache" in refused("clap")
    assert "neither a folder nor in the cache" in refused("encodec:nobody/nothing")
    assert "neither a folder nor in the cache" in refused("nobody/nothing")
    assert "no dac embedding 'dak': neither a folder nor a hub id" in refused("dac:dak")
    assert "takes no model" in refused("pocket:mine")
    assert "wavlm:microsoft/wavlm-base-plus@REVISION" in refused("wavlm")
    assert "is a 'encodec' model, not a 'dac'" in refused(f"dac:{saved('encodec')}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vits"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "no .safetensors weights, and pickled ones are never opened" in refused(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is a 'vits' model, which none here hears with" in refused(tmp_path)
    # A WavLM without the head for voices is not given random weights for one.
    assert "weights missing or misshapen" in refused(f"wavlm_sv:{saved('wavlm')}")


def test_a_hub_id_in_the_cache(tmp_path, saved, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef" + 24 * "0"
    store = tmp_path / "models--someone--tiny"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = shutil.copytree(saved("encodec"), store / "snapshots" / commit)
    ear = open_embedder("encodec:someone/tiny", "cpu")
    assert ear.label == "encodec someone/tiny@0123456789ab"
    assert open_embedder("someone/tiny", "cpu").key == ear.key
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "give a revision that has them" in refused("encodec:someone/tiny")


def test_an_embedding_of_ones_own(tmp_path, noise):
    """A file is a plug-in: nothing else is touched."""
    source = tmp_path / "level.py"
    source.write_text(
        "import numpy as np\n"
        'SPEC = {"name": "level", "summary": "level", "default": None}\n'
        "class Level:\n"
        '    label, key, window_s, dimension, small = "level 1", "level-1", 60.0, 1, True\n'
        "    def embed(self, audio):\n"
        "        return np.array([[np.abs(audio.samples).max()]], np.float64)\n"
        "def load(name, device):\n"
        "    return Level()\n"
    )
    assert open_embedder(str(source)).embed(noise(1.0)).shape == (1, 1)


def test_sounds_that_cannot_be_heard(saved, noise):
    empty = Audio(np.zeros((1, 0), np.float32), 16_000)
    broken = noise(1.0)
    broken.samples[0, 5] = np.nan
    for name in ("pocket", saved("encodec"), saved("wavlm"), saved("clap")):
        ear = open_embedder(str(name), "cpu")
        for sound in (empty, broken):
            with pytest.raises(UserError, match="no samples, or NaN or infinity"):
                ear.embed(sound)
        assert np.isfinite(ear.embed(Audio(np.zeros((2, 9000), np.float32), 44_100))).all()


def test_windows_are_whole_and_reach_both_ends():
    sound = np.arange(200).reshape(2, 100)
    for size in (7, 30, 40, 60, 100):
        windows = cut(sound, size)
        assert len(windows) == max(1, int(100 / size + 0.5))
        assert all(window.shape == (2, size) for window in windows)
        if len(windows) > 1:
            assert windows[0][0, 0] == 0 and windows[-1][0, -1] == 99
    assert [window.tolist() for window in cut(np.arange(6), 2)] == [[0, 1], [2, 3], [4, 5]]
    assert np.array_equal(cut(sound, 130)[0], sound)


def test_sound_at_a_models_rate_and_channels():
    time_s = np.arange(44_100) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time_s)
    stereo = Audio(np.stack([tone, 0 * tone]).astype(np.float32), 44_100)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    mono = sound_at(stereo, 16_000)
    assert mono.shape == (1, 16_000) and mono.dtype == np.float32
    assert np.abs(mono[0] - wanted / 2)[500:-500].max() < 1e-3
    both = sound_at(stereo, 16_000, 2)
    assert np.abs(both[0] - wanted)[500:-500].max() < 1e-3 and np.abs(both[1]).max() == 0
    assert sound_at(stereo, 16_000, 1, least_s=2.0).shape == (1, 32_000)
    three = Audio(np.ones((3, 100), np.float32), 16_000)
    assert np.array_equal(sound_at(three, 16_000, 2), np.ones((2, 100), np.float32))


def test_nothing_that_pickles_is_asked_of_the_hub():
    from tunesmith.captioners import _model

    kinds = {Path(pattern).suffix for pattern in (*_model._SMALL, *_model._WEIGHTS)}
    assert kinds == {".json", ".model", ".txt", ".jinja", ".safetensors"}
