"""NF4: what is stored is what bitsandbytes would store, and training through it is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tunesmith.errors import UserError
from tunesmith.families._quantize import packable, quantize
from tunesmith.families.musicgen._tiny import tiny_bundle
from tunesmith.methods import lora

bitsandbytes = pytest.importorskip("bitsandbytes")
functional = bitsandbytes.functional


def tiny(seed: int) -> Any:
    """Wide enough for whole blocks."""
    return tiny_bundle(seed, width=64)


def packed(double: bool = True) -> Any:
    bundle = tiny(0)
    quantize(bundle, torch.device("cpu"), double=double)
    return bundle


def dequantised(linear: Any) -> torch.Tensor:
    return functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)


@pytest.mark.parametrize("double", [True, False])
def test_values_are_those_of_the_library(double: bool):
    bundle, plain = packed(double), tiny(0)
    places = packable(plain)
    # Two layers of two attentions with four linears each, and of one feed-forward with two.
    assert len(places) == 2 * (2 * 4 + 2)
    for component, path in places:
        weight = plain.components[component].get_submodule(path).weight.detach()
        codes, state = functional.quantize_4bit(
            weight, quant_type="nf4", compress_statistics=double
        )
        ours = dequantised(bundle.components[component].get_submodule(path))
        assert torch.equal(ours, functional.dequantize_4bit(codes, state))
        assert 0.02 < float((ours - weight).norm() / weight.norm()) < 0.2


def test_every_value_is_one_of_sixteen_times_its_block():
    """NF4 by hand: the nearest of the sixteen levels, times the largest magnitude of 64 weights."""
    linear = packed(False).components["decoder"].get_submodule("model.decoder.layers.0.fc1")
    weight = tiny(0).components["decoder"].get_submodule("model.decoder.layers.0.fc1").weight
    blocks = weight.detach().flatten().view(-1, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    levels = functional.get_4bit_type("nf4", device="cpu")
    assert len(levels) == 16 and float(levels.min()) == -1 and float(levels.max()) == 1
    nearest = levels[(blocks[..., None] / scale[..., None] - levels).abs().argmin(dim=-1)] * scale
    torch.testing.assert_close(dequantised(linear).flatten().view(-1, 64), nearest)


def test_double_quantisation_costs_little_and_takes_less():
    once, twice = (
        packed(double).components["decoder"].get_submodule("model.decoder.layers.0.fc1")
        for double in (False, True)
    )
    assert twice.weight.quant_state.nested and not once.weight.quant_state.nested
    assert twice.weight.quant_state.absmax.dtype == torch.uint8
    difference = (dequantised(twice) - dequantised(once)).norm() / dequantised(once).norm()
    assert 0 < float(difference) < 0.02


def test_gradients_through_it_are_those_of_the_dequantised_weights():
    """Also after an evaluation, at which the library repacks weights where the processor invites it."""
    bundle = packed()
    linear = bundle.components["decoder"].get_submodule("model.decoder.layers.0.fc1")
    draw = torch.Generator().manual_seed(0)
    sound, slope = (torch.randn(5, width, generator=draw) for width in (64, 128))
    bundle.module.eval()
    with torch.no_grad():
        linear(sound)
    bundle.module.train()
    ours, theirs = (sound.clone().requires_grad_() for _ in range(2))
    left, right = linear(ours), F.linear(theirs, dequantised(linear), linear.bias)
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
    left.backward(slope)
    right.backward(slope)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_the_same_base_comes_out_each_time():
    left, right = packed().module.state_dict(), packed().module.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_merging_into_four_bits_is_refused():
    bundle = packed()
    adapter = lora.attach(bundle, lora.Config(rank=2), 0)
    with pytest.raises(UserError, match="full-precision"):
        adapter.merge()


def test_rows_that_are_no_whole_blocks_stay_as_they_are():
    bundle = tiny_bundle(0)
    quantize(bundle, torch.device("cpu"))
    layer = bundle.components["decoder"].get_submodule("model.decoder.layers.0")
    assert type(layer.fc1) is torch.nn.Linear
    assert type(layer.fc2).__name__ == "Linear4bit"


def test_a_device_without_it_is_named():
    with pytest.raises(UserError, match="mps"):
        quantize(tiny(0), torch.device("mps"))
