"""Merging: an adapter folded into its base's weights, as a checkpoint that the plain library opens."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from tunesmith.atomic import disk_error, sync_folder, write_json
from tunesmith.errors import UserError
from tunesmith.families import Base, find_base, load
from tunesmith.formats.adapter import card_hash, load_adapter, new_folder, read_card
from tunesmith.formats.card import front_matter
from tunesmith.registry import plugins
from tunesmith.types import Audio, Example

if TYPE_CHECKING:
    from tunesmith.families._bundle import Bundle

BAR = 1e-5
"""Largest relative difference between merged and live in float32 that is called equal."""

_REFUSED = 1e-3  # rounding does not come near; beyond it something is wrong, and nothing is kept
_PROBE_S = 0.5


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged checkpoint.

    Attributes:
        folder: where it lies.
        difference: largest relative difference of hidden states and losses to the live adapter.
        notes: what else is to be said about it.
    """

    folder: Path
    difference: float
    notes: tuple[str, ...]


def base_of(card: Mapping[str, Any], name: str | None = None) -> Base:
    """The base of an adapter, found by the name on its card or the one given.

    Raises:
        UserError: it is not there.
    """
    try:
        return find_base(name or card["base"]["name"])
    except UserError as error:
        if name is not None:
            raise
        raise UserError(
            f"the adapter's base: {error.message}", "say where it is with --base"
        ) from None


def refuse_unmergeable(name: str, card: Mapping[str, Any], wanted: str = "merged") -> None:
    """Raise if the method on a card cannot be folded into weights, with its reason."""
    method = card["method"]["name"]
    spec = plugins("methods")[method].spec if method in plugins("methods") else {"linear": True}
    if not spec.get("linear"):
        raise UserError(
            f"{name} ({method}) cannot be {wanted}: {spec.get('not_linear', 'it is not linear')}",
            "keep the adapter beside the base; generate takes both",
        )


@contextmanager
def _kept(bundle: Bundle, names: list[str], found: dict[str, Tensor]) -> Any:
    """Copies of what these submodules put out while the context lasts, the last call counting."""

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                found[name] = output.detach().cpu().clone()

        return hook

    handles = [
        bundle.module.get_submodule(name).register_forward_hook(keep(name)) for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def leaves(bundle: Bundle) -> list[str]:
    """Names of the modules without children: linears, norms, embeddings. Ask before attaching."""
    return [name for name, module in bundle.module.named_modules() if not [*module.children()]]


@torch.no_grad()
def probe(bundle: Bundle, names: list[str]) -> dict[str, Tensor]:
    """What the named submodules put out on half a second of noise, and the losses there.

    Args:
        bundle: a base, with or without an adapter.
        names: of submodules of the loss module.
    """
    bundle.module.eval()
    draw = np.random.default_rng(0)
    shape = (bundle.channels, round(_PROBE_S * bundle.sample_rate_hz))
    sound = draw.uniform(-0.5, 0.5, shape).astype(np.float32)
    found: dict[str, Tensor] = {}
    with _kept(bundle, names, found):
        codes = bundle.encode_audio(Audio(sound, bundle.sample_rate_hz))
        (text,) = bundle.encode_text(["a probe of the merged weights"])
        batch = bundle.collate([Example("probe", codes, text)], [0]).to(bundle.device)
        losses = bundle.module(batch)
    return found | {f"loss of {name}": total.cpu() for name, (total, _) in losses.items()}


def difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Largest ``max|found - wanted| / max|wanted|`` over all tensors."""
    worst = 0.0
    for name, value in wanted.items():
        apart = float((found[name].double() - value.double()).abs().max()) if value.numel() else 0.0
        if apart:
            worst = max(worst, apart / max(float(value.double().abs().max()), 1e-30))
    return worst


def merge(folder: Path, out: Path, strength: float = 1.0, base_name: str | None = None) -> Merged:
    """Fold an adapter into its base's full-precision weights and write them as a checkpoint.

    The weights are float32: rounded to half precision, a change that is small beside its weight would
    be lost. An adapter trained on a quantised base goes into the weights that were quantised.

    Args:
        folder: the adapter's.
        out: a new folder; whole at the end, or not there.
        strength: how much of the adapter, 1 as trained.
        base_name: where the base is, if the card's name does not lead to it.

    Raises:
        UserError: the method is not linear, the base is another one, ``out`` is taken, the disk is
            full, or what was written does not compute what the live adapter does.
    """
    card = read_card(folder)
    refuse_unmergeable(str(folder), card)
    new_folder(out)
    base = base_of(card, base_name)
    bundle = load(base, device="cpu", dtype=torch.float32)
    names = leaves(bundle)
    adapter = load_adapter(folder, bundle)
    if strength != 1:
        adapter.set_strength(strength)
    live = probe(bundle, names)
    adapter.merge()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        bundle.export(partial)
        said = {**base.notes, **{k: card[k] for k in ("conditioning",) if k in card}}
        notes = {key: said[key] for key in ("defaults", "conditioning") if key in said}
        made_of = {
            "base": {key: card["base"][key] for key in ("name", "hash")},
            "adapter": {"name": folder.name, "hash": card_hash(folder)},
            "strength": strength,
        }
        write_json(
            partial / "tunesmith.json",
            {"max_s": bundle.max_s, "licence": base.licence, **notes, "merged": made_of},
        )
        (partial / "README.md").write_text(_card(out.name, base, card, folder, strength), "utf-8")
        del bundle, adapter
        gc.collect()  # two copies of the weights at most, not three
        again = load(find_base(str(partial)), device="cpu", dtype=torch.float32)
        apart = difference(probe(again, names), live)
        if not apart <= _REFUSED:
            raise UserError(
                f"the merged weights differ from the live adapter by {apart:.1e}",
                "nothing was kept; please report it",
            )
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
        sync_folder(out.parent)
    except (OSError, SafetensorError) as error:
        place = error if isinstance(error, OSError) else OSError(28, str(error))
        raise disk_error(place, out) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Merged(out, apart, _notes(card, base, apart))


def _notes(card: Mapping[str, Any], base: Base, apart: float) -> tuple[str, ...]:
    notes = []
    if quantize := card["base"].get("quantize"):
        notes.append(
            f"trained on a {quantize} base, merged into (and compared on) its full-precision weights, "
            f"which differ from the {quantize} ones by their rounding"
        )
    if base.non_commercial:
        notes.append(f"the base's licence {base.licence} forbids commercial use, of this as well")
    if apart > BAR:
        notes.append(f"merged and live differ by more than {BAR:g}")
    return tuple(notes)


def _card(name: str, base: Base, card: Mapping[str, Any], folder: Path, strength: float) -> str:
    tokens = ", ".join(f"`{token}`" for token in card.get("trigger_tokens", [])) or "none"
    said = {**card["base"], "licence": base.licence}
    return front_matter(
        said, base.family.spec.get("library", "transformers"), [base.family.name]
    ) + (
        f"# {name}\n\n"
        f"`{card['base']['name']}` with the {card['method']['name']} adapter `{folder.resolve().name}` "
        f"(`{card_hash(folder)[:12]}`) merged into its weights at strength {strength:g}, in float32.\n\n"
        f"Trigger words: {tokens}.\n"
        + (f"Consent of the voice's owner: {card['consent']}\n" if card.get("consent") else "")
        + f"Rights in the recordings: {card.get('rights') or 'not stated'}.\n"
        f"Licence of the base's weights: {base.licence}.\n"
    )


__all__ = ["BAR", "Merged", "base_of", "difference", "leaves", "merge", "probe"]
