"""What holds full fine-tuning back: rates by layer, a pull toward the start, dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.config import TrainConfig
from tunesmith.families.musicgen import tiny
from tunesmith.methods import full
from tunesmith.training.optimizer import build_optimizer


def test_rates_fall_by_a_factor_from_layer_to_layer():
    """Two layers: the top one, norm and heads learn at 1, the lower at ½, all below them at ¼."""
    parts = ("decoder", "conditioner", "text_encoder")
    adapter = full.attach(tiny(0), full.Config(components=parts, layer_decay=0.5))
    rates = adapter.rates()
    root = "decoder/model.decoder"
    for name, wanted in (
        (f"{root}.layers.1.fc1.weight", 1.0),
        (f"{root}.layers.1.final_layer_norm.bias", 1.0),
        (f"{root}.layers.0.self_attn.q_proj.weight", 0.5),
        (f"{root}.layers.0.encoder_attn_layer_norm.weight", 0.5),
        (f"{root}.embed_tokens.3.weight", 0.25),
        (f"{root}.layer_norm.weight", 1.0),
        ("decoder/lm_heads.0.weight", 1.0),
        ("conditioner/weight", 0.25),
    ):
        assert name in adapter.parameters()
        assert rates.get(name, 1.0) == wanted, name
    below = [name for name in adapter.parameters() if name.startswith("text_encoder/")]
    assert below and {rates[name] for name in below} == {0.25}
    assert full.attach(tiny(0), full.Config()).rates() == {}


def test_the_optimizer_gives_each_parameter_its_rate_and_only_matrices_decay():
    names = {
        "low.weight": nn.Parameter(torch.ones(2, 2)),
        "high.weight": nn.Parameter(torch.ones(2, 2)),
        "high.bias": nn.Parameter(torch.ones(2)),
    }
    train = TrainConfig(lr=0.1, weight_decay=0.5)  # type: ignore[call-arg]
    optimizer = build_optimizer(names, {"low.weight": 0.25}, train)
    found = {
        id(p): (group["factor"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert found[id(names["low.weight"])] == (0.25, 0.5)
    assert found[id(names["high.weight"])] == (1.0, 0.5)
    assert found[id(names["high.bias"])] == (1.0, 0.0)


def test_the_pull_is_a_share_of_the_way_back_to_the_start():
    """θ ← θ − lr·factor·pull·(θ − θ₀), by hand."""
    adapter: Any = full.attach(tiny(0), full.Config(pull=0.5, layer_decay=0.5))
    start = {name: p.detach().clone() for name, p in adapter.parameters().items()}
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=draw))
    moved = {name: p.detach().clone() for name, p in adapter.parameters().items()}
    adapter.after_step(0.2)
    for name, parameter in adapter.parameters().items():
        share = 0.2 * adapter.rates().get(name, 1.0) * 0.5
        wanted = moved[name] - share * (moved[name] - start[name])
        torch.testing.assert_close(parameter.detach(), wanted)
    none = full.attach(tiny(0), full.Config())
    before = {name: p.detach().clone() for name, p in none.parameters().items()}
    none.after_step(0.2)
    assert all(torch.equal(p, before[name]) for name, p in none.parameters().items())


def test_dropout_is_set_and_attention_keeps_its_own():
    bundle: Any = tiny(0)
    full.attach(bundle, full.Config(dropout=0.3))
    layer = bundle.components["decoder"].model.decoder.layers[0]
    assert layer.dropout == bundle.components["decoder"].model.decoder.dropout == 0.3
    assert layer.self_attn.dropout == 0.0
    drops = [m.p for m in bundle.components["text_encoder"].modules() if isinstance(m, nn.Dropout)]
    assert drops and set(drops) == {0.3}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"layer_decay": 0.0}, "method.layer_decay"),
        ({"layer_decay": 1.1}, "method.layer_decay"),
        ({"dropout": 1.0}, "method.dropout"),
        ({"pull": -0.1}, "method.pull"),
        ({"components": ("decodr",)}, "method.components"),
    ],
)
def test_settings_without_sense_are_named(settings: dict[str, Any], key: str):
    (fault,) = full.check(tiny(0), full.Config(**settings))
    assert fault.key == key
    assert fault.mend
