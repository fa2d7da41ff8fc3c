"""What a run will take: the account of memory, the page, and settings that fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.config import load_config
from tunesmith.errors import UserError
from tunesmith.training.memory import Device, Meter, acted_out, backward, nf4_bytes
from tunesmith.training.plan import make_plan
from tunesmith.training.plan_fit import fit, parse_size

GEOMETRY = {"base": "pocket", "method": "lora", "base.dtype": "float32", "preview.every": 0}


def plan_of(clips: int = 8, seconds: float = 5.0, device: str = "cpu", **settings):
    given = GEOMETRY | {key.replace("__", "."): value for key, value in settings.items()}
    loaded = load_config(None, given, planning=True)
    return make_plan(loaded, clips=clips, seconds=seconds, device=device)


def test_the_meter_counts_what_a_linear_keeps_and_lets_go_of():
    meter, device = Meter(), Device("cpu", torch.float32)
    with acted_out(meter, device):
        layer = nn.Linear(8, 16, bias=False, device="meta")
        meter.know(layer.parameters(), "weights")
        x = torch.empty(4, 8, device="meta")
        y = layer(x)
        assert meter.live["weights"] == 8 * 16 * 4
        assert meter.live["activations"] == 4 * 8 * 4 + 4 * 16 * 4
        del x  # the product keeps it for the backward pass
        assert meter.live["activations"] == 4 * 8 * 4 + 4 * 16 * 4
        backward(y.sum())
        del y
        assert meter.live["activations"] == 8 * 16 * 4  # the gradient


def test_states_to_go_back_to_take_disk():
    plain, fixed = plan_of(), plan_of(auto_fix=True)
    assert "states to go back to" not in plain.disk
    # The first and the three newest beside one that is being written, with AdamW's two moments.
    assert fixed.disk["states to go back to"] == 5 * 12 * fixed.trainable
    assert plan_of(auto_fix=True, watch=False).disk == plain.disk


def test_autocast_halves_what_a_product_makes():
    made = {}
    for dtype in (torch.float32, torch.bfloat16):
        with acted_out(Meter(), Device("cuda", dtype)):
            layer = nn.Linear(8, 16, device="meta")
            made[dtype] = layer(torch.empty(4, 8, device="meta")).dtype
            assert torch.is_autocast_enabled("meta") == (dtype is torch.bfloat16)
    assert made == {dtype: dtype for dtype in made}
    with pytest.raises(RuntimeError):
        torch.is_autocast_enabled("meta")


def test_nf4_weights_take_half_a_byte_and_their_constants():
    numbers = 64 * 256 * 3
    assert nf4_bytes(numbers) == numbers // 2 + numbers // 64 + 4 * 3
    assert nf4_bytes(numbers, double_quant=False) == numbers // 2 + 4 * numbers // 64


def test_memory_grows_with_what_it_depends_on():
    least = plan_of(train__batch_size=1).memory
    more = plan_of(train__batch_size=4).memory
    longer = plan_of(train__batch_size=1, seconds=10.0).memory
    spared = plan_of(train__batch_size=4, train__activation_checkpointing=True).memory
    assert more.parts["activations"] > 2.5 * least.parts["activations"]
    assert longer.parts["activations"] > 1.5 * least.parts["activations"]
    assert spared.phases["training"] < more.phases["training"]


def test_full_training_holds_moments_and_a_copy_of_the_start():
    plan = plan_of(method="full")
    assert plan.memory.parts["moments"] == 8 * plan.trainable
    assert plan.memory.parts["copies of the start"] == pytest.approx(4 * plan.trainable, rel=0.01)


def test_four_bit_weights_take_less_on_a_gpu():
    pytest.importorskip("bitsandbytes")
    full = plan_of(device="cuda").memory.parts["weights"]
    packed = plan_of(device="cuda", base__quantize="nf4").memory.parts["weights"]
    assert packed < 0.75 * full


def _plan_like(peak: float) -> Any:
    return SimpleNamespace(memory=SimpleNamespace(peak=peak, worst="training"))


def _fake(settings: Any) -> Any:
    """8 for the rest, 2 a clip, halved by checkpointing; 4-bit weights save 4, each rank unit costs."""
    a_clip = 1 if settings.get("train.activation_checkpointing") else 2
    rest = 4 if settings.get("base.quantize") else 8
    return _plan_like(
        rest + a_clip * settings.get("train.batch_size", 8) + settings.get("method.rank", 16) / 16
    )


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (25, {}),
        (17, {"train.batch_size": 4, "train.accumulate": 2}),
        (10, {"train.batch_size": 1, "train.accumulate": 8, "train.activation_checkpointing": True}),
        (7, {"train.batch_size": 2, "train.accumulate": 4, "train.activation_checkpointing": True,
             "base.quantize": "nf4"}),
    ],
)  # fmt: skip
def test_the_cheapest_change_that_fits_is_proposed(limit, expected):
    settings = {"base": "pocket", "method": "lora", "train.batch_size": 8, "method.rank": 16}
    loaded = load_config(None, settings, planning=True)
    assert dict(fit(loaded, limit, _fake).settings) == expected


def test_if_nothing_fits_the_least_is_told():
    loaded = load_config(None, {"base": "pocket", "method": "lora"}, planning=True)
    with pytest.raises(UserError, match="nothing fits"):
        fit(loaded, 1, _fake)


def test_full_training_is_never_offered_four_bits():
    loaded = load_config(None, {"base": "pocket", "method": "full"}, planning=True)
    asked: list[dict] = []
    with pytest.raises(UserError, match="nothing fits"):
        fit(loaded, 1, lambda settings: asked.append(dict(settings)) or _fake(settings))
    assert asked and not any("base.quantize" in one or "method.rank" in one for one in asked)


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8e9), ("7.5GiB", 7.5 * 2**30), ("800mb", 8e8), ("8", 8e9)]
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0GB", "-1GB", "eight"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="no size"):
        parse_size(text)


def test_the_command_prints_json_without_data(tmp_path: Path):
    words = ["plan", "--base", "pocket", "--method", "lora", "--json", "--clips", "60"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["material"]["clips"] == 60
    assert told["memory"]["peak"] == max(told["memory"]["phases"].values())
    assert told["verdict"]["word"] == "enough to try"
    assert "rank" in told["advice"][0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--fit", "much"], "no size"),
        (["--device", "tpu"], "not known"),
        (["--clips", "0"], "above 0"),
        (["--seconds", "-1"], "above 0"),
        (["--base", "nowhere"], "no base"),
    ],
)
def test_mistakes_are_told_in_words(more, said):
    words = ["plan", "--base", "pocket", "--method", "lora", *more]
    with pytest.raises(UserError, match=said):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_planned_is_near_measured(tmp_path: Path):
    from bench.plan import Case, judged, predicted_and_measured

    figure, good = judged(*predicted_and_measured(Case("pocket", "lora", 2, 2), "pocket", tmp_path))
    assert good, figure
