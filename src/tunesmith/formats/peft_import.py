"""Taking in LoRA adapters that were made elsewhere with PEFT."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tunesmith.errors import UserError
from tunesmith.families import base_hash, find_base, skeleton
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import new_folder, write_adapter
from tunesmith.formats.blend import HOLDER
from tunesmith.formats.card import model_card
from tunesmith.registry import plugins

_TENSORS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_DOWN, _UP, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"

# What a configuration may say without changing what the saved tensors compute.
_HARMLESS = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "r", "lora_alpha", "lora_dropout", "target_modules"),
    *("exclude_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias"),
    *("layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size"),
    *("eva_config", "runtime_config", "init_lora_weights"),
}
_REASONS = {
    "modules_to_save": "it replaces whole modules, which a LoRA does not hold",
    "fan_in_fan_out": "its weights are stored the other way round",
    "trainable_token_indices": "it changes rows of an embedding",
    "lora_bias": "it has biases beside the matrices",
    "layer_replication": "it repeats layers of the base",
    "target_parameters": "it changes parameters that are no linears",
    "alora_invocation_tokens": "it takes effect from a token on only",
}
# The other ways to begin (PiSSA, OLoRA, CorDA, LoftQ) change the base's own weights.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class Imported:
    """An adapter that was taken in.

    Attributes:
        folder: where it lies.
        linears: how many linears it changes.
        rank: its (uniform) rank.
        folded: whether ranks or scales differed, and were folded into B.
        made_for: the base that its own configuration names; empty if it does not.
    """

    folder: Path
    linears: int
    rank: int
    folded: bool
    made_for: str


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / _CONFIG}: not readable ({error})", f"give a folder with {_CONFIG} in it"
        ) from None
    if not (folder / _TENSORS).is_file():
        pickled = next((file.name for file in folder.glob("*.bin")), "")
        if pickled:
            raise UserError(
                f"{folder / pickled} is a pickle, which can run code and is never opened",
                "save it again with safe_serialization=True where it was made",
            )
        raise UserError(f"{folder} has no {_TENSORS}", "give a folder that PEFT saved")
    try:
        return config, load_file(folder / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / _TENSORS}: not readable ({error})", "copy it again") from None


def _check(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse what a LoRA on linears cannot hold, by one line with the reason."""
    place, mend = folder / _CONFIG, "only plain LoRA, rsLoRA and DoRA on linears can be taken in"
    if config.get("peft_type") != "LORA":
        raise UserError(f"{place}: a '{config.get('peft_type')}' adapter is no LoRA", mend)
    if config.get("bias", "none") != "none":
        raise UserError(f"{place}: bias={config['bias']}: it changes biases of the base", mend)
    if config.get("init_lora_weights", True) not in _STARTS:
        raise UserError(
            f"{place}: init_lora_weights={config['init_lora_weights']}: it changed the base's weights",
            "convert it to a plain LoRA where it was made (path_initial_model_for_weight_conversion)",
        )
    for key, value in config.items():
        if value and key not in _HARMLESS and value != "none":
            reason = _REASONS.get(key, "what it changes is not known here")
            raise UserError(f"{place}: {key} is set: {reason}", mend)


def _tensors_by_module(
    tensors: Mapping[str, Tensor], dora: bool, place: Path
) -> dict[str, dict[str, Tensor]]:
    """``{module: {ending: tensor}}``, each module with all it needs and nothing else."""
    endings = (_DOWN, _UP, _MAGNITUDE) if dora else (_DOWN, _UP)
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        ending = next((one for one in endings if key.endswith(one)), None)
        if not key.startswith(_PREFIX) or ending is None:
            reason = "LoRA of an embedding" if "lora_embedding" in key else "foreign tensor"
            raise UserError(f"{place}: {reason} '{key}'", "only LoRA on linears can be taken in")
        module = key.removeprefix(_PREFIX).removesuffix(ending)
        found.setdefault(module, {})[ending] = value
    for module, some in found.items():
        if missing := [ending for ending in endings if ending not in some]:
            raise UserError(f"{place} lacks '{_PREFIX}{module}{missing[0]}'", "copy it again")
    if not found:
        raise UserError(f"{place} holds no tensor", "copy it again")
    return found


def _places(bundle: Bundle, modules: list[str], place: Path) -> dict[str, str]:
    """``{module: "component/path"}`` of all linears below the place that an adapter was attached to.

    It may have been trained on the whole model or on one part of it, so every ancestor of the first
    name's possible places is tried, and the one is right in which all names are linears.
    """
    places = {id(module): name for name, module in bundle.module.named_modules()}
    real = {
        f"{places[id(part)]}.{path}".rstrip("."): f"{component}/{path}"
        for component, part in bundle.components.items()
        for path, module in part.named_modules()
        if isinstance(module, nn.Linear)
    }
    for name in real:
        if name == modules[0] or name.endswith(f".{modules[0]}"):
            root = name.removesuffix(modules[0])
            if all(f"{root}{module}" in real for module in modules):
                return {
                    name.removeprefix(root): where
                    for name, where in real.items()
                    if name.startswith(root)
                }
    unknown = next(
        (one for one in modules if not any(f".{name}".endswith(f".{one}") for name in real)),
        modules[0],
    )
    raise UserError(
        f"{place}: the base has no linear '{unknown}'", "give the base that it was made for"
    )


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), module), config.get("lora_alpha", 8))
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def import_peft(folder: Path, base_name: str, out: Path) -> Imported:
    """Make an adapter of ours of a PEFT LoRA made elsewhere.

    Ranks and scales that differ among linears are folded into B (and zeros), so that one rank and
    scale hold for all; the change that it makes stays the same.

    Args:
        folder: with PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``.
        base_name: the base that it was made for.
        out: a new folder.

    Raises:
        UserError: something in it that a LoRA on linears cannot hold, or that does not fit the base.
    """
    config, tensors = _read(folder)
    _check(config, folder)
    new_folder(out)
    place, dora = folder / _TENSORS, bool(config.get("use_dora"))
    modules = _tensors_by_module(tensors, dora, place)
    base = find_base(base_name)
    bundle = skeleton(base)
    holder = plugins("methods")[HOLDER].load()
    real = _places(bundle, list(modules), place)
    _none_missing(config, modules, real, place)
    known = holder.linears(bundle)
    factors, scales, magnitudes = {}, {}, {}
    for module, some in modules.items():
        path = real[module]
        if path not in known:
            raise UserError(
                f"{place}: '{module}' is read as plain weights, past any adapter on it",
                "train it without this module (PEFT's exclude_modules)",
            )
        down, up = some[_DOWN], some[_UP]
        if (up.shape[0], down.shape[1]) != known[path] or down.shape[0] != up.shape[1]:
            raise UserError(
                f"{place}: '{module}' is of another size than the base's {list(known[path])}",
                "give the base that it was made for",
            )
        factors[path] = (down.float(), up.float())
        scales[path] = _scale(config, module, down.shape[0])
        if dora:
            magnitudes[path] = some[_MAGNITUDE].float().flatten()
    ranks = {down.shape[0] for down, _ in factors.values()}
    folded = len(ranks) > 1 or len(set(scales.values())) > 1 or bool(config.get("use_rslora"))
    scaled = {path: (down, scales[path] * up) for path, (down, up) in factors.items()}
    settings, state = holder.from_factors(scaled, holder.Config(dora=dora))
    for path, magnitude in magnitudes.items():
        component, name = path.split("/", 1)
        state[component][f"{_PREFIX}{name}{_MAGNITUDE}"] = magnitude.contiguous()
    made_for = str(config.get("base_model_name_or_path") or "")
    card = {
        "base": {
            "name": base.name,
            "hash": base_hash(base),
            "family": base.family.name,
            "licence": base.licence,
        },
        "method": {"name": HOLDER, **dataclasses.asdict(settings)},
        "linear": not dora,
        "imported_from": {
            # A folder's name on someone's machine says nothing to others.
            "base": made_for if re.fullmatch(r"[\w.-]+/[\w.-]+", made_for) else "",
            "peft_version": str(config.get("peft_version") or ""),
        },
        "trigger_tokens": [],
        "rights": "",
        "metrics": {},
    }
    write_adapter(out, state, holder.peft_files(settings, state), card)
    (out / "README.md").write_text(model_card(out), encoding="utf-8")
    return Imported(out, len(factors), settings.rank, folded, made_for)


def _none_missing(
    config: Mapping[str, Any], modules: Mapping[str, Any], real: Mapping[str, str], place: Path
) -> None:
    """Refuse a file that lacks linears which its own configuration names."""
    targets = config.get("target_modules")
    if not targets or targets == "all-linear":
        return
    fields = {field.name for field in dataclasses.fields(LoraConfig)} - {"runtime_config"}
    said = LoraConfig(**{key: value for key, value in config.items() if key in fields})
    for module in real:
        if module not in modules and check_target_module_exists(said, module):
            raise UserError(
                f"{place} lacks '{_PREFIX}{module}{_DOWN}', which its configuration names",
                "copy it again, or give the base that it was made for",
            )


__all__ = ["Imported", "import_peft"]
