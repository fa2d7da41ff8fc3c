from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import apart, live, logits
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tunesmith.errors import UserError
from tunesmith.families.musicgen._tiny import tiny_model
from tunesmith.formats.adapter import read_card
from tunesmith.formats.peft_import import import_peft

# PEFT asks the plain model by a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"]},
    "regex": {"r": 2, "target_modules": r".*layers\.1\..*(fc1|k_proj)"},
    "patterns": {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "fc1", "fc2"],
        "rank_pattern": {"fc1": 2, r"layers\.0\.self_attn\.q_proj": 7},
        "alpha_pattern": {"fc2": 11},
    },
    "rslora": {"r": 9, "lora_alpha": 4, "use_rslora": True, "target_modules": ["out_proj"]},
    "rslora patterns": {
        "r": 4,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 6},
    },
    "dora": {"r": 3, "lora_alpha": 7, "use_dora": True, "target_modules": ["q_proj", "k_proj"]},
}


def by_peft(folder: Path, part: str, **options: Any) -> torch.Tensor:
    """An adapter made and saved by plain PEFT, on the model or one part; its own live logits."""
    model = tiny_model(0)
    whole = get_peft_model(
        model if part == "" else model.get_submodule(part), LoraConfig(**options)
    )  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    whole.save_pretrained(folder)
    return logits(model.decoder)


@pytest.mark.parametrize("part", ["", "decoder", "decoder.model"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_import_is_what_peft_makes_of_it(kind: str, part: str, tiny_base: Path, tmp_path: Path):
    wanted = by_peft(tmp_path / "theirs", part, **KINDS[kind])
    assert apart(live(None, tiny_base), wanted) > 1e-3
    made = import_peft(tmp_path / "theirs", str(tiny_base), tmp_path / "ours")
    assert made.folded == (kind in ("patterns", "rslora", "rslora patterns"))
    assert apart(live(tmp_path / "ours", tiny_base), wanted) < 1e-5
    card = read_card(tmp_path / "ours")
    assert card["linear"] == (kind != "dora") and len(card["method"]["paths"]) == made.linears
    assert "Made elsewhere with PEFT" in (tmp_path / "ours" / "README.md").read_text()


def test_the_text_encoder_is_taken_in_as_well(tiny_base: Path, tmp_path: Path):
    by_peft(tmp_path / "theirs", "", r=2, target_modules=["q", "wo", "q_proj"])
    import_peft(tmp_path / "theirs", str(tiny_base), tmp_path / "ours")
    assert set(read_card(tmp_path / "ours")["components"]) == {"decoder", "text_encoder"}
    live(tmp_path / "ours", tiny_base)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs") / "it"
    by_peft(folder, "", r=2, target_modules=["q_proj", "v_proj"])
    return folder


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return apply


def _pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


_Q = "base_model.model.decoder.model.decoder.layers.0.self_attn.q_proj.lora_{}.weight"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_config(peft_type="IA3"), "a 'IA3' adapter is no LoRA"),
        (_config(bias="all"), "bias=all: it changes biases"),
        (
            _config(modules_to_save=["lm_heads"]),
            "modules_to_save is set: it replaces whole modules",
        ),
        (_config(fan_in_fan_out=True), "fan_in_fan_out is set: its weights are stored"),
        (_config(init_lora_weights="pissa"), "init_lora_weights=pissa: it changed the base's"),
        (_config(unheard_of=True), "unheard_of is set: what it changes is not known"),
        (_config(lora_bias=True), "lora_bias is set: it has biases"),
        (_config(use_dora=True), "lacks '.*lora_magnitude_vector'"),
        (
            _config(target_modules=["q_proj", "v_proj", "fc1"]),
            r"lacks '.*fc1.lora_A.weight', which",
        ),
        (_pickled, r"adapter_model.bin is a pickle"),
        (
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            "has no adapter_model.saf",
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "not readable"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "not readable"),
        (_tensors(lambda t: t.pop(_Q.format("B"))), r"lacks '.*layers.0.self_attn.q_proj.lora_B"),
        (
            _tensors(lambda t: [t.pop(_Q.format("A")), t.pop(_Q.format("B"))]),
            r"lacks '.*layers.0.self_attn.q_proj.lora_A.weight', which its configuration names",
        ),
        (_tensors(lambda t: t.update({"x.weight": torch.ones(1)})), "foreign tensor 'x.weight'"),
        (
            _tensors(lambda t: t.update({_Q.format("embedding_A")[:-7]: torch.ones(1)})),
            "LoRA of an embedding",
        ),
        (
            _tensors(lambda t: t.update({_Q.format("A"): torch.ones(2, 31)})),
            r"is of another size than the base's \[32, 32\]",
        ),
        (
            _tensors(
                lambda t: [
                    t.update(
                        {_Q.format(s).replace("layers.0", "layers.9"): t[_Q.format(s)].clone()}
                    )
                    for s in "AB"
                ]
            ),
            r"no linear 'decoder.model.decoder.layers.9.self_attn.q_proj'",
        ),
    ],
)
def test_what_a_lora_cannot_hold_is_refused(
    theirs: Path, change: Callable[[Path], None], complaint: str, tiny_base: Path, tmp_path: Path
):
    folder = tmp_path / "it"
    shutil.copytree(theirs, folder)
    change(folder)
    with pytest.raises(UserError, match=complaint) as caught:
        import_peft(folder, str(tiny_base), tmp_path / "out")
    assert caught.value.mend and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_adapters_and_places_are_refused(tiny_base: Path, tmp_path: Path):
    by_peft(tmp_path / "heads", "", r=2, target_modules=["lm_heads.0"])
    with pytest.raises(UserError, match=r"'decoder.lm_heads.0' is read as plain weights"):
        import_peft(tmp_path / "heads", str(tiny_base), tmp_path / "out")
    prefix = PrefixTuningConfig(
        num_virtual_tokens=2,
        num_layers=2,
        token_dim=32,
        num_attention_heads=2,
        task_type="CAUSAL_LM",
    )
    get_peft_model(tiny_model(0).decoder, prefix).save_pretrained(tmp_path / "prefix")
    with pytest.raises(UserError, match="'PREFIX_TUNING' adapter is no LoRA"):
        import_peft(tmp_path / "prefix", str(tiny_base), tmp_path / "out")
