"""What can stand together: every method on a base in 4 bits, and every method beside trained tokens."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Cell, bits, cells, example, losses, mixed, same_bits, shaken

from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.families._quantize import quantize
from tunesmith.formats.adapter import load_adapter, read_card, save_adapter
from tunesmith.methods._together import Beside, attach_all
from tunesmith.registry import plugin, tokens_method
from tunesmith.training.selftest import overfit

DETAILS = {"step": 1, "steps": 1, "metrics": {}}
CPU = torch.device("cpu")


def mono(*, trains_base: bool) -> list[Cell]:
    """Each method once on each family."""
    return [
        cell
        for cell in cells()
        if cell.variant.channels in (None, 1) and (trains_base or not cell.spec.get("trains_base"))
    ]


def packed(cell: Cell) -> Bundle:
    """The tiny model in 4 bits, in a width that has whole blocks."""
    pytest.importorskip("bitsandbytes")
    tiny: Any = plugin("families", cell.variant.family).load().tiny
    wide = {"width": 64} if "width" in inspect.signature(tiny).parameters else {}
    bundle = tiny(0, **wide)
    quantize(bundle, CPU)
    assert bundle.quantized == "nf4"
    return bundle


def some_steps(bundle: Bundle, adapter: Any, steps: int, lr: float) -> list[float]:
    clip = example(bundle, 0.4, adapter.caption("a test"))
    found, _ = overfit(bundle, adapter, clip, lr=lr, steps=steps, limit_s=1e9, target=-1.0)
    return found


@pytest.mark.parametrize("one", mono(trains_base=False), ids=str)
def test_a_method_on_a_base_in_four_bits(one: Cell, tmp_path: Path):
    bundle = packed(one)
    before = bits(bundle)
    adapter = one.attach(bundle)
    assert all(p.dtype == torch.float32 for p in adapter.parameters().values())
    found = some_steps(bundle, adapter, 30, one.spec["overfits"]["lr"])
    assert found[-1] < found[0] - 0.02
    declared = {id(p) for p in adapter.parameters().values()}
    assert {id(p) for p in bundle.module.parameters() if p.requires_grad} == declared
    assert bundle.agreement(example(bundle, 0.4, adapter.caption("a test"))) <= 1e-4
    save_adapter(tmp_path, adapter, bundle, DETAILS)
    assert read_card(tmp_path)["base"]["quantize"] == "nf4"
    for parameter in adapter.parameters().values():
        parameter.requires_grad_(False)
    batch = bundle.collate([example(bundle, 0.3, adapter.caption("a test"))], [1])
    wanted = losses(bundle, batch)
    with pytest.raises(UserError):
        adapter.merge()
    adapter.detach()
    same_bits(bits(bundle), before)
    fresh = packed(one)
    again = load_adapter(tmp_path, fresh)
    batch = fresh.collate([example(fresh, 0.3, again.caption("a test"))], [1])
    assert all(torch.equal(v, wanted[k]) for k, v in losses(fresh, batch).items())


def beside(cell: Cell, bundle: Bundle, seed: int | None = 0) -> Any:
    tokens = tokens_method().load()
    config = tokens.Config(token="[mine]", init="music", vectors=2)
    one = Beside("tokens", tokens_method().name, tokens, config)
    return attach_all(bundle, cell.load(), cell.config(), [one], seed)


@pytest.mark.parametrize(
    "one",
    [c for c in mono(trains_base=True) if c.method != tokens_method().name],
    ids=str,
)
def test_a_method_beside_trained_tokens(one: Cell, tmp_path: Path):
    bundle = one.make()
    before = bits(bundle)
    plain = bundle.collate(mixed(bundle), [1, 2, 3])
    base = losses(bundle, plain)
    adapter = beside(one, bundle)
    alone = one.attach(one.make())
    assert adapter.caption("a hum") == "[mine], a hum"
    assert len(adapter.parameters()) == len(alone.parameters()) + 1
    some_steps(bundle, adapter, 3, 1e-2)
    shaken(adapter, size=0.02)
    state = adapter.state()
    assert state["tokens"]["[mine]"].shape[0] == 2
    save_adapter(tmp_path, adapter, bundle, DETAILS)
    card = read_card(tmp_path)
    assert card["method"]["name"] == one.method
    assert card["tokens"]["token"] == "[mine]"
    assert not card["linear"]
    for parameter in adapter.parameters().values():
        parameter.requires_grad_(False)
    wanted = losses(bundle, bundle.collate([example(bundle, 0.3, "with [mine], loud")], [1]))
    with pytest.raises(UserError, match="tokens"):
        adapter.merge()
    adapter.set_strength(0.0)
    assert adapter.caption("a hum") == "a hum"
    for name, value in losses(bundle, plain).items():
        assert torch.equal(value, base[name])
    adapter.set_strength(1.0)
    adapter.detach()
    same_bits(bits(bundle), before)
    fresh = one.make()
    load_adapter(tmp_path, fresh)
    same = losses(fresh, fresh.collate([example(fresh, 0.3, "with [mine], loud")], [1]))
    assert all(torch.equal(value, wanted[name]) for name, value in same.items())


def test_a_fault_of_the_second_takes_the_first_off_again():
    cell = next(c for c in mono(trains_base=False) if c.spec["linear"])
    bundle = cell.make()
    before = bits(bundle)
    tokens = tokens_method().load()
    bad = tokens.Config(token="a", init="music")  # a letter that the vocabulary has
    one = Beside("tokens", tokens_method().name, tokens, bad)
    with pytest.raises(UserError):
        attach_all(bundle, cell.load(), cell.config(), [one], 0)
    same_bits(bits(bundle), before)
