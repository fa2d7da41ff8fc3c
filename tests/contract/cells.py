"""Cells of family and method, from the registry: a new plug-in is covered without a line here."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter
from tunesmith.registry import matrix, plugin
from tunesmith.types import Audio, Example


@dataclass(frozen=True)
class Variant:
    """A family's tiny model in one of the forms that it comes in (mono, stereo)."""

    family: str
    channels: int | None

    def __str__(self) -> str:
        return self.family + ("" if self.channels is None else f"-{self.channels}ch")

    def make(self, seed: int = 0) -> Bundle:
        tiny = plugin("families", self.family).load().tiny
        return tiny(seed) if self.channels is None else tiny(seed, channels=self.channels)


@dataclass(frozen=True)
class Cell:
    """A tiny model and a method that its family supports, with settings."""

    variant: Variant
    method: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        text = "-".join(f"{key}={value}" for key, value in self.options)
        return f"{self.variant}-{self.method}" + (f"-{text}" if text else "")

    @property
    def spec(self) -> dict[str, Any]:
        return dict(plugin("methods", self.method).spec)

    def load(self) -> ModuleType:
        return plugin("methods", self.method).load()

    def make(self, seed: int = 0) -> Bundle:
        return self.variant.make(seed)

    def config(self) -> Any:
        return self.load().Config(**dict(self.options))

    def attach(self, bundle: Bundle, seed: int = 0) -> Adapter:
        return self.load().attach(bundle, self.config(), seed)


# What a method may be asked for beyond its defaults, where that takes another path through it.
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "full": [{"layer_decay": 0.7, "pull": 0.1}],
    "lora": [
        {"rslora": True, "rank": 8, "alpha": 4.0},
        {"dora": True},
        {"targets": ("q", "k", "v", "o", "up", "down"), "rank": 4},
    ],
    "bottleneck": [
        {"width": 4, "activation": "gelu"},
        {"activation": "silu", "roles": ("feed_forward",)},
    ],
    "prefix": [
        {"roles": ("self_attention",), "init": "random", "length": 3},
        {"mlp": True, "mlp_width": 24},
        {"placement": "input"},
        {"placement": "input", "mlp": True, "mlp_width": 24, "init": "random"},
    ],
    "textual_inversion": [
        {"vectors": 1},
        {"vectors": 3, "templates": ("{token}, {caption}", "{caption} with {token}")},
    ],
}


def variants() -> Iterator[Variant]:
    for family in matrix():
        found = plugin("families", family)
        channels = found.spec.get("channels")
        takes = "channels" in inspect.signature(found.load().tiny).parameters
        if takes and isinstance(channels, list):
            yield from (Variant(family, count) for count in channels)
        else:
            yield Variant(family, None)


def cells(options: bool = False) -> Iterator[Cell]:
    """Every pair that works; further settings of a method on the first variant of each family."""
    table = matrix()
    seen: set[str] = set()
    for variant in variants():
        first = variant.family not in seen
        seen.add(variant.family)
        for method, verdict in table[variant.family].items():
            if verdict != "ok":
                continue
            yield Cell(variant, method)
            roles = plugin("families", variant.family).spec["roles"]
            for more in _OPTIONS.get(method, []) if options and first else []:
                # A prefix before the conditioning needs something that reads one.
                if more.get("placement") != "input" or "cross_attention" in roles:
                    yield Cell(variant, method, tuple(more.items()))


def noise(bundle: Bundle, seconds: float, seed: int) -> Audio:
    """Busy sound at the bundle's rate."""
    shape = (bundle.channels, round(seconds * bundle.sample_rate_hz))
    draw = np.random.default_rng(seed)
    return Audio(draw.uniform(-0.5, 0.5, shape).astype(np.float32), bundle.sample_rate_hz)


def example(
    bundle: Bundle,
    seconds: float = 1.0,
    caption: str = "a test",
    seed: int = 0,
    adapter: Adapter | None = None,
) -> Example:
    """An encoded clip of noise; with an adapter, captioned as that wants its clips captioned."""
    caption = adapter.caption(caption) if adapter else caption
    codes = bundle.encode_audio(noise(bundle, seconds, seed))
    return Example(f"clip-{seed}", codes, bundle.encode_text([caption])[0])


def mixed(bundle: Bundle, count: int = 3, adapter: Adapter | None = None) -> list[Example]:
    """Clips that differ in length, caption and the caption's length."""
    captions = ["a", "something a good deal longer", "in between", "four words at least"]
    return [
        example(bundle, 0.3 + 0.2 * n, captions[n % 4], seed=n, adapter=adapter)
        for n in range(count)
    ]


def shaken(adapter: Adapter, seed: int = 0, size: float = 0.05) -> Adapter:
    """The adapter away from its start, where it may be the identity."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    return adapter


def losses(bundle: Bundle, batch: Any) -> dict[str, torch.Tensor]:
    """Loss sums per term, without dropout."""
    bundle.module.eval()
    with torch.no_grad():
        return {name: total for name, (total, _) in bundle.module(batch).items()}


def close(left: Any, right: Any, tolerance: float) -> None:
    """Same terms, and values within a tolerance."""
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance)


def bits(bundle: Bundle) -> dict[str, torch.Tensor]:
    """A copy of every tensor of the module."""
    return {name: value.detach().clone() for name, value in bundle.module.state_dict().items()}


def same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert different == []
