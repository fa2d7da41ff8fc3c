"""The one-operation LoRA linear against PEFT's own, forward and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from tunesmith.families.musicgen import tiny
from tunesmith.methods import _lora_linear as quick
from tunesmith.methods import lora
from tunesmith.methods._lora_linear import LoraLinear


def adapted(kind: type[nn.Module] = LoraLinear, *, bias: bool = True, **options: Any) -> nn.Module:
    """A linear of 6 to 5 with an adapter of rank 2 away from its start; the same for each kind."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=bias)).requires_grad_(False)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["0"], **options)
    config._register_custom_module({nn.Linear: kind})
    tuner = LoraModel(model, config, "default")
    draw = torch.Generator().manual_seed(1)
    for name, parameter in tuner.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw)
    return tuner


def result(model: nn.Module, shape: tuple[int, ...], dtype: Any = None) -> dict[str, Tensor]:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        y = model(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **grads}  # type: ignore[dict-item]


@pytest.mark.parametrize("shape", [(3, 6), (2, 4, 6), (1, 1, 6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_values_and_gradients_are_those_of_peft(shape: Any, bias: bool, dtype: Any):
    ours = result(adapted(bias=bias), shape, dtype)
    theirs = result(adapted(Linear, bias=bias), shape, dtype)
    assert ours.keys() == theirs.keys()
    assert len(ours) == 4  # of x and the two factors; none of the frozen linear
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype is None else {"rtol": 0.05, "atol": 0.05}
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        torch.testing.assert_close(ours[name], tensor, **close)


def test_gradients_are_the_derivatives():
    weight, bias = torch.randn(5, 6).double(), torch.randn(5).double()
    x, down, up = (
        torch.randn(shape).double().requires_grad_() for shape in ((3, 6), (2, 6), (5, 2))
    )
    assert torch.autograd.gradcheck(
        lambda *tensors: quick._Adapted.apply(tensors[0], weight, bias, *tensors[1:], 1.5),
        (x, down, up),
    )


def test_what_is_not_plain_goes_pefts_way(monkeypatch: pytest.MonkeyPatch):
    def refuse(*tensors: Any) -> Any:
        raise AssertionError("not plain")

    plain, dropped, training = adapted(), adapted(lora_dropout=0.5), adapted()
    training.model[0].base_layer.weight.requires_grad_(True)  # type: ignore[union-attr, index]
    x = torch.randn(3, 6)
    with_adapter = plain(x)
    monkeypatch.setattr(quick._Adapted, "apply", refuse)
    for model in (dropped, training):
        model(x)
    with pytest.raises(AssertionError, match="not plain"):
        plain(x)
    layer: Any = plain.model[0]  # type: ignore[index]
    layer.enable_adapters(False)
    assert torch.equal(plain(x), layer.base_layer(x))
    layer.enable_adapters(True)
    layer.merge()
    torch.testing.assert_close(plain(x), with_adapter)


def test_the_method_uses_it_where_it_can():
    bundle: Any = tiny(0)
    adapter = lora.attach(bundle, lora.Config(rank=2, targets=("q", "k", "v", "o")))
    kinds = {type(layer) for layer in adapter._layers()}
    assert kinds == {LoraLinear}
    bundle = tiny(0)
    kinds = {type(layer) for layer in lora.attach(bundle, lora.Config(rank=2, dora=True))._layers()}
    assert kinds == {Linear}
