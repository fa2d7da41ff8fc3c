"""Adapters that come and go in a mixer, and those that it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mixing import EQUAL, PROMPTS, SETTINGS, apart, merged, saved, takes, tiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.formats.adapter import load_adapter
from tunesmith.methods import lora
from tunesmith.serve import _whole
from tunesmith.serve.mixer import Mixer


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five LoRAs of a tiny MusicGen, of ranks 1 to 5."""
    top = tmp_path_factory.mktemp("many")
    return {
        name: saved(top / name, "musicgen", seed=rank, rank=rank)
        for rank, name in enumerate("abcde", 1)
    }


def one_row(mix: Mixer, row: Mapping[str, float]) -> Tensor:
    with mix.use(mix.weights([row])):
        return takes(mix.bundle, PROMPTS[:1])[0]


def test_adapters_come_and_go_while_a_request_runs(many: dict[str, Path]):
    bundle = tiny("musicgen")
    mix = Mixer(bundle, slots=3, rank=5)
    mix.add("x", many["c"])
    wanted, plain = one_row(mix, {"x": 0.7}), one_row(mix, {})
    assert not torch.equal(wanted, plain)
    changes = iter(
        [
            lambda: mix.add("x", many["e"]),  # the one that runs is replaced
            lambda: mix.add("y", many["d"]),
            lambda: mix.remove("y"),
            lambda: mix.add("y", many["a"]),
            lambda: mix.remove("x"),
        ]
    )

    def meanwhile() -> int:
        for change in [next(changes, None)]:
            if change is not None:
                change()
        return 0

    with mix.use(mix.weights([{"x": 0.7}])):
        (found,) = bundle.generate_codes(PROMPTS[:1], 0.3, [0], SETTINGS, None, meanwhile)
    assert torch.equal(found.float(), wanted)
    assert dict(mix.names) == {"y": many["a"]}
    assert torch.equal(one_row(mix, {}), plain)
    mix.add("x", many["c"])  # nobody asks for the old slots now
    mix.add("z", many["b"])
    assert torch.equal(one_row(mix, {"x": 0.7}), wanted)
    with pytest.raises(UserError, match="no room for w: all 3 slots are taken"):
        mix.add("w", many["d"])
    mix.add("z", many["d"])  # replaced in place
    assert set(mix.names) == {"x", "y", "z"}


def test_what_another_adapter_left_behind_does_not_show(many: dict[str, Path], tmp_path: Path):
    wide = saved(tmp_path / "wide", "musicgen", seed=9, rank=5, targets=lora.TARGETS)
    mix, fresh = (Mixer(tiny("musicgen"), slots=1, rank=5) for _ in range(2))
    mix.add("x", wide)
    mix.add("x", many["b"])
    fresh.add("x", many["b"])
    assert torch.equal(one_row(mix, {"x": 1}), one_row(fresh, {"x": 1}))


def test_few_of_many_are_gathered(many: dict[str, Path]):
    mix = Mixer(tiny("musicgen"), slots=5, rank=5)
    for name, folder in many.items():
        mix.add(name, folder)
    with mix.use(mix.weights([{"a": 0.5}, {"e": 1.0}])):
        found = takes(mix.bundle, PROMPTS[:2])
    # Six ranks in a span of fifteen.
    for number, wanted in enumerate([{"a": 0.5}, {"e": 1.0}]):
        model = merged(many, wanted, "musicgen")
        assert apart(found[number], takes(model, [PROMPTS[number]], number)[0]) <= EQUAL


def test_a_compiled_layer_stays_compiled(many: dict[str, Path]):
    from torch._dynamo.testing import CompileCounter

    bundle = tiny("musicgen")
    mix = Mixer(bundle, slots=3, rank=5, ranks=15)
    path = "model.decoder.layers.0.self_attn.q_proj"
    layer: Any = bundle.components["decoder"].get_submodule(path)
    counter = CompileCounter()
    compiled = torch.compile(layer, backend=counter, dynamic=False)
    x = torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(0))
    mix.set_rows(mix.weights([{}, {}]))
    places = layer.down.data_ptr(), layer.up.data_ptr(), mix._current.rows.ranks.data_ptr()  # type: ignore[union-attr]
    with torch.no_grad():
        plain = layer.inner(x)
        assert torch.equal(compiled(x), plain)
        for name, row in (("x", "a"), ("y", "c"), ("x", "b"), ("z", "e")):
            mix.add(name, many[row])
            mix.set_rows(mix.weights([{name: 0.5}, {}]))
            found = compiled(x)  # guidance: rows 2 and 3 are 0 and 1 again
            with mix.use(mix.weights([{name: 0.5}, {}])):
                assert apart(found, layer(x)) < 1e-6
            assert torch.equal(found[1::2], plain[1::2])
            assert not torch.equal(found[::2], plain[::2])
            mix.remove(name)
    assert counter.frame_count == 1
    assert places == (
        layer.down.data_ptr(),
        layer.up.data_ptr(),
        mix._current.rows.ranks.data_ptr(),
    )  # type: ignore[union-attr]


def test_rows_that_do_not_fit_a_batch(many: dict[str, Path]):
    mix = Mixer(tiny("musicgen"), slots=3, rank=5)
    mix.add("a", many["a"])
    with mix.use(mix.weights([{"a": 1}, {}])), pytest.raises(ValueError, match=r"3 .* for 2"):
        takes(mix.bundle)
    with pytest.raises(ValueError, match=r"\[rows, 3\] are wanted"), mix.use(torch.zeros(1, 2)):
        pass


def test_refusals_say_why_and_change_nothing(many: dict[str, Path], tmp_path: Path):
    bundle = tiny("musicgen")
    mix = Mixer(bundle, slots=2, rank=5)
    mix.add("a", many["a"])
    before = one_row(mix, {"a": 1})
    foreign = tmp_path / "foreign"
    shutil.copytree(many["b"], foreign)
    card = (foreign / "adapter.json").read_text()
    (foreign / "adapter.json").write_text(card.replace("tiny-0-1", "another"))
    broken = {}
    for kind in ("torn", "touched", "not finite", "another size"):
        broken[kind] = tmp_path / kind
        shutil.copytree(many["b"], broken[kind])
        (file,) = broken[kind].rglob("*.safetensors")
        if kind == "torn":
            file.write_bytes(file.read_bytes()[:-7])
            continue
        if kind == "touched":
            file.write_bytes(file.read_bytes()[:-1] + b"\x00")
            continue
        tensors = load_file(file)
        name = next(iter(tensors))
        if kind == "not finite":
            tensors[name][0, 0] = float("nan")
        else:
            tensors[name] = tensors[name][:, :-1].contiguous()
        old = hashlib.sha256(file.read_bytes()).hexdigest()
        save_file(tensors, file)
        new = hashlib.sha256(file.read_bytes()).hexdigest()
        card = broken[kind] / "adapter.json"
        card.write_text(card.read_text().replace(old, new))
    cases = {
        "was made for base": foreign,
        r"model.safetensors: not readable": broken["torn"],
        "is not what was saved": broken["touched"],
        "not finite": broken["not finite"],
        "another size": broken["another size"],
        "changes whole matrices": saved(tmp_path / "full", "musicgen", "full", size=0.01),
        "a DoRA is not linear": saved(tmp_path / "dora", "musicgen", rank=2, dora=True),
        "room for 5": saved(tmp_path / "large", "musicgen", rank=6),
        "not readable": tmp_path / "nowhere",
    }
    for reason, folder in cases.items():
        for name in ("a", "new"):
            with pytest.raises(UserError, match=reason):
                mix.add(name, folder)
        assert dict(mix.names) == {"a": many["a"]}
        assert torch.equal(one_row(mix, {"a": 1}), before)
    narrow = Mixer(tiny("musicgen"), slots=2, rank=5, targets=("v",))
    with pytest.raises(UserError, match="k_proj, which is not among the layers"):
        narrow.add("a", many["a"])
    with pytest.raises(UserError, match="did you mean 'a'"):
        mix.weights([{"aa": 1}])
    with pytest.raises(UserError, match="the weight of a is nan"):
        mix.weights([{"a": float("nan")}])
    with pytest.raises(UserError, match="no adapter 'b'"):
        mix.remove("b")
    with pytest.raises(UserError, match="an adapter is attached"):
        Mixer(bundle)


def test_files_are_hashed_until_they_are_known_and_when_they_change(
    many: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, hashed = tmp_path / "a", []
    shutil.copytree(many["a"], folder)
    real = _whole.check_files
    monkeypatch.setattr(_whole, "check_files", lambda one: (hashed.append(one), real(one)))
    mix = Mixer(tiny("musicgen"), slots=1, rank=5)  # there is no room beside the old one
    for _ in range(3):
        mix.add("a", folder)
    assert hashed == [folder]
    (file,) = folder.rglob("*.safetensors")
    seen = file.stat()
    with file.open("r+b") as opened:  # in place, of the same size, and with the old time
        opened.seek(-1, 2)
        opened.write(b"\x00")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(UserError, match="is not what was saved"):
        mix.add("a", folder)
    assert len(hashed) == 2
    other = Mixer(tiny("musicgen"), slots=1, rank=5)
    other.add("a", many["a"])
    assert torch.equal(one_row(mix, {"a": 1}), one_row(other, {"a": 1}))


# --- words ---


def test_tokens_of_one_name_are_each_adapters_own(tmp_path: Path):
    folders = {
        "a": saved(tmp_path / "a", "musicgen", "textual_inversion", 1, token="[it]", vectors=2),
        "b": saved(tmp_path / "b", "musicgen", "textual_inversion", 2, token="[it]", vectors=3),
    }
    bundle = tiny("musicgen")
    plain_states = bundle.encode_text(["[it], slow", "no token"])
    mix = Mixer(bundle, slots=3, rank=2)
    for name, folder in folders.items():
        mix.add(name, folder)
    rows = [{"a": 1.0}, {"b": 0.5}, {"a": 1.0, "b": 1.0}, {}]
    texts = [mix.prompt("[it], slow", row) for row in rows]
    assert texts[3] == "[it], slow" and len(set(texts)) == 4
    assert mix.prompt("b:[it], slow", rows[2]) == texts[1]
    with mix.use(mix.weights(rows)):
        found = bundle.encode_text(texts)
    assert torch.equal(found[3]["states"], plain_states[0]["states"])
    for row, (name, strength) in enumerate((("a", 1.0), ("b", 0.5))):
        own = tiny("musicgen")
        load_adapter(folders[name], own).set_strength(strength)
        (wanted,) = own.encode_text(["[it], slow"])
        assert apart(found[row]["states"], wanted["states"]) <= EQUAL
    assert len(found[2]["ids"]) > len(found[1]["ids"])
    before = bundle.encode_text([texts[1]])
    mix.remove("a")
    assert torch.equal(bundle.encode_text([texts[1]])[0]["ids"], before[0]["ids"])
    with pytest.raises(UserError, match="no adapter 'a'"):
        mix.prompt("[it]", {"a": 1})
    mix.detach()
    assert torch.equal(bundle.encode_text(["[it], slow"])[0]["states"], plain_states[0]["states"])


def test_a_voice_brings_its_speaker(tmp_path: Path):
    size = len(tiny("speecht5").voice)  # type: ignore[attr-defined]
    mix = Mixer(tiny("speecht5"), slots=2, rank=2)
    for number, name in enumerate("ab"):
        vector = torch.nn.functional.one_hot(torch.tensor(number), size).tolist()
        card = {"conditioning": {"speaker": vector}}
        mix.add(name, saved(tmp_path / name, "speecht5", rank=2, details=card))
    assert mix.details({}) == {}
    said = json.loads(str(mix.details({"a": 0.25, "b": 0.75})["speaker"]))
    assert said[:3] == [0.25, 0.75, 0.0]
