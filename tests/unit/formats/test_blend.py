from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import apart, live, logits, open_base, saved
from peft import PeftModel
from safetensors.torch import save_file

from tunesmith.errors import UserError
from tunesmith.families.musicgen._tiny import tiny_model
from tunesmith.formats.adapter import load_adapter, read_card, read_state, write_adapter
from tunesmith.formats.blend import Part, blend, blended
from tunesmith.methods import lora

# PEFT asks the plain model by a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ALL = ("q", "k", "v", "o", "up", "down")
KINDS: dict[str, dict[str, Any]] = {
    "jazz": {"rank": 4, "details": {"rights": "mine", "trigger_tokens": ["jz"]}},
    "classical": {
        "rank": 4,
        "details": {"rights": "CC0", "trigger_tokens": ["cl", "jz"]},
    },
    "rs": {"rank": 8, "rslora": True, "alpha": 5.0, "targets": ALL},
    "few": {"rank": 1, "alpha": 3.0, "targets": ("up",), "roles": ("feed_forward",)},
    "dora": {"rank": 2, "dora": True},
}


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: saved(folder / name, tiny_base, seed=seed, size=0.2, **options)
        for seed, (name, options) in enumerate(KINDS.items(), 1)
    }


def changed(folder: Path, weights: dict[str, float]) -> dict[str, torch.Tensor]:
    """The whole changes Σ wᵢ sᵢ BᵢAᵢ, one by one, without any of the code under test."""
    total: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        place = folder / name
        card = json.loads((place / "adapter.json").read_text())["method"]
        alpha = card["alpha"] or card["rank"]
        scale = alpha / card["rank"] ** (0.5 if card["rslora"] else 1)
        tensors = read_state(place)["decoder"]
        for key, down in tensors.items():
            if "lora_A" in key:
                up = tensors[key.replace("lora_A", "lora_B")]
                path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                delta = weight * scale * (up.double() @ down.double())
                total[path] = total.get(path, 0) + delta  # type: ignore[operator]
    return total


def with_changes(base: Path, deltas: dict[str, torch.Tensor]) -> torch.Tensor:
    bundle = open_base(base)
    decoder = bundle.components["decoder"]
    with torch.no_grad():
        for path, delta in deltas.items():
            decoder.get_submodule(path).weight.add_(delta.float())  # type: ignore[operator]
    return logits(decoder)


def parts(made: dict[str, Path], weights: dict[str, float]) -> list[Part]:
    return [Part(name, made[name], weight) for name, weight in weights.items()]


@pytest.mark.parametrize(
    "weights",
    [
        {"jazz": 0.3, "classical": 0.7},
        {"jazz": 1.0, "classical": 0.0},
        {"jazz": 0.5, "rs": 0.5},
        {"jazz": -0.4, "rs": 1.7, "few": 2.0, "classical": 0.1},
    ],
)
def test_a_blend_is_the_weighted_sum(
    made: dict[str, Path], weights: dict[str, float], tiny_base: Path, tmp_path: Path
):
    """Mixed ranks, scales and targets, as logits; it opens with plain PEFT as well."""
    wanted = with_changes(tiny_base, changed(made["jazz"].parent, weights))
    assert apart(live(None, tiny_base), wanted) > 0.01
    blend(parts(made, weights), tmp_path / "out")
    assert apart(live(tmp_path / "out", tiny_base), wanted) < 1e-5
    plain = PeftModel.from_pretrained(
        tiny_model(0).decoder, tmp_path / "out" / "adapter" / "decoder"
    )
    assert apart(logits(plain), wanted) < 1e-5


@pytest.mark.parametrize("name", ["jazz", "rs", "few"])
def test_one_alone_and_one_with_itself_are_what_they_were(
    made: dict[str, Path], name: str, tiny_base: Path, tmp_path: Path
):
    wanted = live(made[name], tiny_base)
    blend([Part(name, made[name], 1.0)], tmp_path / "one")
    assert apart(live(tmp_path / "one", tiny_base), wanted) < 1e-5
    blend([Part(name, made[name], 0.5)] * 2, tmp_path / "two")
    assert apart(live(tmp_path / "two", tiny_base), wanted) < 1e-5


def test_a_weight_is_a_strength(made: dict[str, Path], tiny_base: Path, tmp_path: Path):
    for weight in (-0.5, 0.0, 0.4, 2.0):
        place = tmp_path / f"{weight}"
        blend([Part("rs", made["rs"], weight)], place)
        assert apart(live(place, tiny_base), live(made["rs"], tiny_base, weight)) < 1e-5


def regauged(source: Path, target: Path) -> Path:
    """The same change in other factors: A → RA, B → BR⁻¹."""
    draw = torch.Generator().manual_seed(0)
    state = {"decoder": dict(read_state(source)["decoder"])}
    for key, down in list(state["decoder"].items()):
        if "lora_A" in key:
            turn = torch.randn(down.shape[0], down.shape[0], generator=draw, dtype=torch.float64)
            other = key.replace("lora_A", "lora_B")
            up = state["decoder"][other].double() @ torch.linalg.inv(turn)
            state["decoder"][key] = (turn @ down.double()).float()
            state["decoder"][other] = up.float().contiguous()
    card = read_card(source)
    said = json.loads((source / "adapter" / "decoder" / "adapter_config.json").read_text())
    write_adapter(target, state, {"decoder": said}, card)
    return target


def linear_by_peft(first: Path, second: Path, weights: list[float]) -> torch.Tensor:
    model = PeftModel.from_pretrained(
        tiny_model(0).decoder, first / "adapter" / "decoder", adapter_name="a"
    )
    model.load_adapter(second / "adapter" / "decoder", adapter_name="b")
    model.add_weighted_adapter(["a", "b"], weights, "c", combination_type="linear")
    model.set_adapter("c")
    return logits(model)


def test_a_change_of_gauge_changes_nothing_where_an_average_of_factors_is_wrong(
    made: dict[str, Path], tiny_base: Path, tmp_path: Path
):
    weights = {"jazz": 0.5, "classical": 0.5}
    base = live(None, tiny_base)
    wanted = with_changes(tiny_base, changed(made["jazz"].parent, weights)) - base
    turned = regauged(made["jazz"], tmp_path / "turned")
    assert apart(live(turned, tiny_base), live(made["jazz"], tiny_base)) < 1e-5
    found = []
    for name, first in (("plain", made["jazz"]), ("other", turned)):
        out = tmp_path / name
        blend([Part("a", first, 0.5), Part("classical", made["classical"], 0.5)], out)
        assert apart(live(out, tiny_base) - base, wanted) < 1e-4
        found.append(linear_by_peft(first, made["classical"], [0.5, 0.5]) - base)
    wrong = [float((one - wanted).norm() / wanted.norm()) for one in found]
    assert wrong[0] > 0.3  # PEFT's `linear`
    assert float((found[0] - found[1]).norm() / found[0].norm()) > 0.3  # and not even one answer


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_lower_rank_is_the_best_there_is_and_says_its_error(
    made: dict[str, Path], rank: int, tiny_base: Path, tmp_path: Path
):
    weights = {"jazz": 0.3, "rs": 0.7}
    found = blend(parts(made, weights), tmp_path / "out", rank)
    assert found.rank == rank and found.loss is not None
    squares = lost = 0.0
    for delta in changed(made["jazz"].parent, weights).values():
        values = torch.linalg.svdvals(delta)
        squares += float(values.square().sum())
        lost += float(values[rank:].square().sum())
    assert found.loss.error == pytest.approx((lost / squares) ** 0.5, rel=1e-5)
    assert found.loss.worst[1] >= found.loss.error
    assert read_card(tmp_path / "out")["relative_error"] == found.loss.error
    load_adapter(tmp_path / "out", open_base(tiny_base))
    assert blended(parts(made, weights), 12).loss is None


def test_the_card_says_what_it_is_made_of(made: dict[str, Path], tmp_path: Path):
    blend(parts(made, {"jazz": 0.3, "classical": 0.7}), tmp_path / "both")
    card = read_card(tmp_path / "both")
    assert [(one["name"], one["weight"]) for one in card["blend_of"]] == [
        ("jazz", 0.3),
        ("classical", 0.7),
    ]
    assert card["rights"] == "mine; CC0"
    assert card["trigger_tokens"] == ["jz", "cl"]
    assert card["method"]["name"] == "lora" and card["metrics"] == {}
    text = (tmp_path / "both" / "README.md").read_text()
    assert "`classical` | 0.7" in text and "mine; CC0" in text
    blend(parts(made, {"jazz": 0.3, "rs": 0.7}), tmp_path / "unsaid")
    assert read_card(tmp_path / "unsaid")["rights"] == ""


# --- trained tokens ---


def tokened(source: Path, target: Path, tokens: dict[str, torch.Tensor], **said: Any) -> Path:
    state = {**read_state(source), "tokens": tokens}
    names = list(tokens)
    settings = {
        "token": names,
        "init": "music",
        "vectors": len(next(iter(tokens.values()))),
        **said,
    }
    card = read_card(source) | {"tokens": settings}
    write_adapter(target, state, {}, card)
    return target


def test_trained_tokens_come_along(made: dict[str, Path], tmp_path: Path):
    first = tokened(
        made["jazz"], tmp_path / "1", {"[a]": torch.ones(2, 16), "[b]": torch.zeros(2, 16)}
    )
    second = tokened(made["classical"], tmp_path / "2", {"[c]": torch.ones(2, 16)}, token="[c]")
    found = blended([Part("1", first, 0.1), Part("2", second, 0.9), Part("again", first, 0.2)])
    assert list(found.state["tokens"]) == ["[a]", "[b]", "[c]"]
    assert torch.equal(found.state["tokens"]["[a]"], torch.ones(2, 16))  # a word is not weighed
    assert found.card["tokens"] == {
        "token": ["[a]", "[b]", "[c]"],
        "init": ["music"] * 3,
        "vectors": 2,
    }
    other = tokened(made["classical"], tmp_path / "3", {"[a]": torch.zeros(2, 16)})
    with pytest.raises(UserError, match=r"\[a\] means something else in 3"):
        blended([Part("1", first, 0.1), Part("3", other, 0.9)])
    longer = tokened(made["classical"], tmp_path / "4", {"[d]": torch.zeros(3, 16)})
    with pytest.raises(UserError, match="tokens of 3 vectors, another of 2"):
        blended([Part("1", first, 0.1), Part("4", longer, 0.9)])


# --- what cannot be blended ---


def test_what_is_not_low_rank_is_refused_with_the_mend(
    made: dict[str, Path], tiny_base: Path, other_base: Path, tmp_path: Path
):
    full = saved(tmp_path / "full", tiny_base, "full")
    foreign = saved(tmp_path / "foreign", other_base, rank=2)
    for name, folder, complaint in (
        ("dora", made["dora"], r"dora: a DoRA is not linear.*extract .*dora --rank"),
        ("full", full, r"full \(full\) changes whole matrices.*extract .*full --rank"),
        ("foreign", foreign, r"jazz was made for base .*tiny.*foreign for .*other"),
    ):
        with pytest.raises(UserError, match=complaint):
            blended([Part("jazz", made["jazz"], 0.5), Part(name, folder, 0.5)])
    bottleneck = saved(tmp_path / "bottleneck", tiny_base, "bottleneck")
    with pytest.raises(
        UserError, match=r"bottleneck \(bottleneck\) cannot be blended: a non-linear"
    ):
        blended([Part("bottleneck", bottleneck, 1.0)])


def test_mistakes_are_named(made: dict[str, Path], tmp_path: Path):
    one = [Part("jazz", made["jazz"], 1.0)]
    with pytest.raises(UserError, match="--rank 0 is below 1"):
        blended(one, 0)
    with pytest.raises(UserError, match="weight of jazz is nan"):
        blended([Part("jazz", made["jazz"], float("nan"))])
    with pytest.raises(UserError, match="no adapter to blend"):
        blended([])
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="already there"):
        blend(one, tmp_path)
    torn = regauged(made["jazz"], tmp_path / "torn")
    tensors = dict(read_state(torn)["decoder"])
    gone = next(key for key in tensors if "lora_B" in key)
    del tensors[gone]
    card = read_card(torn)
    write_adapter(torn, {"decoder": tensors}, {}, card)
    with pytest.raises(UserError, match=r"torn lacks the tensor .*lora_B"):
        blended([Part("torn", torn, 1.0)])
    save_file(tensors, torn / "adapter" / "decoder" / "adapter_model.safetensors")
    with pytest.raises(UserError, match="not what was saved"):
        blended([Part("torn", torn, 1.0)])


def test_a_card_with_a_path_that_the_base_lacks(
    made: dict[str, Path], tiny_base: Path, tmp_path: Path
):
    blend(parts(made, {"jazz": 1.0}), tmp_path / "x")
    card = read_card(tmp_path / "x")
    card["method"]["paths"][0] = "decoder/model.decoder.layers.7.fc1"
    (tmp_path / "x" / "adapter.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"no linear 'decoder/model.decoder.layers.7.fc1'"):
        load_adapter(tmp_path / "x", open_base(tiny_base))
    assert lora.Config().paths == ()
