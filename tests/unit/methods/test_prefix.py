"""Prefixes against softmax by hand, and the seams of attention that they stand in."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EncoderDecoderCache
from transformers.cache_utils import DynamicCache

from tunesmith.errors import UserError
from tunesmith.families import _attention
from tunesmith.families._attention import causal_mask, make_joinable
from tunesmith.families.musicgen import tiny
from tunesmith.families.musicgen._tiny import tiny_model
from tunesmith.families.musicgen.delay import apply_delay
from tunesmith.families.stable_audio import tiny as tiny_stable_audio
from tunesmith.methods import prefix
from tunesmith.methods._prefix_vectors import JoinedKeys, JoinedStates, Vectors
from tunesmith.methods.prefix import Config
from tunesmith.types import Example, GenerationSettings

PLACEMENTS = pytest.mark.parametrize("placement", ["layers", "input"])
BIG = 2.0


def loud(adapter: prefix.PrefixAdapter, size: float = BIG) -> prefix.PrefixAdapter:
    """Away from a start that a base of random weights hardly attends to."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    return adapter


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attended(
    query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor], scale: float
) -> torch.Tensor:
    """Σ softmax(q·k)·v of one query, by a loop."""
    weights = [math.exp(scale * float(query @ key)) for key in keys]
    total = sum(weights)
    found = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        found = found + weight / total * value
    return found


# --- attention by hand ---


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("role", ["self_attention", "cross_attention"])
def test_attention_is_a_softmax_over_the_prefix_and_what_each_query_may_see(
    role: str, implementation: str
):
    model: Any = tiny_model(0)
    model.decoder.set_attn_implementation(implementation)
    make_joinable(model.decoder)
    layer = model.decoder.model.decoder.layers[0].eval()
    module = layer.self_attn if role == "self_attention" else layer.encoder_attn
    vectors = Vectors(drawn(4, 3, 16), None)  # two heads, three vectors
    module.joined = JoinedKeys(vectors)
    x, states = drawn(1, 4, 32, seed=1), drawn(1, 5, 32, seed=2)
    read = x if role == "self_attention" else states
    options: Any = {} if role == "self_attention" else {"key_value_states": states}
    if implementation == "eager" and role == "self_attention":
        # The library gives eager attention its mask, where the other has a flag.
        mask = causal_mask(4, 4)
        options["attention_mask"] = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        found, _ = module(x, **options)
        q, k, v = module.q_proj(x), module.k_proj(read), module.v_proj(read)
        rows = []
        for place in range(4):
            heads = []
            for head in range(2):
                part = slice(16 * head, 16 * head + 16)
                seen = place + 1 if role == "self_attention" else 5
                keys = [*vectors.own[head], *k[0, :seen, part]]
                values = [*vectors.own[2 + head], *v[0, :seen, part]]
                heads.append(attended(q[0, place, part], keys, values, 0.25))
            rows.append(torch.cat(heads))
        wanted = module.out_proj(torch.stack(rows))
    torch.testing.assert_close(found[0], wanted)


def test_the_causal_mask_by_hand():
    # Two queries, the last of five positions.
    wanted = [[True, True, True, True, False], [True, True, True, True, True]]
    assert causal_mask(2, 5)[0, 0].tolist() == wanted
    assert causal_mask(3, 3)[0, 0].tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@PLACEMENTS
def test_several_steps_behind_a_cache_are_those_of_one_pass(placement: str):
    bundle: Any = tiny(0)
    loud(prefix.attach(bundle, Config(placement=placement, init="random")))
    bundle.module.eval()
    decoder = bundle.module.model.decoder.model
    tokens = torch.randint(0, 32, (4, 7), generator=torch.Generator().manual_seed(0))
    states, mask = bundle.module.joined_text(drawn(1, 3, 32), torch.ones(1, 3, dtype=torch.long))
    text = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    with torch.no_grad():
        whole = decoder(tokens, use_cache=False, **text).last_hidden_state
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        parts = [
            decoder(part, past_key_values=cache, use_cache=True, **text).last_hidden_state
            for part in tokens.split([2, 4, 1], dim=1)
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


# --- the seam without anything in it ---


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_without_a_child_nothing_changes_by_a_bit(implementation: str):
    found = []
    for joinable in (False, True):
        model: Any = tiny_model(0).eval()
        model.decoder.set_attn_implementation(implementation)
        if joinable:
            make_joinable(model.decoder)
            assert model.decoder.config._attn_implementation == f"tunesmith_{implementation}"
        with torch.no_grad():
            found.append(
                model.decoder(
                    input_ids=torch.arange(24).view(4, 6),
                    encoder_hidden_states=drawn(1, 3, 32),
                    encoder_attention_mask=torch.tensor([[1, 1, 0]]),
                ).logits
            )
    assert torch.equal(found[0], found[1])


def test_a_child_that_joins_nothing_leaves_the_mask_to_the_flag(monkeypatch: pytest.MonkeyPatch):
    """An explicit mask takes another path through the kernels, which need not give the same bits."""
    bundle: Any = tiny(0)
    masks: list[Any] = []

    def spy(*given: Any, **options: Any) -> Any:
        masks.append(given[4])
        return original(*given, **options)

    original = _attention._original("sdpa", bundle.module)
    monkeypatch.setattr(_attention, "_original", lambda *_: spy)
    adapter = prefix.attach(bundle, Config(init="random", roles=("self_attention",)))
    bundle.module.eval()
    clip = Example("x", torch.zeros(4, 20, dtype=torch.long), bundle.encode_text(["a"])[0])
    for strength in (1, 0):
        masks.clear()
        adapter.set_strength(strength)
        bundle.module(bundle.collate([clip], [0]))
        assert [mask is None for mask in masks[::2]] == [strength == 0] * 2


def test_the_seam_does_not_leave_memory(tmp_path: Path):
    bundle: Any = tiny(0)
    bundle.module.model.decoder.save_pretrained(tmp_path)
    assert "tunesmith" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "musicgen_decoder"


def test_an_attention_without_masks_to_extend_is_refused():
    model: Any = tiny_model(0)
    model.decoder.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="flash_attention_2"):
        make_joinable(model.decoder)


# --- generation ---


@PLACEMENTS
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_prefix_that_nothing_attends_to_generates_what_the_base_does(
    placement: str, guidance: float
):
    """Positions are not shifted, and rows without text attend to nothing as before."""
    bundle: Any = tiny(0)
    settings = GenerationSettings(guidance=guidance)
    wanted = bundle.generate_codes(["a", "two words"], 0.5, [1, 2], settings)
    adapter = loud(prefix.attach(bundle, Config(placement=placement)))
    full = bundle.generate_codes(["a", "two words"], 0.5, [1, 2], settings)
    assert any(not torch.equal(left, right) for left, right in zip(full, wanted, strict=True))
    adapter.set_strength(1e-30)
    found = bundle.generate_codes(["a", "two words"], 0.5, [1, 2], settings)
    assert all(torch.equal(left, right) for left, right in zip(found, wanted, strict=True))


@PLACEMENTS
@pytest.mark.parametrize("channels", [1, 2])
def test_guidance_sees_the_prefix_in_both_rows(placement: str, channels: int):
    """Greedy generation is what one pass ranks first; its unconditional rows are dropped captions."""
    bundle: Any = tiny(0, channels=channels)
    loud(prefix.attach(bundle, Config(placement=placement)))
    bundle.module.eval()
    prompts = ["short", "a prompt of many more letters"]
    greedy = GenerationSettings(guidance=3.0, temperature=0.0)
    found = bundle.generate_codes(prompts, 0.5, [0, 1], greedy)
    texts = bundle.encode_text(prompts)
    clips = [Example("x", codes, text) for codes, text in zip(found, texts, strict=True)]
    logits = {}
    with torch.no_grad():
        for drop in (0.0, 1.0):
            batch = bundle.collate(clips, [0, 1], drop=drop)
            tokens, mask = apply_delay(batch.codes, batch.frames, bundle.module.shifts, 32)
            hidden = bundle.module.hidden(tokens[..., :-1], batch.text)
            logits[drop] = torch.einsum("bld,kvd->bklv", hidden, bundle.module.heads())
    both = logits[1.0] + 3.0 * (logits[0.0] - logits[1.0])
    taken = both.gather(-1, tokens[..., 1:].clamp(max=31)[..., None])[..., 0]
    assert float((both.max(dim=-1).values - taken)[mask[..., 1:]].max()) < 1e-4


# --- strength ---


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("masked", ["none", "boolean", "additive"])
def test_strength_weighs_the_share_of_attention(strength: float, masked: str):
    own, keys, values = drawn(2, 2, 4), drawn(1, 1, 3, 4, seed=1), drawn(1, 1, 3, 4, seed=2)
    query = drawn(1, 1, 1, 4, seed=3)
    mask = None if masked == "none" else torch.tensor([[[[True, True, False]]]])
    if masked == "additive" and mask is not None:
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    joined = JoinedKeys(Vectors(own, None))
    joined.strength = strength
    k, v, m = joined(keys, values, mask, query)
    found = torch.nn.functional.scaled_dot_product_attention(query, k, v, attn_mask=m, scale=1.0)
    seen = 3 if masked == "none" else 2
    mine = [strength * math.exp(float(query[0, 0, 0] @ key)) for key in own[0]]
    theirs = [math.exp(float(query[0, 0, 0] @ key)) for key in keys[0, 0, :seen]]
    total = sum(mine) + sum(theirs)
    wanted = sum(w / total * x for w, x in zip(mine, own[1], strict=True))
    wanted = wanted + sum(w / total * x for w, x in zip(theirs, values[0, 0, :seen], strict=True))
    torch.testing.assert_close(found[0, 0, 0], wanted)


def test_where_nothing_else_is_seen_a_null_key_stands_for_nothing():
    own, keys = drawn(2, 2, 4), drawn(1, 1, 3, 4, seed=1)
    query, blind = drawn(1, 1, 1, 4, seed=3), torch.zeros(1, 1, 1, 3, dtype=torch.bool)
    joined = JoinedKeys(Vectors(own, None))
    logits = [math.exp(float(query[0, 0, 0] @ key)) for key in own[0]]
    for strength in (1e-6, 0.3, 1.0, 2.0):
        joined.strength = strength
        k, v, m = joined(keys, keys, blind, query)
        found = torch.nn.functional.scaled_dot_product_attention(query, k, v, m, scale=1.0)
        total = strength * sum(logits) + max(0.0, 1 - strength)
        wanted = sum(strength * w / total * x for w, x in zip(logits, own[1], strict=True))
        torch.testing.assert_close(found[0, 0, 0], wanted, msg=f"strength {strength}")


def test_states_are_weighted_through_the_mask():
    joined = JoinedStates(Vectors(drawn(1, 2, 4), None))
    states, mask = drawn(2, 3, 4, seed=1), torch.tensor([[1, 1, 0], [0, 0, 0]])
    joined.strength = 0.25
    more, weights = joined(states, mask)
    assert more.shape == (2, 6, 4)
    assert bool((more[:, 0] == 0).all())
    assert torch.equal(more[:, 1:3], joined.vectors.own.expand(2, -1, -1))
    assert torch.equal(more[:, 3:], states)
    shares = weights.exp()[:, 0, 0]
    torch.testing.assert_close(
        shares, torch.tensor([[0, 0.25, 0.25, 1, 1, 0], [0.75, 0.25, 0.25, 0, 0, 0]])
    )
    joined.strength = 1.0
    assert joined(states, mask)[1].tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    joined.strength = 0.0
    assert joined(states, mask)[0] is states


@PLACEMENTS
def test_strength_zero_is_the_base_bit_for_bit(placement: str):
    bundle: Any = tiny(0)
    clip = Example("x", torch.arange(80).view(4, 20) % 32, bundle.encode_text(["a"])[0])
    batch = bundle.collate([clip], [0])
    bundle.module.eval()
    wanted = {name: total for name, (total, _) in bundle.module(batch).items()}
    adapter = loud(prefix.attach(bundle, Config(placement=placement)))
    adapter.set_strength(0)
    bundle.module.eval()
    for name, (total, _) in bundle.module(batch).items():
        assert torch.equal(total, wanted[name])
    with pytest.raises(UserError, match="no strength -1"):
        adapter.set_strength(-1)


# --- the start ---


def test_it_starts_from_what_the_base_attends_to_while_it_makes_something():
    bundle: Any = tiny(0)
    config = Config(length=6, init_text="a gong")
    seen: dict[str, torch.Tensor] = {}
    state = prefix.attach(bundle, config, seed=4).state()["decoder"]
    fresh: Any = tiny(0)
    layer = fresh.module.model.decoder.model.decoder.layers[1]
    for name in ("self_attn", "encoder_attn"):
        for part in ("k_proj", "v_proj"):
            getattr(getattr(layer, name), part).register_forward_hook(
                lambda m, i, out, key=f"{name}.{part}": seen.update({key: out.detach()})
            )
    (codes,) = fresh.generate_codes(["a gong"], 6 / 50, [4], fresh.sampling)
    assert codes.shape[-1] == 6
    (text,) = fresh.encode_text(["a gong"])
    fresh.module.eval()
    fresh.module(fresh.collate([Example("x", codes, text)], [0]))
    for name in ("self_attn", "encoder_attn"):
        for part, saved in (("k_proj", "keys"), ("v_proj", "values")):
            wanted = seen[f"{name}.{part}"][0].view(-1, 2, 16).transpose(0, 1)[:, :6]
            assert wanted.shape == (2, 6, 16)
            found = state[f"model.decoder.layers.1.{name}.{saved}"]
            torch.testing.assert_close(found, wanted)


def test_a_short_prompt_is_repeated_and_no_copy_equals_another():
    bundle: Any = tiny(0)
    config = Config(length=8, roles=("cross_attention",), init_text="ab")  # a, b, </s>
    state = prefix.attach(bundle, config, seed=4).state()["decoder"]
    for name in ("keys", "values"):
        found = state[f"model.decoder.layers.0.encoder_attn.{name}"]
        for copy in (found[:, 3:6], found[:, 6:]):
            first = found[:, : copy.shape[1]]
            apart = (copy - first).norm() / first.norm()
            assert 0.01 < float(apart) < 0.3


@PLACEMENTS
def test_a_prompt_that_leaves_places_empty_starts_no_two_vectors_alike(placement: str):
    bundle: Any = tiny_stable_audio(0)  # which reads so many words, however few there are
    config = Config(length=8, placement=placement, roles=("cross_attention",), init_text="a")
    for tensors in prefix.attach(bundle, config).state().values():
        for name, values in tensors.items():
            by_place = values.reshape(-1, 8, values.shape[-1]).transpose(0, 1).flatten(1)
            assert len(torch.unique(by_place, dim=0)) == 8, name


def test_what_tells_times_is_not_copied(monkeypatch: pytest.MonkeyPatch):
    bundle: Any = tiny_stable_audio(0)
    seen: dict[str, torch.Tensor] = {}
    listen = prefix._activations
    monkeypatch.setattr(prefix, "_activations", lambda *a: seen.update(listen(*a)) or seen)
    state = prefix.attach(bundle, Config(length=4)).state()["transformer"]
    for site in bundle.sites_of(["self_attention", "cross_attention"]):
        first = 1 if site.role == "self_attention" else 0
        keys, _ = seen[f"transformer/{site.attention}"].chunk(2)
        assert torch.equal(state[f"{site.attention}.keys"][:, 0], keys[:, first])


@PLACEMENTS
@pytest.mark.parametrize("init", ["activations", "random"])
def test_attaching_leaves_every_global_generator_alone(placement: str, init: str):
    bundle: Any = tiny(0)

    def after(attaching: bool) -> tuple[Any, ...]:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        if attaching:
            prefix.attach(bundle, Config(placement=placement, init=init, mlp=True)).detach()
        return random.random(), np.random.rand(), float(torch.rand(()))

    assert after(True) == after(False)


def test_values_to_be_loaded_are_not_computed(monkeypatch: pytest.MonkeyPatch):
    bundle: Any = tiny(0)
    monkeypatch.setattr(bundle, "generate_codes", lambda *_: pytest.fail("it generates"))
    adapter = prefix.attach(bundle, Config(mlp=True), None)
    assert all(not bool(parameter.any()) for parameter in adapter.parameters().values())


# --- the reparametrisation ---


@PLACEMENTS
def test_the_mlp_is_folded_away(placement: str):
    config = Config(length=5, placement=placement, mlp=True, mlp_width=8)
    bundle: Any = tiny(0)
    adapter: Any = prefix.attach(bundle, config)
    start = adapter.state()
    names = [name for name in adapter.parameters() if "mlp" in name or "head" in name]
    assert len(names) == 3 + 2 * len(adapter._vectors)
    loud(adapter, 0.5)
    folded = adapter.state()
    plain = prefix.attach(tiny(0), Config(length=5, placement=placement), None)
    assert {c: set(t) for c, t in folded.items()} == {c: set(t) for c, t in plain.state().items()}
    for name, vectors in adapter._vectors.items():
        hidden = torch.tanh(
            adapter._trunk.embeddings @ adapter._trunk.layer.weight.T + adapter._trunk.layer.bias
        )
        more = hidden @ vectors.head.weight.T + vectors.head.bias  # [P, N·d]
        count, _, size = vectors.own.shape
        for place in range(count):
            wanted = vectors.own[place] + more[:, size * place : size * (place + 1)]
            torch.testing.assert_close(vectors()[place], wanted, msg=name)
    # Another run takes the values over and goes on with an MLP that starts from nothing.
    adapter.load_state(start)
    for component, tensors in adapter.state().items():
        assert all(torch.equal(value, start[component][key]) for key, value in tensors.items())


def test_trained_vectors_are_float32_in_a_base_that_is_not():
    bundle: Any = tiny(0)
    bundle.module.to(torch.bfloat16)
    for placement in ("layers", "input"):
        adapter = prefix.attach(bundle, Config(placement=placement))
        assert {p.dtype for p in adapter.parameters().values()} == {torch.float32}
        assert len(bundle.generate_codes(["a"], 0.2, [0], GenerationSettings())) == 1
        adapter.detach()


# --- mistakes ---


@pytest.mark.parametrize(
    ("settings", "key", "word"),
    [
        ({"length": 0}, "method.length", "below 1"),
        ({"length": 201}, "method.length", "at once (200)"),
        ({"placement": "inputs"}, "method.placement", "did you mean 'input'"),
        ({"roles": ("feed_forward",)}, "method.roles", "no use for 'feed_forward'"),
        ({"roles": ()}, "method.roles", "no attention"),
        ({"init": "words"}, "method.init", "no init 'words'"),
        ({"init_text": " "}, "method.init_text", "empty"),
        ({"mlp_width": 0}, "method.mlp_width", "below 1"),
    ],
)
def test_faults_are_named(settings: dict[str, Any], key: str, word: str):
    bundle = tiny(0)
    (fault,) = prefix.check(bundle, Config(**settings))
    assert fault.key == key
    assert word in str(fault)
    with pytest.raises(UserError, match=key):
        prefix.attach(bundle, Config(**settings))


def test_more_vectors_than_frames_may_start_at_random():
    assert prefix.check(tiny(0), Config(length=201, init="random")) == []


def test_a_family_without_the_seam_is_refused():
    bundle: Any = tiny(0)
    del bundle.module._modules["joined_states"]
    (fault,) = prefix.check(bundle, Config(placement="input"))
    assert "no conditioning sequence" in str(fault)
    assert prefix.parameter_count(bundle, Config(placement="input")) == 0


def test_it_says_why_it_cannot_be_merged():
    adapter = prefix.attach(tiny(0), Config(init="random"))
    with pytest.raises(UserError, match="no change of any weight matrix"):
        adapter.merge()


@PLACEMENTS
def test_detaching_leaves_the_modules_as_they_were(placement: str):
    bundle: Any = tiny(0)
    before = list(bundle.module.named_modules())
    adapter = prefix.attach(bundle, Config(placement=placement))
    assert list(bundle.module.named_modules()) != before
    adapter.detach()
    assert list(bundle.module.named_modules()) == before
