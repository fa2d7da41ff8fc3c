"""A base that brings a speaker encoder hears whom it is to speak as; one that does not says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from safetensors.torch import save_file

from tunesmith.analysis.speech_nets import XVector
from tunesmith.errors import UserError
from tunesmith.families.speecht5 import hearing, tiny
from tunesmith.types import Audio

SIZE = 8  # numbers that the tiny model wants of a speaker


def leave_encoder(folder: Path, size: int = SIZE, kind: str = "xvector") -> None:
    torch.manual_seed(0)
    network = XVector(width=16, pooled=16, size=size)
    path = folder / hearing.FILE
    path.parent.mkdir(parents=True)
    save_file(
        network.state_dict(),
        path,
        metadata={"config": json.dumps({"kind": kind, "network": network.config})},
    )


def speech(seed: int, seconds: float = 1.0, rate_hz: int = 16_000) -> Audio:
    draw = np.random.default_rng(seed)
    coloured = np.cumsum(draw.normal(0, 0.01, round(seconds * rate_hz)))
    return Audio((coloured - coloured.mean())[None].astype(np.float32), rate_hz)


@pytest.fixture
def bundle(tmp_path: Path) -> Any:
    leave_encoder(tmp_path)
    made = tiny()
    made._source = tmp_path
    return made


def test_a_base_without_an_encoder_hears_nobody(tmp_path: Path):
    assert tiny().hear_speaker([speech(0)]) is None
    made: Any = tiny()
    made._source = tmp_path
    assert made.hear_speaker([speech(0)]) is None


def test_a_voice_is_the_direction_between_its_recordings(bundle: Any):
    sounds = [speech(seed, 0.5 + seed) for seed in range(3)]
    each = torch.stack([bundle.hear_speaker([one]) for one in sounds])
    both = bundle.hear_speaker(sounds)
    assert both.shape == (SIZE,) and both.dtype == torch.float32
    assert float(both.norm()) == pytest.approx(1.0)
    wanted = torch.nn.functional.normalize(each.mean(dim=0), dim=0)
    assert torch.allclose(both, wanted, atol=1e-6)
    assert torch.equal(both, bundle.hear_speaker(sounds))
    # It is what the base takes as a speaker.
    bundle.use_conditioning({"speaker": both.tolist()})
    assert torch.allclose(bundle.voice, both, atol=1e-6)


def test_level_rate_and_channels_hardly_matter(bundle: Any):
    one = speech(1, 2.0)
    heard = bundle.hear_speaker([one])
    same = (
        Audio(one.samples / 4, 16_000),
        Audio(np.repeat(one.samples, 2, axis=0), 16_000),
        Audio(soxr.resample(one.samples[0], 16_000, 32_000)[None], 32_000),
    )
    for other in same:
        assert float(heard @ bundle.hear_speaker([other])) > 0.99


def test_what_cannot_be_heard_is_refused(bundle: Any):
    with pytest.raises(UserError, match="no recording"):
        bundle.hear_speaker([])
    bad = np.zeros((1, 16_000), np.float32), speech(0, 0.03).samples, np.full((1, 9999), np.nan)
    for samples in bad:
        with pytest.raises(UserError, match="recording 2 of a speaker is too short, silent or not"):
            bundle.hear_speaker([speech(0), Audio(samples, 16_000)])


def test_an_encoder_of_another_kind_or_size_is_refused(tmp_path: Path):
    for name, options, why in (
        ("wide", {"size": 12}, "vectors of 12 numbers, where the base wants 8"),
        ("other", {"kind": "voiceprint"}, "does not load"),
    ):
        leave_encoder(tmp_path / name, **options)
        with pytest.raises(UserError, match=why):
            hearing.encoder(tmp_path / name, SIZE)


def test_what_is_exported_hears_alike(bundle: Any, tmp_path: Path):
    bundle.export(tmp_path / "out")
    again: Any = tiny()
    again._source = tmp_path / "out"
    sounds = [speech(0)]
    assert torch.equal(again.hear_speaker(sounds), bundle.hear_speaker(sounds))
