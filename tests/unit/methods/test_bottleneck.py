"""Bottlenecks against sums by hand, around plain, PEFT's and 4-bit linears."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.errors import UserError
from tunesmith.families.musicgen import tiny
from tunesmith.methods import bottleneck, lora
from tunesmith.methods.bottleneck import Bottleneck, Config

CPU = torch.device("cpu")

BY_HAND = {
    "relu": lambda z: max(z, 0.0),
    "gelu": lambda z: 0.5 * z * (1 + math.erf(z / math.sqrt(2))),
    "silu": lambda z: z / (1 + math.exp(-z)),
}


def busy(layer: Bottleneck) -> Bottleneck:
    """Away from the start, where W_up is zero and hides everything."""
    for _, parameter in layer.trained():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return layer


def formula(layer: Bottleneck, y: torch.Tensor) -> torch.Tensor:
    """W_up·relu(W_down·y), with what the layer holds."""
    narrow = (y @ layer.down.weight.T + layer.down.bias).clamp(min=0)
    return narrow @ layer.up.weight.T + layer.up.bias


@pytest.mark.parametrize("activation", list(BY_HAND))
@pytest.mark.parametrize("strength", [1.0, 0.5, -2.0])
def test_the_output_by_hand(activation: str, strength: float):
    inner = nn.Linear(5, 3)
    layer = busy(Bottleneck(inner, 3, Config(width=2, activation=activation), CPU))
    layer.strength = strength
    x = torch.randn(5, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y, found = inner(x).tolist(), layer(x).tolist()
    down, up = layer.down.requires_grad_(False), layer.up.requires_grad_(False)
    narrow = [
        BY_HAND[activation](
            sum(float(down.weight[j, i]) * y[i] for i in range(3)) + float(down.bias[j])
        )
        for j in range(2)
    ]
    for i in range(3):
        f = sum(float(up.weight[i, j]) * narrow[j] for j in range(2)) + float(up.bias[i])
        assert found[i] == pytest.approx(y[i] + strength * f, rel=1e-5, abs=1e-6)


def test_the_start_and_strength_zero_are_the_wrapped_linear_bit_for_bit():
    inner, x = nn.Linear(6, 6), torch.randn(4, 6)
    layer = Bottleneck(inner, 6, Config(width=3), CPU)
    assert torch.equal(layer(x), inner(x))
    busy(layer)
    assert not torch.equal(layer(x), inner(x))
    layer.strength = 0.0
    assert torch.equal(layer(x), inner(x))


def test_dropout_is_for_training_only():
    layer = busy(Bottleneck(nn.Linear(6, 6), 6, Config(width=3, dropout=0.5), CPU))
    x = torch.randn(40, 6)
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_detaching_puts_the_very_same_modules_back():
    bundle: Any = tiny(0)
    before = dict(bundle.module.named_modules())
    adapter = bottleneck.attach(bundle, Config())
    assert len(adapter.parameters()) == 4 * 3 * 2  # four tensors, three sublayers, two layers
    kept = list(adapter.parameters().values())
    adapter.detach()
    after = dict(bundle.module.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is module for name, module in before.items())
    assert not any(parameter.requires_grad for parameter in kept)


def test_around_layers_of_a_lora():
    bundle: Any = tiny(0)
    tuned = lora.attach(bundle, lora.Config(rank=2, targets=("o", "down")))
    place = bundle.components["decoder"].model.decoder.layers[1]
    inside = place.fc2
    adapter = bottleneck.attach(bundle, Config(width=2))
    layer = busy(place.fc2)
    x = torch.randn(2, 64)
    y = inside(x)
    torch.testing.assert_close(layer(x), y + formula(layer, y))
    assert all("lora" not in name for name in adapter.parameters())
    adapter.detach()
    assert place.fc2 is inside
    tuned.detach()


@pytest.mark.parametrize("kind", ["bfloat16", "nf4"])
def test_around_a_base_of_another_precision_it_trains_in_float32(kind: str):
    plain = nn.Linear(64, 64, bias=False).requires_grad_(False)
    if kind == "nf4":
        bnb = pytest.importorskip("bitsandbytes")
        inner = bnb.nn.Linear4bit(
            64, 64, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16
        )
        inner.load_state_dict(plain.state_dict())
        inner = inner.to("cpu")
        assert inner.weight.dtype == torch.uint8, "it is not quantised"
    else:
        inner = plain.to(torch.bfloat16)
    layer = busy(Bottleneck(inner, 64, Config(width=4), CPU))
    x = torch.randn(3, 64).to(torch.bfloat16)
    found, y = layer(x), inner(x)
    assert found.dtype == y.dtype == torch.bfloat16
    torch.testing.assert_close(found, y + formula(layer, y.float()).bfloat16())
    found.float().square().sum().backward()
    for _, parameter in layer.trained():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert bool(parameter.grad.any())


@pytest.mark.parametrize(
    ("settings", "key", "word"),
    [
        ({"width": 0}, "method.width", "below 1"),
        ({"width": 33}, "method.width", "above the layer's size 32"),
        ({"activation": "rellu"}, "method.activation", "did you mean 'relu'"),
        ({"roles": ("vocoder",)}, "method.roles", "no use for 'vocoder'"),
        ({"roles": ()}, "method.roles", "no layer"),
        ({"dropout": 1.0}, "method.dropout", "not in 0..1"),
        ({"dropout": -0.1}, "method.dropout", "not in 0..1"),
    ],
)
def test_faults_are_named(settings: dict[str, Any], key: str, word: str):
    (fault,) = bottleneck.check(tiny(0), Config(**settings))
    assert fault.key == key
    assert word in str(fault)


def test_it_says_why_it_cannot_be_merged():
    adapter = bottleneck.attach(tiny(0), Config(width=2))
    with pytest.raises(UserError, match="non-linear function cannot be folded") as caught:
        adapter.merge()
    assert "keep the adapter beside the base" in str(caught.value)


def test_what_was_saved_does_not_follow_what_trains():
    adapter = bottleneck.attach(tiny(0), Config(width=2))
    name, parameter = next(iter(adapter.parameters().items()))
    component, path = name.split("/")
    saved = adapter.state()[component][path]
    with torch.no_grad():
        parameter.add_(1)
    assert not torch.equal(saved, parameter)
    with pytest.raises(UserError, match="foreign"):
        adapter.load_state(dict(adapter.state()) | {"elsewhere": {"x": torch.ones(1)}})
