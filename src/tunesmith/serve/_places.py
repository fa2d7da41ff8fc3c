"""Where a mixer takes hold of a base, and how it lets go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.errors import UserError
from tunesmith.families._attention import JOINED
from tunesmith.families._bundle import Bundle
from tunesmith.families._tokens import TokenRows
from tunesmith.methods import lora
from tunesmith.serve._mixed import Mixed, MixedConvolution, MixedLinear
from tunesmith.serve._mixed_tokens import MixedTokens
from tunesmith.serve._rows import Current


def wrap(bundle: Bundle, ranks: int, current: Current, targets: Sequence[str]) -> dict[str, Mixed]:
    """Wrap every layer that a low-rank adapter can change, ``{component/path: layer}``.

    Raises:
        UserError: one of them is no layer of the base's own: an adapter is attached.
    """
    config = lora.Config(targets=tuple(targets), roles=tuple(lora.SPEC["roles"]))
    places = {
        f"{component}/{path}"
        for component, some in lora.target_paths(bundle, config).items()
        for path in some
    }
    sites = {f"{part}/{path}" for part, path in bundle.linears()}
    # What belongs to no site, such as the linears of a text encoder, has no name among the targets.
    places |= set(lora.linears(bundle)) - sites
    found: dict[str, tuple[nn.Module, str, Mixed]] = {}
    for place in sorted(places):
        holder, last = _holder(bundle, place)
        inner: Any = getattr(holder, last)
        if isinstance(inner, Mixed) or any(True for _ in inner.children()):
            raise UserError(
                f"an adapter is attached to base '{bundle.name}' ({place})", "detach it first"
            )
        weight = inner.weight
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        if isinstance(inner, nn.Conv1d):
            sizes = inner.out_channels, inner.in_channels * inner.kernel_size[0]
            kind = MixedConvolution
        else:
            sizes, kind = (int(inner.out_features), int(inner.in_features)), MixedLinear
        layer = kind(inner, sizes, ranks, current, bundle.device, dtype)
        layer.train(inner.training)
        found[place] = (holder, last, layer)
    for holder, last, layer in found.values():
        setattr(holder, last, layer)
    return {place: layer for place, (_, _, layer) in found.items()}


def unwrap(bundle: Bundle, layers: Mapping[str, Mixed]) -> None:
    """Put the wrapped layers back."""
    for place, layer in layers.items():
        holder, last = _holder(bundle, place)
        setattr(holder, last, layer.inner)


def _holder(bundle: Bundle, place: str) -> tuple[nn.Module, str]:
    component, path = place.split("/", 1)
    parent, _, last = path.rpartition(".")
    return bundle.components[component].get_submodule(parent), last


def join(bundle: Bundle, place: str, joined: nn.Module) -> None:
    """Give an attention, ``component/path``, its child."""
    component, path = place.split("/", 1)
    setattr(bundle.components[component].get_submodule(path), JOINED, joined)


def part(bundle: Bundle, place: str) -> None:
    """Take it away."""
    component, path = place.split("/", 1)
    delattr(bundle.components[component].get_submodule(path), JOINED)


def text_table(bundle: Bundle) -> nn.Module | None:
    """The embedding that the text side looks ids up in; None if there is none.

    Raises:
        UserError: an adapter's tokens are attached.
    """
    sites = bundle.sites_of(["text_embedding"])
    if not sites:
        return None
    table = bundle.components[sites[0].component].get_submodule(sites[0].inputs["table"])
    if isinstance(table, TokenRows | MixedTokens):
        raise UserError(
            f"an adapter is attached to base '{bundle.name}' (its tokens)", "detach it first"
        )
    return table


def put_text_table(bundle: Bundle, table: nn.Module) -> None:
    """Let the text side look ids up in this module."""
    site = bundle.sites_of(["text_embedding"])[0]
    bundle.components[site.component].set_submodule(site.inputs["table"], table)


__all__ = ["join", "part", "put_text_table", "text_table", "unwrap", "wrap"]
