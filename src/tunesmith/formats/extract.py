"""Extracting: the LoRA that comes nearest to a full fine-tune (or to a DoRA)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.families import load
from tunesmith.formats.adapter import (
    card_hash,
    load_adapter,
    new_folder,
    read_card,
    write_adapter,
)
from tunesmith.formats.blend import HOLDER, TOKENS
from tunesmith.formats.card import model_card
from tunesmith.formats.merged import base_of, refuse_unmergeable
from tunesmith.methods._low_rank import Loss, approximated
from tunesmith.registry import plugins


@dataclass(frozen=True, slots=True)
class Extracted:
    """A LoRA made of a larger change.

    Attributes:
        folder: where it lies.
        rank: its rank.
        loss: what the rank leaves out, of the linears.
        outside: share of the squared change that lies in other weights (norms, biases, embeddings,
            heads), which no LoRA holds.
    """

    folder: Path
    rank: int
    loss: Loss
    outside: float


def extract(folder: Path, out: Path, rank: int, base_name: str | None = None) -> Extracted:
    """Approximate what an adapter changes by a LoRA on every linear of the base's sites.

    Args:
        folder: an adapter that can be merged: a full fine-tune, a DoRA, a LoRA of higher rank.
        out: a new folder.
        rank: r of the LoRA.
        base_name: where the base is, if the card's name does not lead to it.

    Raises:
        UserError: the method is not linear, the rank does not fit, nothing changed, ``out`` is taken.
    """
    card = read_card(folder)
    refuse_unmergeable(str(folder), card, "made a LoRA of")
    if card.get(TOKENS):
        raise UserError(
            f"{folder} has trained tokens, which are no change of any weight",
            "extract from the adapter without tokens, or blend with it instead",
        )
    new_folder(out)
    bundle = load(base_of(card, base_name), device="cpu", dtype=torch.float32)
    holder = plugins("methods")[HOLDER].load()
    everything = holder.Config(targets=holder.TARGETS)
    sizes = {path: min(shape) for path, shape in holder.linears(bundle).items()}
    paths = [
        f"{component}/{path}"
        for component, some in holder.target_paths(bundle, everything).items()
        for path in some
    ]
    smallest = min(paths, key=lambda path: sizes[path])
    if not 1 <= rank <= sizes[smallest]:
        raise UserError(
            f"--rank {rank} is not in 1..{sizes[smallest]}, the layer's size ({smallest})",
            "usual: 4, 16, 64, 128",
        )

    def weights() -> dict[str, Tensor]:
        return {
            f"{component}/{name}": parameter.detach().clone()
            for component, module in bundle.components.items()
            for name, parameter in module.named_parameters()
        }

    before = weights()
    load_adapter(folder, bundle).merge()
    deltas, outside, total = {}, 0.0, 0.0
    inside = {f"{path}.weight": path for path in paths}
    for name, after in weights().items():
        delta = after - before.pop(name)
        squared = float(delta.double().square().sum())
        total += squared
        if name in inside and squared:
            deltas[inside[name]] = delta
        else:
            outside += squared
    if not deltas:
        raise UserError(f"{folder} changes no linear that a LoRA could hold", "train it first")
    factors, loss = approximated(deltas, rank)
    config, state = holder.from_factors(factors)
    write_adapter(
        out,
        state,
        holder.peft_files(config, state),
        {
            "base": {key: value for key, value in card["base"].items() if key != "quantize"},
            "method": {"name": HOLDER, **dataclasses.asdict(config)},
            "linear": True,
            "extracted_from": {
                "name": folder.name,
                "hash": card_hash(folder),
                "method": card["method"]["name"],
            },
            "relative_error": loss.error,
            "outside_share": outside / total,
            "trigger_tokens": card.get("trigger_tokens", []),
            "rights": card.get("rights", ""),
            **({"consent": card["consent"]} if card.get("consent") else {}),
            "metrics": {},
        },
    )
    (out / "README.md").write_text(model_card(out), encoding="utf-8")
    return Extracted(out, rank, loss, outside / total)


__all__ = ["Extracted", "extract"]
