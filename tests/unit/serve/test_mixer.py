"""A batch of rows with adapters of their own, against each row's own merged or attached model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mixing import EQUAL, FAMILIES, PROMPTS, apart, bits, merged, saved, takes, tiny
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.formats.adapter import load_adapter
from tunesmith.methods import lora
from tunesmith.serve import _mixed
from tunesmith.serve.mixer import Mixer


@pytest.fixture(scope="module")
def low_rank(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Of each family three adapters: attentions, every linear of every site, the text encoder's too."""
    top, found = tmp_path_factory.mktemp("mixer"), {}
    for family in FAMILIES:
        everywhere = tuple(lora.linears(tiny(family)))
        kinds: dict[str, dict[str, Any]] = {
            "attentions": {"rank": 3, "alpha": 5.0},
            "sites": {"rank": 5, "rslora": True, "targets": lora.TARGETS},
            "everywhere": {"rank": 2, "paths": everywhere},
        }
        found[family] = {
            name: saved(top / family / name, family, seed=seed, **options)
            for seed, (name, options) in enumerate(kinds.items(), 1)
        }
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("by_row", [True, False], ids=["a product for each row", "one for all"])
def test_each_row_is_its_own_merged_model(
    family: str, by_row: bool, low_rank: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_mixed, "LONG", 1 if by_row else 10**9)
    folders = low_rank[family]
    rows = [{"attentions": 1.0}, {"sites": 0.6, "everywhere": -0.4}, {}]
    bundle = tiny(family)
    before, plain = bits(bundle), takes(bundle)
    mix = Mixer(bundle, slots=4, rank=8)
    for name, folder in folders.items():
        mix.add(name, folder)
    assert all(map(torch.equal, takes(bundle), plain))
    with mix.use(mix.weights(rows)):
        together = takes(bundle)
    for number, row in enumerate(rows):
        (wanted,) = takes(merged(folders, row, family), PROMPTS[number : number + 1], number)
        assert apart(together[number], wanted) <= EQUAL, row
        if row:
            assert apart(together[number], plain[number]) > 100 * EQUAL, "the adapter does nothing"
    mix.detach()
    after = bits(bundle)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(map(torch.equal, takes(bundle), plain))


def test_the_vocoder_of_a_row_is_its_own(tmp_path: Path):
    options: dict[str, Any] = {"rank": 2, "roles": ("vocoder",)}
    folders = {n: saved(tmp_path / n, "speecht5", seed=s, **options) for s, n in enumerate("ab")}
    bundle = tiny("speecht5")
    (mels,) = takes(bundle, PROMPTS[:1])
    plain = bundle.decode_audio(mels).samples
    mix = Mixer(bundle, slots=2, rank=2)
    for name, folder in folders.items():
        mix.add(name, folder)
    rows = [{"a": 1.0}, {"a": 0.5, "b": 0.5}]
    found = []
    for row in rows:
        with mix.use(mix.weights([row])):
            found.append(bundle.decode_audio(mels).samples)
    with mix.use(mix.weights([{}])):
        assert (bundle.decode_audio(mels).samples == plain).all()
    one = tiny("speecht5")
    load_adapter(folders["a"], one).merge()
    both = tiny("speecht5")
    for folder in folders.values():
        adapter = load_adapter(folder, both)
        adapter.set_strength(0.5)
        adapter.merge()
    for sound, model in zip(found, (one, both), strict=True):
        wanted = model.decode_audio(mels).samples
        assert abs(sound - wanted).max() <= EQUAL * abs(wanted).max()
        assert abs(sound - plain).max() > 0.01 * abs(plain).max()


CELLS = [
    ("musicgen", "bottleneck", {}),
    ("musicgen", "prefix", {"length": 5}),
    ("musicgen", "prefix", {"placement": "input"}),
    ("stable_audio", "bottleneck", {"activation": "silu"}),
    ("stable_audio", "prefix", {"length": 3}),
    ("stable_audio", "prefix", {"placement": "input"}),
    ("stable_audio_3", "prefix", {"length": 3}),
    ("ace_step", "prefix", {"length": 3}),
    ("ace_step", "prefix", {"placement": "input"}),
    ("speecht5", "bottleneck", {"activation": "gelu"}),
    ("csm", "bottleneck", {}),
    ("csm", "prefix", {"length": 4}),
]


@pytest.mark.parametrize(("family", "method", "options"), CELLS)
def test_rows_of_what_is_not_low_rank(
    family: str, method: str, options: dict[str, Any], tmp_path: Path
):
    folder = saved(tmp_path / "a", family, method, 1, **options)
    other = saved(tmp_path / "b", family, method, 2, **options)
    low = saved(tmp_path / "low", family, rank=2)
    bundle = tiny(family)
    plain = takes(bundle, [PROMPTS[0]] * 4)
    mix = Mixer(bundle, slots=4, rank=8)
    for name, one in {"a": folder, "b": other, "low": low}.items():
        mix.add(name, one)
    with pytest.raises(UserError, match=f"a and b cannot be mixed: both are of method {method}"):
        mix.weights([{"a": 0.5, "b": 0.5}])
    with mix.use(mix.weights([{"a": 1}, {"b": 0.4, "low": 1}, {}, {"a": 1.5}])):
        found = takes(bundle, [PROMPTS[0]] * 4)

    def alone(folder: Path, strength: float, row: int, beside: Path | None = None) -> Tensor:
        own = tiny(family)
        if beside is not None:
            load_adapter(beside, own).merge()
        load_adapter(folder, own).set_strength(strength)
        return takes(own, [PROMPTS[0]], row)[0]

    assert apart(found[0], alone(folder, 1, 0)) <= EQUAL
    assert apart(found[1], alone(other, 0.4, 1, low)) <= EQUAL
    assert apart(found[2], plain[2]) <= 1e-5
    assert apart(found[3], alone(folder, 1.5, 3)) <= EQUAL
    assert apart(found[0], plain[0]) > 100 * EQUAL
    before = bits(tiny(family))
    mix.detach()
    after = bits(bundle)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(map(torch.equal, takes(bundle, [PROMPTS[0]] * 4), plain))
