"""Settings of a LoRA, and the linears of a base that they choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tunesmith.errors import UserError, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.types import Site

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
CONVOLUTIONS = "vocoder"
"""A role of convolutions, all of which are targets: A is ``[r, k, w]``, B ``[d, r, 1]``."""
ROLES = ("self_attention", "cross_attention", "feed_forward", CONVOLUTIONS)


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of ``method: lora``.

    Attributes:
        rank: r. 4 for subtle shifts, 16 for a genre or instrument, 64 for a new domain, 128 near full.
        alpha: numerator of the scale; 0 means the rank itself (scale 1, or √r with rsLoRA).
        dropout: of the adapter's input, while training.
        rslora: scale by alpha/√r, which keeps high ranks from learning slower.
        dora: train magnitudes apart; slower, often better at low ranks.
        targets: which linears: q, k, v, o of attentions; gate (where there is one), up, down of
            feed-forwards.
        roles: which seams; self_attention, cross_attention, feed_forward, vocoder.
        paths: exact linears as component/path, instead of targets and roles; what blending, extracting and
            importing write.
        vocoder_rate: what the learning rate of a vocoder's adapters is multiplied with: its small
            convolutions, without adversaries, move more slowly toward a voice than attention does.
    """

    rank: int = 16
    alpha: float = 0.0
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    targets: tuple[str, ...] = ("q", "k", "v")
    roles: tuple[str, ...] = ("self_attention", "cross_attention", "feed_forward")
    paths: tuple[str, ...] = ()
    vocoder_rate: float = 1.0

    @property
    def scale(self) -> float:
        """s in W + s·BA."""
        alpha = self.alpha or float(self.rank)
        return alpha / (self.rank**0.5 if self.rslora else self.rank)


def _outputs(site: Site) -> str:
    return "down" if site.role == "feed_forward" else "o"


def _named(site: Site) -> dict[str, str]:
    """``{q, k, v, o, up or down: path}`` of a site's linears."""
    return dict(site.inputs) | ({_outputs(site): site.output} if site.output else {})


def linears(bundle: Bundle) -> dict[str, tuple[int, int]]:
    """``{"component/path": (d, k)}`` of each linear that can carry an adapter.

    Those are the linears of the sites and all of the text encoder's. Others, such as MusicGen's
    heads, may be read as plain weights, past any adapter on them.
    """
    found = {
        f"{site.component}/{path}": shape(bundle, site.component, path)
        for site in bundle.sites_of(ROLES)
        if site.role != CONVOLUTIONS
        for path in _named(site).values()
    }
    if "text_encoder" in bundle.components:
        for path, module in bundle.components["text_encoder"].named_modules():
            if isinstance(module, nn.Linear) and path:
                found[f"text_encoder/{path}"] = shape(bundle, "text_encoder", path)
    return found


def target_paths(bundle: Bundle, config: Config) -> dict[str, list[str]]:
    """``{component: [path of each linear that gets an adapter]}``.

    Raises:
        UserError: a path of ``config.paths`` that the base does not have.
    """
    found: dict[str, list[str]] = {}
    if config.paths:
        known = linears(bundle)
        for name in config.paths:
            if name not in known:
                raise UserError(f"the base has no linear '{name}'", nearest(name, known))
            component, path = name.split("/", 1)
            found.setdefault(component, []).append(path)
        return found
    for site in bundle.sites_of(config.roles):
        if site.role not in ROLES:
            continue
        every = site.role == CONVOLUTIONS
        paths = [path for short, path in _named(site).items() if every or short in config.targets]
        # Once each: a linear that makes queries, keys and values goes by three names.
        found.setdefault(site.component, []).extend(dict.fromkeys(paths))
    return {component: paths for component, paths in found.items() if paths}


def nearest(name: str, known: Mapping[str, Any]) -> str:
    close = did_you_mean(name, known)
    some = ", ".join(sorted(known)[:2])
    # There are hundreds: two show the form.
    return close if close.startswith("did") else f"there are e.g. {some}"


def shape(bundle: Bundle, component: str, path: str) -> tuple[int, int]:
    """``(d, k)`` of a linear; k of a convolution is channels times width of its kernel."""
    linear: Any = bundle.components[component].get_submodule(path)
    if isinstance(linear, nn.Conv1d):
        return linear.out_channels, linear.in_channels * linear.kernel_size[0]
    # Not the weight's own shape: four-bit weights are packed.
    return int(linear.out_features), int(linear.in_features)


__all__ = [
    "CONVOLUTIONS",
    "ROLES",
    "TARGETS",
    "Config",
    "linears",
    "nearest",
    "shape",
    "target_paths",
]
