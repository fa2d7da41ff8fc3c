"""New words for the text encoder: read as written, trained alone, gone without a trace."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_base

from tunesmith.data.encode import encode
from tunesmith.errors import UserError
from tunesmith.families import find_base, load, skeleton
from tunesmith.families._bundle import Bundle
from tunesmith.families._tokens import TokenRows, Vocabulary
from tunesmith.families.musicgen import tiny
from tunesmith.formats.adapter import load_adapter, save_adapter
from tunesmith.methods.textual_inversion import (
    Config,
    TextualInversionAdapter,
    attach,
    check,
    parameter_count,
)
from tunesmith.training.selftest import busy_clip, overfit
from tunesmith.types import Clip, Example, GenerationSettings

TOKEN = "[my_guitar]"
SENTENCE = f"Jazz melody with {TOKEN}, gentle drums"
SAMPLING = GenerationSettings(guidance=3.0, top_k=0)


@pytest.fixture(scope="module")
def pocket() -> Bundle:
    """The embedded base: a tokenizer that merges letters, and fewer tokens than rows."""
    return load(find_base("pocket"))


def table(bundle: Any) -> Any:
    return bundle.components["text_encoder"].encoder.embed_tokens


def texts(bundle: Bundle, *captions: str) -> list[list[int]]:
    return [one["ids"].tolist() for one in bundle.encode_text(captions)]


def trained(bundle: Bundle, steps: int = 5, **settings: Any) -> TextualInversionAdapter:
    adapter = attach(bundle, Config(token=TOKEN, **settings))
    codes = bundle.encode_audio(busy_clip(bundle, 0.4))
    clip = Example("a", codes, bundle.encode_text([adapter.caption("a tune")])[0])
    overfit(bundle, adapter, clip, lr=3e-2, steps=steps, limit_s=1e9, target=-1.0)
    return adapter


# --- how texts are read ---


def test_texts_without_the_token_are_read_as_ever(pocket: Bundle):
    captions = [
        "calypso, steel drums",
        "",
        "my_guitar",
        "[my guitar]",
        "x" * 3000,
        "ñ 字 \n [",
        TOKEN[:-1],
    ]
    before = texts(pocket, *captions)
    pieces = [pocket.text_pieces(caption) for caption in captions]
    pocket.use_tokens({TOKEN: 3})
    assert texts(pocket, *captions) == before
    assert [pocket.text_pieces(caption) for caption in captions] == pieces
    assert len(before[4]) == 512
    pocket.use_tokens({})


def test_a_token_in_a_sentence_is_a_run_of_ids_beyond_the_table(pocket: Any):
    rows = table(pocket).weight.shape[0]
    assert len(pocket.tokenizer) < rows
    before = texts(pocket, "Jazz melody with", "gentle drums")
    runs = pocket.use_tokens({TOKEN: 3, "[b]": 2})
    assert runs == {TOKEN: (rows, rows + 1, rows + 2), "[b]": (rows + 3, rows + 4)}
    ids = pocket._words.ids(SENTENCE)
    place = ids.index(rows)
    assert ids[place : place + 3] == [rows, rows + 1, rows + 2]
    assert sum(one >= rows for one in ids) == 3
    assert ids[: len(before[0]) - 1] == before[0][:-1]
    assert ids[-len(before[1]) :] == before[1]
    assert pocket.tokenizer.convert_tokens_to_ids(",") in ids[place + 3 :]
    both = pocket._words.ids(f"{TOKEN}[b] and {TOKEN}")
    assert [one - rows for one in both if one >= rows] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert pocket.text_pieces(SENTENCE).count(TOKEN) == 1
    assert pocket.use_tokens({}) == {}
    assert max(pocket._words.ids(SENTENCE)) < rows


def test_a_bare_word_is_not_found_inside_of_others(pocket: Bundle):
    before = texts(pocket, "sksing asks")
    pocket.use_tokens({"sks": 2})
    assert texts(pocket, "sksing asks") == before
    assert "sks" in pocket.text_pieces("a tune, sks, and more")
    pocket.use_tokens({})


def test_a_cut_never_goes_through_a_token(pocket: Any):
    rows = table(pocket).weight.shape[0]
    words = Vocabulary(pocket.tokenizer, rows, limit=12)
    words.use({TOKEN: 4})
    whole = words.ids(f"{TOKEN} a b c d e f g h i j k")
    assert len(whole) <= 12
    assert whole[:4] == [rows, rows + 1, rows + 2, rows + 3]
    assert whole[-1] == pocket.tokenizer.eos_token_id
    for text in (f"a b c d e f g {TOKEN}", f"a b c d e f g h i j k l m n {TOKEN}"):
        with pytest.raises(UserError, match="longer than 12 tokens"):
            words.ids(text)


@pytest.mark.parametrize(
    "token", ["jazz", "<pad>", "Ġjazz", "Ġ", "", "my sound", "a\nb", "[my\tx]"]
)
def test_what_is_no_new_token_is_refused(pocket: Bundle, token: str):
    with pytest.raises(UserError, match=r"already has the token|is no token"):
        pocket.use_tokens({token: 1})
    (fault,) = check(pocket, Config(token=token))
    assert fault.key == "method.token"
    assert fault.mend
    assert "[my_sound]" not in pocket.text_pieces("[my_sound]")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"vectors": 0}, "method.vectors"),
        ({"vectors": 65}, "method.vectors"),
        ({"templates": ("a recording of {caption}",)}, "method.templates"),
        ({"templates": ()}, "method.templates"),
        ({"init": ("music", "piano")}, "method.init"),
        ({"init": ""}, "method.init"),
        ({"token": ()}, "method.token"),
        ({"token": ("[a]", "[a]")}, "method.token"),
    ],
)
def test_wrong_settings_are_named(pocket: Bundle, settings: dict[str, Any], key: str):
    assert key in {fault.key for fault in check(pocket, Config(**settings))}


def test_a_word_that_the_tokenizer_does_not_know_is_no_beginning():
    bundle = tiny()
    (fault,) = check(bundle, Config(init="字"))
    assert "'字'" in fault.message
    with pytest.raises(UserError, match="knows nothing of the word"):
        attach(bundle, Config(init="字"))
    assert not isinstance(table(bundle), TokenRows)


def test_settings_are_checked_before_weights_are_there(tiny_base: Path):
    bundle = skeleton(find_base(str(tiny_base)))
    config = Config(token=("[a]", "[b]"), init=("music", "noise"), vectors=3)
    assert check(bundle, config) == []
    assert parameter_count(bundle, config) == 2 * 3 * 16
    assert "[a]" not in bundle.text_pieces("[a]")


def test_a_check_leaves_attached_tokens_alone():
    bundle = tiny()
    attach(bundle, Config(token=TOKEN))
    assert check(bundle, Config(token="[other]")) == []
    assert TOKEN in bundle.text_pieces(SENTENCE)


# --- what trains ---


def test_the_vectors_begin_as_their_word_and_differ():
    bundle = tiny()
    weight = table(bundle).weight.detach().clone()
    adapter = attach(bundle, Config(token=TOKEN, init="ab", vectors=4))
    (rows,) = adapter.parameters().values()
    middle = weight[bundle.text_ids("ab")].mean(dim=0)
    distance = (rows.detach() - middle).square().mean(dim=1).sqrt()
    assert bool(((distance > 0.02) & (distance < 0.3)).all())
    assert len(torch.unique(rows.detach(), dim=0)) == 4
    assert rows.dtype == torch.float32
    assert adapter.rates() == {f"tokens/{TOKEN}": pytest.approx(float(weight.std()), rel=0.05)}


def test_only_the_rows_of_the_token_get_gradients():
    bundle = tiny()
    adapter = attach(bundle, Config(token=("[a]", "[b]"), vectors=2))
    codes = bundle.encode_audio(busy_clip(bundle, 0.3))

    def backward(caption: str) -> None:
        clip = Example("a", codes, bundle.encode_text([caption])[0])
        bundle.module.zero_grad()
        terms = bundle.module(bundle.collate([clip], [0]))
        torch.stack([total.sum() for total, _ in terms.values()]).sum().backward()

    backward("a tune with [b]")
    first, second = adapter.parameters().values()
    assert first.grad is not None
    assert second.grad is not None
    assert not first.grad.any()
    assert bool((second.grad != 0).any(dim=1).all())
    others = {n for n, p in bundle.module.named_parameters() if p.grad is not None}
    assert others == {n for n, p in bundle.module.named_parameters() if p.requires_grad}
    backward("a tune")
    assert not second.grad.any()


def test_cached_states_are_the_live_ones():
    bundle: Any = tiny()
    adapter = trained(bundle)
    assert any(p.requires_grad for p in bundle.module.model.text_encoder.parameters())
    bundle.module.eval()
    text = bundle._pad_text(bundle.encode_text([SENTENCE, "a", TOKEN]), [False] * 3)
    with torch.no_grad():
        stale = {**text, "states": torch.zeros_like(text["states"])}
        live, _ = bundle.module.text_states(stale)
        for parameter in adapter.parameters().values():
            parameter.requires_grad_(False)
        cached, _ = bundle.module.text_states(text)
    torch.testing.assert_close(live, cached)
    assert bool(live.any())


def test_the_cache_knows_tokens_and_their_values(tmp_path: Path, tiny_data: Path):
    bundle = tiny()
    wav = tiny_data / "train" / "0.wav"
    clip = Clip(wav, SENTENCE, "train", "0", 0.0, 0.4, "0" * 64)
    seen = [bundle.text_hash]
    states = [encode([clip], bundle)[0].text["states"]]
    adapter = attach(bundle, Config(token=TOKEN))
    for change in (0.0, 0.1, 0.1):
        with torch.no_grad():
            adapter.parameters()[f"tokens/{TOKEN}"].add_(change)
        seen.append(bundle.text_hash)
        states.append(encode([clip], bundle)[0].text["states"])
        assert torch.equal(states[-1], bundle.encode_text([SENTENCE])[0]["states"])
    assert len(set(seen)) == 4
    adapter.set_strength(0.5)
    assert bundle.text_hash not in seen
    adapter.detach()
    assert bundle.text_hash == seen[0]
    assert torch.equal(encode([clip], bundle)[0].text["states"], states[0])


# --- what stays ---


def test_a_prompt_without_the_token_gives_what_the_base_gives(pocket: Bundle):
    prompts = ["mellow jazz, piano", "", "a much longer one, with strings and gentle drums"]
    with_token = [f"{TOKEN}, {prompts[0]}"]
    before = pocket.generate_codes(prompts, 0.5, [1, 2, 3], SAMPLING)
    adapter = trained(pocket)
    heard = pocket.generate_codes(with_token, 0.5, [1], SAMPLING)
    after = pocket.generate_codes(prompts, 0.5, [1, 2, 3], SAMPLING)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not torch.equal(heard[0], before[0])
    adapter.detach()


def test_strength_goes_from_the_word_to_what_was_trained():
    bundle = tiny()
    start = attach(bundle, Config(token=TOKEN)).state()["tokens"][TOKEN]
    embedding = table(bundle)
    with pytest.raises(UserError, match="already reads trained tokens"):
        attach(bundle, Config(token="[other]"))
    bundle = tiny()
    plain = table(bundle)
    adapter = trained(bundle)
    rows = adapter.state()["tokens"][TOKEN]
    assert not torch.equal(rows, start)
    ids = torch.arange(260, 264)
    for strength in (0.25, 1.0):
        adapter.set_strength(strength)
        torch.testing.assert_close(table(bundle)(ids), start + strength * (rows - start))
    adapter.set_strength(0)
    assert table(bundle) is plain
    assert adapter.caption("a tune") == "a tune"
    assert TOKEN not in bundle.text_pieces(SENTENCE)
    other = attach(bundle, Config(token="[other]"))
    with pytest.raises(UserError, match="another adapter"):
        adapter.set_strength(1)
    other.set_strength(0)
    adapter.set_strength(1)
    assert table(bundle) is not embedding
    assert torch.equal(table(bundle)(ids), rows)


def test_what_is_saved_is_a_file_of_vectors_by_token(tmp_path: Path):
    bundle = tiny()
    adapter = trained(bundle, vectors=3)
    prompt = bundle.encode_text([SENTENCE])[0]
    save_adapter(tmp_path, adapter, bundle, {})
    tensors = load_file(tmp_path / "adapter" / "tokens" / "adapter_model.safetensors")
    assert {name: list(one.shape) for name, one in tensors.items()} == {TOKEN: [3, 16]}
    assert tensors[TOKEN].dtype == torch.float32
    fresh = tiny()
    again = load_adapter(tmp_path, fresh)
    assert torch.equal(fresh.encode_text([SENTENCE])[0]["states"], prompt["states"])
    assert again.config == adapter.config
    again.set_strength(0.5)  # the start is known again, from base and settings
    adapter.set_strength(0.5)
    assert torch.equal(table(fresh).vectors(), table(bundle).vectors())


def test_several_tokens_are_saved_and_loaded(tmp_path: Path):
    bundle = tiny()
    config = Config(token=("[a]", "[b]"), init=("piano", "drums"), vectors=2)
    adapter = attach(bundle, config)
    save_adapter(tmp_path, adapter, bundle, {})
    again = load_adapter(tmp_path, tiny())
    assert dataclasses.asdict(again.config) == dataclasses.asdict(config)
    assert list(again.parameters()) == ["tokens/[a]", "tokens/[b]"]
    assert adapter.caption("a tune with [b]") == "a tune with [b]"
    with pytest.raises(UserError, match="none of the tokens"):
        adapter.caption("a tune")


def test_merging_is_refused_and_detaching_puts_the_very_same_module_back():
    bundle = tiny()
    plain = table(bundle)
    names = list(bundle.module.state_dict())
    adapter = trained(bundle)
    with pytest.raises(UserError, match="cannot be merged"):
        adapter.merge()
    assert isinstance(table(bundle), TokenRows)
    adapter.detach()
    assert table(bundle) is plain
    assert list(bundle.module.state_dict()) == names
    assert TOKEN not in bundle.text_pieces(SENTENCE)
    assert not any(parameter.requires_grad for parameter in bundle.module.parameters())
    adapter.detach()


def test_captions_get_the_token_and_prompts_do_not():
    bundle = tiny()
    adapter = attach(bundle, Config(token=TOKEN))
    assert adapter.caption("a {odd} tune") == f"{TOKEN}, a {{odd}} tune"
    assert adapter.caption(SENTENCE) == SENTENCE
    assert adapter.caption("") == TOKEN
    assert adapter.prompt("a tune") == "a tune"
    adapter.detach()
    several = ("{token}, {caption}", "{caption} with {token}", "the sound of {token}")
    adapter = attach(bundle, Config(token=TOKEN, templates=several))
    captions = [adapter.caption(f"tune {number}") for number in range(40)]
    assert captions == [adapter.caption(f"tune {number}") for number in range(40)]
    assert {caption.replace(TOKEN, "T").split("tune")[0] for caption in captions} == {
        "T, ",
        "",
        "the sound of T",
    }


def test_a_table_in_half_precision_keeps_its_own(tmp_path: Path):
    bundle = load(find_base(str(save_base(tmp_path / "base"))), dtype=torch.bfloat16)
    weight = table(bundle).weight
    attach(bundle, Config(token=TOKEN, vectors=1))
    found = table(bundle)(torch.tensor([[5, 260]]))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found[0, 0], weight[5])
    assert next(iter(table(bundle).rows)).dtype == torch.float32
