from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import apart, live, logits, open_base, saved

import tunesmith
from tunesmith.api import Model
from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import load_adapter
from tunesmith.formats.blend import Part, blend

KINDS: dict[str, dict[str, Any]] = {
    "jazz": {"rank": 3, "details": {"rights": "mine"}},
    "classical": {"rank": 5, "targets": ("q", "up"), "details": {"rights": "CC0"}},
    "dora": {"rank": 2, "dora": True},
    "full": {"method": "full", "size": 0.02},
    "bottleneck": {"method": "bottleneck"},
}


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("switch")
    return {
        name: saved(folder / name, tiny_base, seed=seed, **options)
        for seed, (name, options) in enumerate(KINDS.items())
    }


@pytest.fixture
def model(made: dict[str, Path], tiny_base: Path) -> Model:
    model = Model(open_base(tiny_base))
    for name, folder in made.items():
        model.add(name, folder)
    return model


def sound(bundle: Bundle) -> torch.Tensor:
    return logits(bundle.components["decoder"])


def bits(bundle: Bundle) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in bundle.module.state_dict().items()}


def test_adapters_are_exchanged_and_the_base_comes_back_bit_for_bit(
    model: Model, made: dict[str, Path], tiny_base: Path, tmp_path: Path
):
    base = bits(model.bundle)
    blend(
        [Part("jazz", made["jazz"], 0.3), Part("classical", made["classical"], 0.7)], tmp_path / "b"
    )
    mixed = live(tmp_path / "b", tiny_base)
    wanted = {name: live(folder, tiny_base) for name, folder in made.items()}
    for name in ("jazz", "full", "dora", "bottleneck", "classical", "full"):
        model.select(name)
        assert apart(sound(model.bundle), wanted[name]) < 1e-6
        model.select({"jazz": 0.3, "classical": 0.7})
        assert apart(sound(model.bundle), mixed) < 1e-6
    model.select({"jazz": 0.4})
    assert apart(sound(model.bundle), live(made["jazz"], tiny_base, 0.4)) < 1e-6
    model.select({"jazz": 0.6})
    assert apart(sound(model.bundle), live(made["jazz"], tiny_base, 0.6)) < 1e-6
    model.select()
    assert model.adapter is None
    for name in made:
        model.select(name)
        model.remove(name)
    after = bits(model.bundle)
    assert after.keys() == base.keys()
    assert all(torch.equal(after[name], base[name]) for name in base)
    assert not any(parameter.requires_grad for parameter in model.bundle.module.parameters())


def test_removing_one_of_a_blend_leaves_the_other(
    model: Model, made: dict[str, Path], tiny_base: Path
):
    model.select({"jazz": 0.3, "classical": 0.7})
    model.remove("classical")
    assert model.switch.selected == {"jazz": 0.3}
    assert apart(sound(model.bundle), live(made["jazz"], tiny_base, 0.3)) < 1e-6


def test_what_cannot_be_mixed_is_refused_and_what_was_stays(
    model: Model, made: dict[str, Path], tiny_base: Path
):
    model.select("jazz")
    for weights, complaint in (
        ({"jazz": 0.5, "dora": 0.5}, "dora: a DoRA is not linear"),
        ({"full": 0.5, "jazz": 0.5}, r"full \(full\) changes whole matrices"),
        ({"jazz": 0.5, "bottleneck": 0.5}, r"bottleneck \(bottleneck\) cannot be blended"),
        ({"dora": 0.5}, r"a DoRA adapter has no strength 0.5"),
        ({"jaz": 1.0}, "did you mean 'jazz'"),
    ):
        with pytest.raises(UserError, match=complaint):
            model.select(weights)
        assert model.switch.selected == {"jazz": 1.0}
        assert apart(sound(model.bundle), live(made["jazz"], tiny_base)) < 1e-6


def test_names_are_taken_once_and_bases_compared(
    model: Model, made: dict[str, Path], other_base: Path, tmp_path: Path
):
    with pytest.raises(UserError, match="'jazz' is already there"):
        model.add("jazz", made["full"])
    with pytest.raises(UserError, match="no adapter 'folk' was added"):
        model.remove("folk")
    foreign = saved(tmp_path / "foreign", other_base, rank=2)
    with pytest.raises(UserError, match="was made for base"):
        model.add("foreign", foreign)
    assert "foreign" not in model.switch.folders


def test_an_origin_names_all_that_was_mixed(model: Model):
    assert "adapter" not in model.origin
    model.select("jazz")
    assert (model.origin["adapter"], model.origin["data_rights"]) == ("jazz", "mine")
    assert isinstance(model.origin["adapter_hash"], str)
    model.select({"jazz": 0.25, "classical": 0.75})
    assert model.origin["adapter"] == {"jazz": 0.25, "classical": 0.75}
    assert model.origin["data_rights"] == "mine; CC0"
    assert len(set(model.origin["adapter_hash"].values())) == 2


def test_a_model_that_was_opened_with_an_adapter_can_let_go_of_it(
    made: dict[str, Path], tiny_base: Path
):
    model = tunesmith.open(str(tiny_base), adapter=made["jazz"], device="cpu")
    assert model.folder == made["jazz"] and model.adapter is not None
    model.set_strength(0.5)
    assert apart(sound(model.bundle), live(made["jazz"], tiny_base, 0.5)) < 1e-6
    model.add("classical", made["classical"])
    model.select({"jazz": 0.3, "classical": 0.7})
    model.select()
    assert torch.equal(sound(model.bundle), live(None, tiny_base))
    bundle = open_base(tiny_base)
    loose = Model(bundle, load_adapter(made["jazz"], bundle))
    assert loose.adapter is not None
    loose.select({})
    assert torch.equal(sound(bundle), live(None, tiny_base))
