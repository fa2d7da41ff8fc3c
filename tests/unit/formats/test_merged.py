from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import apart, live, logits, open_base, saved
from safetensors.torch import load_file, save_file

from tunesmith.errors import UserError
from tunesmith.formats import merged
from tunesmith.formats.adapter import read_card
from tunesmith.formats.extract import extract
from tunesmith.formats.merged import merge
from tunesmith.types import GenerationSettings

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"rank": 3}),
    "rslora": (
        "lora",
        {"rank": 8, "rslora": True, "alpha": 5.0, "targets": ("q", "v", "o", "up", "down")},
    ),
    "dora": ("lora", {"rank": 2, "dora": True}),
    "full": ("full", {}),
}

PLAIN = """
import sys
sys.modules["tunesmith"] = None  # any import of it fails
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, MusicgenForConditionalGeneration
folder, inputs, out = sys.argv[1:]
model, report = MusicgenForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
assert model.dtype == torch.float32
processor = AutoProcessor.from_pretrained(folder)
text = processor(text=["a test", "longer words"], padding=True, return_tensors="pt")
sound = model.eval().generate(**text, max_new_tokens=8, do_sample=False)
assert sound.shape[:2] == (2, model.config.audio_encoder.audio_channels), sound.shape
assert processor.feature_extractor.sampling_rate == model.config.audio_encoder.sampling_rate
with torch.no_grad():
    save_file({"logits": model.decoder(**load_file(inputs)).logits}, out)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_the_live_adapter_and_the_plain_library_opens_it(
    kind: str, tiny_base: Path, tmp_path: Path
):
    method, options = KINDS[kind]
    adapter = saved(tmp_path / "a", tiny_base, method, seed=3, **options)
    wanted = live(adapter, tiny_base)
    assert apart(live(None, tiny_base), wanted) > 1e-3
    made = merge(adapter, tmp_path / "out")
    assert made.difference <= merged.BAR
    assert not list(tmp_path.glob(".out*"))

    from adapters import inputs

    given = inputs(open_base(tiny_base).components["decoder"])
    save_file(given, tmp_path / "inputs")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PLAIN,
            *map(str, (made.folder, tmp_path / "inputs", tmp_path / "x")),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert apart(load_file(tmp_path / "x")["logits"], wanted) <= 1e-5

    # It is a base here as well, with the old one's limits, and generates the same.
    ours, then = open_base(made.folder), open_base(tiny_base)
    assert (ours.max_s, ours.licence) == (then.max_s, then.licence)
    assert ours.base_hash != then.base_hash
    greedy = GenerationSettings(guidance=1.0, temperature=0.0)
    from tunesmith.formats.adapter import load_adapter

    load_adapter(adapter, then)
    (left,) = ours.generate_codes(["a test"], 0.5, [0], greedy)
    (right,) = then.generate_codes(["a test"], 0.5, [0], greedy)
    assert torch.equal(left, right)
    assert "merged into its weights" in (made.folder / "README.md").read_text()


def test_what_is_not_adapted_stays_bit_for_bit(tiny_base: Path, tmp_path: Path):
    """The codec above all, which is taken out while a base is loaded."""
    adapter = saved(tmp_path / "a", tiny_base, rank=2)
    merge(adapter, tmp_path / "out")
    left = load_file(tiny_base / "model.safetensors")
    right = load_file(tmp_path / "out" / "model.safetensors")
    assert left.keys() == right.keys()
    different = {name for name, value in left.items() if not torch.equal(value, right[name])}
    assert different and all(
        name.startswith("decoder.")
        and name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
        for name in different
    )


def test_strength_is_merged_too(tiny_base: Path, tmp_path: Path):
    adapter = saved(tmp_path / "a", tiny_base, rank=2)
    merge(adapter, tmp_path / "half", 0.5)
    merge(adapter, tmp_path / "none", 0.0)
    assert apart(live(None, tmp_path / "half"), live(adapter, tiny_base, 0.5)) <= 1e-5
    assert torch.equal(live(None, tmp_path / "none"), live(None, tiny_base))
    dora = saved(tmp_path / "dora", tiny_base, rank=2, dora=True)
    with pytest.raises(UserError, match=r"no strength 0.5"):
        merge(dora, tmp_path / "x", 0.5)
    assert not (tmp_path / "x").exists()


def test_an_adapter_of_a_quantised_base_goes_into_the_full_weights(tiny_base: Path, tmp_path: Path):
    adapter = saved(tmp_path / "a", tiny_base, rank=2)
    card = read_card(adapter)
    card["base"]["quantize"] = "nf4"
    (adapter / "adapter.json").write_text(json.dumps(card))
    made = merge(adapter, tmp_path / "out")
    assert "trained on a nf4 base, merged into" in made.notes[0]
    assert apart(live(None, tmp_path / "out"), live(adapter, tiny_base)) <= 1e-5


def test_what_cannot_be_merged_is_refused_and_nothing_is_left(
    tiny_base: Path, other_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bottleneck = saved(tmp_path / "b", tiny_base, "bottleneck")
    with pytest.raises(UserError, match=r"\(bottleneck\) cannot be merged: a non-linear function"):
        merge(bottleneck, tmp_path / "out")
    adapter = saved(tmp_path / "a", tiny_base, rank=2)
    with pytest.raises(UserError, match="made for base"):
        merge(adapter, tmp_path / "out", base_name=str(other_base))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("")
    with pytest.raises(UserError, match="already there"):
        merge(adapter, tmp_path / "taken")
    card = read_card(adapter)
    card["base"]["name"] = "nowhere/at-all"
    lost = saved(tmp_path / "lost", tiny_base, rank=2)
    (lost / "adapter.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"the adapter's base: .*say where it is with --base"):
        merge(lost, tmp_path / "out")
    # What was written is looked at before it is given its name.
    monkeypatch.setattr(merged, "difference", lambda *both: float("nan"))
    with pytest.raises(UserError, match="differ from the live adapter"):
        merge(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


# --- extracting ---


def test_an_extract_is_the_best_of_its_rank(tiny_base: Path, tmp_path: Path):
    full = saved(tmp_path / "full", tiny_base, "full", size=0.02)
    bundle, base = open_base(tiny_base), open_base(tiny_base)
    from tunesmith.formats.adapter import load_adapter

    load_adapter(full, bundle).merge()
    squares = inside = lost = 0.0
    for component, part in bundle.components.items():
        plain = dict(base.components[component].named_parameters())
        for name, weight in part.named_parameters():
            delta = (weight - plain[name]).detach().double()
            squares += float(delta.square().sum())
            if ".layers." in name and delta.ndim == 2 and component == "decoder":
                values = torch.linalg.svdvals(delta)
                inside += float(values.square().sum())
                lost += float(values[6:].square().sum())
    made = extract(full, tmp_path / "out", 6)
    assert len(made.loss.whole) == 2 * (4 + 4 + 2)
    assert made.loss.error == pytest.approx((lost / inside) ** 0.5, rel=1e-5)
    assert made.outside == pytest.approx(1 - inside / squares, rel=1e-5)
    assert 0 < made.loss.error < 1 and 0 < made.outside < 1
    card = read_card(tmp_path / "out")
    assert card["extracted_from"]["method"] == "full"
    assert "Extracted from the full adapter" in (tmp_path / "out" / "README.md").read_text()


def test_a_whole_rank_extract_of_a_dora_is_the_dora(tiny_base: Path, tmp_path: Path):
    """Its change has full rank, and lies in its own linears only."""
    dora = saved(tmp_path / "dora", tiny_base, rank=2, dora=True)
    made = extract(dora, tmp_path / "out", 32)
    assert made.loss.error < 1e-9 and made.outside == 0
    assert len(made.loss.whole) == 2 * (3 + 3)
    assert apart(live(tmp_path / "out", tiny_base), live(dora, tiny_base)) < 1e-5


def test_extracts_that_cannot_be(tiny_base: Path, tmp_path: Path):
    full = saved(tmp_path / "full", tiny_base, "full", size=0.0)
    with pytest.raises(UserError, match="changes no linear"):
        extract(full, tmp_path / "out", 4)
    for rank in (0, 33):
        with pytest.raises(UserError, match=rf"--rank {rank} is not in 1..32, the layer's size"):
            extract(full, tmp_path / "out", rank)
    prefix = saved(tmp_path / "b", tiny_base, "bottleneck")
    with pytest.raises(UserError, match="cannot be made a LoRA of: a non-linear"):
        extract(prefix, tmp_path / "out", 4)


def test_stereo_bases_are_merged_too(tmp_path: Path):
    from tiny import save_base

    base = save_base(tmp_path / "stereo", channels=2)
    adapter = saved(tmp_path / "a", base, rank=2)
    merge(adapter, tmp_path / "out")
    assert (
        apart(logits(open_base(tmp_path / "out").components["decoder"]), live(adapter, base))
        <= 1e-5
    )
    said = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (said["feature_size"], said["sampling_rate"]) == (2, 1600)
