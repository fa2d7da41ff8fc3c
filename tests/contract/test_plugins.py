"""A new family and a new method are one file each, installed beside the package, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_data

import tunesmith.registry as registry
from tunesmith.config import load_config
from tunesmith.families import find_base, load
from tunesmith.formats.adapter import load_adapter
from tunesmith.tasks.generate import generate
from tunesmith.training.run import train
from tunesmith.training.signals import StopFlag

METHOD = '''
"""Trains one number a layer: the gain of each attention's output."""
from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.methods._adapter import Adapter, match_keys

SPEC = {"summary": "a gain", "roles": ["self_attention"], "linear": True, "identity_at_start": True}


@dataclass(frozen=True)
class Config:
    start: float = 1.0


def check(bundle, config):
    return []


def parameter_count(bundle, config):
    return len(bundle.sites_of(["self_attention"]))


class Gain(nn.Module):
    def __init__(self, inner, start):
        super().__init__()
        self.inner, self.gain, self.strength = inner, nn.Parameter(torch.tensor([start])), 1.0

    def forward(self, x):
        return self.inner(x) * (1 + self.strength * (self.gain - 1))


def attach(bundle, config, seed=0):
    return GainAdapter(bundle, config)


class GainAdapter(Adapter):
    method, linear = "gain", True

    def __init__(self, bundle, config):
        self.config, self._gains = config, {}
        for site in bundle.sites_of(["self_attention"]):
            parent, _, last = site.output.rpartition(".")
            holder = bundle.components[site.component].get_submodule(parent)
            gain = Gain(getattr(holder, last), config.start)
            setattr(holder, last, gain)
            self._gains[f"{site.component}/{site.output}"] = (holder, last, gain)

    def parameters(self):
        return {name: gain.gain for name, (_, _, gain) in self._gains.items()}

    def state(self):
        state = {}
        for name, (_, _, gain) in self._gains.items():
            component, path = name.split("/")
            state.setdefault(component, {})[path] = gain.gain.detach().clone()
        return state

    def load_state(self, state):
        for component, tensors in self.state().items():
            match_keys(component, tensors, state.get(component, {}))
            for path, value in state[component].items():
                self._gains[f"{component}/{path}"][2].gain.data.copy_(value)

    def set_strength(self, strength):
        for _, _, gain in self._gains.values():
            gain.strength = strength

    def merge(self):
        for _, _, gain in self._gains.values():
            gain.inner.weight.data.mul_(1 + gain.strength * (gain.gain.detach() - 1))
        self.detach()

    def detach(self):
        for holder, last, gain in self._gains.values():
            setattr(holder, last, gain.inner)
        self._gains = {}
'''

FAMILY = '''
"""Loudness instead of sound: a recurrent model of eight levels, one every tenth of a second."""
import numpy as np
import torch
from torch import nn

from tunesmith.families._bundle import Bundle, LossModule
from tunesmith.types import Audio, Batch, Site

SPEC = {
    "summary": "levels",
    "matches": [{"file": "config.json", "model_type": "levels"}],
    "roles": ["self_attention", "feed_forward"],
    "declines": {},
    "licence": "MIT",
}
RATE, HOP, LEVELS, WIDTH = 1000, 100, 8, 24


class Levels(LossModule):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(LEVELS + 1, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, LEVELS)

    def step(self, before, state):
        state = torch.tanh(self.out(self.mix(self.embed(before) + state)))
        return self.head(state), state

    def forward(self, batch):
        rows, length = batch.codes.shape[0], batch.codes.shape[-1]
        before, state = torch.full((rows,), LEVELS), torch.zeros(rows, WIDTH)
        sums = torch.zeros(rows)
        for t in range(length):
            logits, state = self.step(before, state)
            loss = nn.functional.cross_entropy(logits, batch.codes[:, 0, t], reduction="none")
            sums = sums + loss * (t < batch.frames)
            before = batch.codes[:, 0, t]
        return {"levels": (sums, self.count(batch)["levels"])}

    def count(self, batch):
        return {"levels": batch.frames.float()}


class LevelsBundle(Bundle):
    family, name, licence = "levels", "levels", "MIT"
    sample_rate_hz, channels, max_s, frame_rate_hz = RATE, 1, 4.0, RATE / HOP
    term_weights = {"levels": 1.0}
    codec_hash = text_hash = "levels"
    device = torch.device("cpu")

    def __init__(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = Levels()
        self.module.requires_grad_(False)
        self.base_hash = f"levels-{seed}"
        self.components = {"core": self.module}
        self.sites = (Site("self_attention", 0, "core", {"q": "mix"}, "out", WIDTH),)

    def encode_audio(self, audio):
        rows = audio.samples[0][: len(audio.samples[0]) // HOP * HOP].reshape(-1, HOP)
        loud = np.sqrt((rows**2).mean(1))
        return torch.from_numpy((loud * 16).astype(int).clip(0, LEVELS - 1))[None]

    def decode_audio(self, codes):
        loud = codes[0].float().repeat_interleave(HOP).numpy() / 16
        return Audio(loud[None].astype(np.float32), RATE)

    def release_codec(self):
        pass

    def encode_text(self, captions):
        return [{"length": torch.tensor([len(caption)])} for caption in captions]

    def collate(self, examples, seeds, drop=0.0):
        frames = torch.tensor([one.frames for one in examples])
        codes = torch.zeros(len(examples), 1, int(frames.max()), dtype=torch.long)
        for row, one in enumerate(examples):
            codes[row, :, : one.frames] = one.codes
        text = {"length": torch.stack([one.text["length"] for one in examples])}
        return Batch(codes, frames, text, seeds)

    @torch.no_grad()
    def generate_codes(self, prompts, duration_s, seeds, settings, audio_prompts=None,
                       should_stop=lambda: 0):
        found = []
        for seed in seeds:
            draw = torch.Generator().manual_seed(seed)
            before, state, row = torch.tensor([LEVELS]), torch.zeros(1, WIDTH), []
            for _ in range(round(duration_s * self.frame_rate_hz)):
                logits, state = self.module.step(before, state)
                before = torch.multinomial(logits.softmax(-1), 1, generator=draw)[0]
                row.append(int(before))
            found.append(torch.tensor([row]))
        return found

    def agreement(self, example):
        return 0.0

    def mismatch(self, wanted, given):
        return float((wanted != given).double().mean())

    def checkpoint_activations(self, enabled):
        pass


def limits(base):
    return RATE, 1, 4.0


def load(base, *, device="cpu", dtype=None):
    return LevelsBundle(0)


def tiny(seed=0):
    return LevelsBundle(seed)
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Both as an installed distribution: modules and entry points, found as any third party's."""
    site = tmp_path / "site"
    (site / "levels_and_gain-1.0.dist-info").mkdir(parents=True)
    (site / "their_gain.py").write_text(METHOD)
    (site / "their_levels.py").write_text(FAMILY)
    info = site / "levels_and_gain-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: levels-and-gain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tunesmith.families]\nlevels = their_levels\n[tunesmith.methods]\ngain = their_gain\n"
    )
    monkeypatch.syspath_prepend(site)
    registry.plugins.cache_clear()
    yield site
    registry.plugins.cache_clear()


def run(base: Path, method: str, data: Path, out: Path) -> Any:
    settings = {
        "base": str(base),
        "base.dtype": "float32",
        "method": method,
        "data": str(data),
        "out": str(out),
        "train.lr": 3e-2,
        "train.steps": 12,
        "train.batch_size": 2,
        "preview.seconds": 0.3,
    }
    return train(load_config(settings=settings), stop=StopFlag())


def test_both_are_found_and_fill_the_matrix(installed: Path):
    table = registry.matrix()
    assert table.keys() >= {"musicgen", "levels"}
    for family in ("musicgen", "levels"):
        assert table[family].keys() >= {"full", "lora", "gain"}
    assert table["levels"]["gain"] == table["musicgen"]["gain"] == "ok"


def test_a_new_method_trains_saves_and_loads(
    installed: Path, tiny_base: Path, tiny_data: Path, tmp_path: Path
):
    result = run(tiny_base, "gain", tiny_data, tmp_path / "run")
    assert result.trainable_parameters == 2
    bundle = load(find_base(str(tiny_base)))
    before = {name: value.clone() for name, value in bundle.module.state_dict().items()}
    adapter = load_adapter(tmp_path / "run", bundle)
    assert any(float(p) != 1.0 for p in adapter.parameters().values())
    adapter.detach()
    after = bundle.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("method", ["gain", "full", "lora"])
def test_a_new_family_is_trained_by_every_method(installed: Path, tmp_path: Path, method: str):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "levels"}))
    data = write_data(tmp_path / "data", (0.8, 1.0, 1.2, 0.9), valid=1, rate_hz=1000)
    result = run(base, method, data, tmp_path / "run")
    assert result.state.step == 12
    assert result.state.best_loss < (result.state.first_loss or 0)
    bundle = load(find_base(str(base)))
    load_adapter(tmp_path / "run", bundle)
    (take,) = generate(bundle, ["x"], duration_s=0.5, seed=1)
    assert take.audio.samples.shape == (1, 500)
    assert len(list((tmp_path / "run" / "previews").glob("*/*.flac"))) >= 4
