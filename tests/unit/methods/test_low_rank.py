from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import UserError
from tunesmith.families.musicgen import tiny
from tunesmith.methods import lora
from tunesmith.methods._low_rank import Factors, approximated, padded, summed, truncated

D, K = 12, 9


def drawn(seed: int, rank: int, paths: tuple[str, ...] = ("a",)) -> Factors:
    draw = torch.Generator().manual_seed(seed)
    return {
        path: (torch.randn(rank, K, generator=draw), torch.randn(D, rank, generator=draw))
        for path in paths
    }


def deltas(factors: Factors) -> dict[str, torch.Tensor]:
    return {path: up.double() @ down.double() for path, (down, up) in factors.items()}


@given(
    ranks=st.lists(st.integers(1, 14), min_size=1, max_size=4),
    weights=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
@settings(max_examples=20)
def test_a_sum_is_the_weighted_sum_of_the_changes(ranks: list[int], weights: list[float]):
    """Ranks above the layer's size included, and weights of zero and below."""
    parts = [(drawn(n, rank), weight) for n, (rank, weight) in enumerate(zip(ranks, weights))]  # noqa: B905
    wanted = sum(weight * deltas(factors)["a"] for factors, weight in parts)
    found = summed(parts)
    assert found["a"][0].shape == (sum(ranks), K)
    torch.testing.assert_close(deltas(found)["a"], wanted, rtol=1e-5, atol=1e-5)


def test_what_a_part_lacks_is_zero_in_it_and_one_rank_holds_for_all():
    left, right = drawn(0, 2, ("a", "b")), drawn(1, 3, ("b", "c"))
    found = summed([(left, 0.3), (right, -2.0)])
    assert {path: down.shape[0] for path, (down, _) in found.items()} == {"a": 2, "b": 5, "c": 3}
    even = padded(found)
    assert {down.shape[0] for down, _ in even.values()} == {5}
    assert {up.shape for _, up in even.values()} == {(D, 5)}
    wanted = {
        "a": 0.3 * deltas(left)["a"],
        "b": 0.3 * deltas(left)["b"] - 2 * deltas(right)["b"],
        "c": -2 * deltas(right)["c"],
    }
    for path, delta in deltas(even).items():
        torch.testing.assert_close(delta, wanted[path], rtol=1e-5, atol=1e-5)


def test_layers_of_other_sizes_cannot_be_added():
    other = {"a": (torch.ones(2, K + 1), torch.ones(D, 2))}
    with pytest.raises(UserError, match="different sizes"):
        summed([(drawn(0, 2), 1.0), (other, 1.0)])


@pytest.mark.parametrize("rank", [1, 3, 6, 9])
@pytest.mark.parametrize("own", [7, 14])
def test_truncation_loses_the_discarded_singular_values(own: int, rank: int):
    factors = drawn(5, own, ("a", "b"))
    found, loss = truncated(factors, rank)
    for path, delta in deltas(factors).items():
        values = torch.linalg.svdvals(delta)
        apart = deltas({path: found[path]})[path] - delta
        wanted = float(values[rank:].square().sum())
        assert found[path][0].shape[0] <= rank
        assert loss.whole[path] == pytest.approx(float(values.square().sum()), rel=1e-9)
        assert loss.lost[path] == pytest.approx(wanted, rel=1e-9, abs=1e-12)
        assert float(apart.square().sum()) == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    total = sum(loss.lost.values()) / sum(loss.whole.values())
    assert loss.error == pytest.approx(total**0.5)
    assert loss.worst[1] == max(loss.errors().values())


def test_a_whole_change_is_approximated_as_its_factors_are():
    factors = drawn(2, 6)
    whole, loss = approximated(deltas(factors), 3)
    same, also = truncated(factors, 3)
    torch.testing.assert_close(deltas(whole)["a"], deltas(same)["a"], rtol=1e-4, atol=1e-5)
    assert loss.error == pytest.approx(also.error)
    nothing, none = approximated({"a": torch.zeros(D, K)}, 2)
    assert none.error == 0 and not deltas(nothing)["a"].any()


# --- exact linears by their paths ---


def test_paths_choose_exactly_these_linears():
    bundle = tiny(0)
    paths = (
        "decoder/model.decoder.layers.1.fc1",
        "text_encoder/encoder.block.0.layer.0.SelfAttention.q",
    )
    config = lora.Config(rank=2, paths=paths)
    assert lora.check(bundle, config) == []
    assert lora.target_paths(bundle, config) == {
        "decoder": ["model.decoder.layers.1.fc1"],
        "text_encoder": ["encoder.block.0.layer.0.SelfAttention.q"],
    }
    count = lora.parameter_count(bundle, config)
    adapter = lora.attach(bundle, config)
    assert sum(p.numel() for p in adapter.parameters().values()) == count == 2 * (64 + 32 + 16 + 16)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        (
            "decoder/model.decoder.layers.1.fc3",
            r"did you mean 'decoder/model.decoder.layers.1.fc[12]'",
        ),
        ("nonsense", r"no linear 'nonsense'.*there are e\.g\. decoder/"),
        # The heads are read as weights: an adapter on them would be passed by.
        ("decoder/lm_heads.0", "no linear 'decoder/lm_heads.0'"),
    ],
)
def test_unknown_paths_are_named(path: str, complaint: str):
    bundle = tiny(0)
    (fault,) = lora.check(bundle, lora.Config(paths=(path,)))
    assert fault.key == "method.paths"
    assert re.search(complaint, str(fault))
    with pytest.raises(UserError, match=complaint):
        lora.attach(bundle, lora.Config(paths=(path,)))


def test_factors_and_back():
    bundle = tiny(0)
    config = lora.Config(rank=4, alpha=3.0, rslora=True)
    adapter = lora.attach(bundle, config)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.normal_()
    state = adapter.state()
    factors = lora.factors(state, config)
    wanted = lora.delta(state["decoder"], config)
    assert {f"decoder/{path}" for path in wanted} == factors.keys()
    again, packed = lora.from_factors(factors)
    assert (again.scale, again.rank) == (1.0, 4)
    for path, delta in lora.delta(packed["decoder"], again).items():
        torch.testing.assert_close(delta, wanted[path])
    with pytest.raises(UserError, match="not linear"):
        lora.factors(state, lora.Config(dora=True))
