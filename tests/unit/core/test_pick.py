"""The sampler against probabilities that are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tunesmith.families._sampling import pick
from tunesmith.types import GenerationSettings

LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.2, 0.0, 1.9])


def settings(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> GenerationSettings:
    return GenerationSettings(1.0, temperature, top_k, top_p)


def expected(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> list[float]:
    """Probabilities written out: sort, cut, renormalise."""
    weights = [2.718281828459045 ** (float(x) / temperature) for x in LOGITS]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])[: top_k or len(weights)]
    total = sum(weights[i] for i in order)
    kept, mass = [], 0.0
    for index in order:
        if mass < top_p:
            kept.append(index)
        mass += weights[index] / total
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(weights))]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 3},
        {"top_k": 1},
        {"top_k": 250},
        {"top_p": 0.6},
        {"top_p": 0.01},
        {"top_k": 4, "top_p": 0.8, "temperature": 1.5},
    ],
    ids=str,
)
def test_frequencies_are_the_probabilities(how: dict):
    count = 40_000
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(1))
    drawn = pick(LOGITS.expand(count, -1), uniform, settings(**how))
    found = torch.bincount(drawn, minlength=len(LOGITS)).tolist()
    wanted = expected(**how)
    live = [i for i, p in enumerate(wanted) if p > 0]
    assert sum(found[i] for i in live) == count
    if len(live) > 1:
        test = stats.chisquare([found[i] for i in live], [count * wanted[i] for i in live])
        assert test.pvalue > 1e-4


def test_temperature_zero_is_the_largest():
    assert int(pick(LOGITS, torch.tensor(0.99), settings(temperature=0.0))) == 1


@given(st.floats(0, 1, exclude_max=True, width=32), st.integers(0, 8), st.floats(0.01, 1))
def test_every_uniform_gives_a_kept_token(uniform: float, top_k: int, top_p: float):
    chosen = int(pick(LOGITS, torch.tensor(uniform), settings(top_k=top_k, top_p=top_p)))
    assert expected(top_k=top_k, top_p=top_p)[chosen] > 0


def test_larger_uniforms_give_less_likely_tokens():
    uniforms = torch.linspace(0, 0.999999, 1001)
    drawn = pick(LOGITS.expand(1001, -1), uniforms, settings())
    values = LOGITS[drawn]
    assert bool((values[1:] <= values[:-1]).all())
    assert len(drawn.unique()) == len(LOGITS)


def test_shapes_are_kept():
    assert pick(torch.randn(2, 3, 5), torch.rand(2, 3), settings(top_k=2)).shape == (2, 3)
