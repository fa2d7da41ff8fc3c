"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751, section 2.1): h' = h + s·W_up·φ(W_down·h).

h is what a sublayer is about to add to the residual stream: each chosen output linear is wrapped by a
registered child, which adds the bottleneck to what the linear gives. No hooks: they would escape FSDP
and compilation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunesmith.errors import Fault, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter, State, frozen, match_keys, not_mergeable, seeded
from tunesmith.types import Site

SPEC = {
    "summary": "bottleneck adapters: a small non-linear layer after attention and feed-forward",
    "roles": ["self_attention", "cross_attention", "feed_forward"],
    "linear": False,
    "not_linear": "a non-linear function cannot be folded into a weight matrix",
    "needs": "50-200 recordings at least (500 at best); little memory",
    "identity_at_start": True,
    # What it must reach on one clip and a tiny model: the contract suite holds it to this.
    "overfits": {"lr": 1e-2, "steps": 100, "share": 0.2, "regenerates": False},
    "presets": {
        "width": {
            8: "subtle style shifts",
            32: "a genre or an instrument",
            128: "a significant change of domain",
        }
    },
}

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
"""φ, by its name in the settings."""


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of ``method: bottleneck``.

    Attributes:
        width: of the bottleneck. 8 for subtle shifts, 32 for a genre or instrument (as many
            parameters as a LoRA of rank 16), 128 for a new domain.
        activation: φ: relu, gelu or silu.
        roles: after which sublayers; self_attention, cross_attention, feed_forward.
        dropout: of what stands in the bottleneck, while training.
    """

    width: int = 32
    activation: str = "relu"
    roles: tuple[str, ...] = ("self_attention", "cross_attention", "feed_forward")
    dropout: float = 0.0


def sites(bundle: Bundle, config: Config) -> list[Site]:
    """The seams that get a bottleneck: those of the chosen roles that lead back into the stream."""
    roles = [role for role in config.roles if role in SPEC["roles"]]
    return [site for site in bundle.sites_of(roles) if site.output]


def check(bundle: Bundle, config: Config) -> list[Fault]:
    """What is wrong with these settings on this base."""
    faults = [
        Fault("method.roles", f"bottleneck has no use for '{role}'", f"known: {SPEC['roles']}")
        for role in config.roles
        if role not in SPEC["roles"]
    ]
    if config.activation not in ACTIVATIONS:
        mend = did_you_mean(config.activation, ACTIVATIONS)
        faults.append(Fault("method.activation", f"no activation '{config.activation}'", mend))
    if not 0 <= config.dropout < 1:
        faults.append(
            Fault("method.dropout", f"{config.dropout} is not in 0..1", "usual: 0 to 0.1")
        )
    found = sites(bundle, config)
    if not found and not faults:
        faults.append(Fault("method.roles", "no layer of this base is chosen", "leave roles out"))
    smallest = min((site.width for site in found), default=config.width)
    if config.width < 1:
        faults.append(Fault("method.width", f"{config.width} is below 1", "usual: 8, 32, 128"))
    elif config.width > smallest:
        faults.append(
            Fault(
                "method.width",
                f"width {config.width} is above the layer's size {smallest}",
                f"give at most {smallest}",
            )
        )
    return faults


def parameter_count(bundle: Bundle, config: Config) -> int:
    """Σ 2·w·d + w + d over the chosen sublayers."""
    width = config.width
    return sum(2 * width * site.width + width + site.width for site in sites(bundle, config))


def attach(bundle: Bundle, config: Config, seed: int | None = 0) -> BottleneckAdapter:
    """Put bottlenecks on the base; W_up starts at zero, so the model is the base exactly."""
    return BottleneckAdapter(bundle, config, seed or 0)


class Bottleneck(nn.Module):
    """y = inner(x), and y + s·W_up·φ(W_down·y) out of it.

    Args:
        inner: the wrapped linear, or whatever stands in its place (a PEFT layer, a 4-bit linear).
        size: d, width of what ``inner`` gives.
        config: width of the bottleneck, activation, dropout.
        device: where ``inner`` lives.
    """

    def __init__(self, inner: nn.Module, size: int, config: Config, device: torch.device) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Linear(size, config.width, device=device, dtype=torch.float32)
        self.up = nn.Linear(config.width, size, device=device, dtype=torch.float32)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.activation = ACTIVATIONS[config.activation]
        self.strength = 1.0

    @property
    def weight(self) -> Tensor:
        """The wrapped linear's, which some models look at."""
        return self.inner.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.inner.bias  # type: ignore[return-value]

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """``[..., k]`` to ``[..., d]``, in the precision that the wrapped linear gives."""
        y = self.inner(x, *args, **options)
        if self.strength == 0:
            return y
        narrow = self.dropout(self.activation(self.down(y.to(self.down.weight.dtype))))
        return y + (self.strength * self.up(narrow)).to(y.dtype)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``down.weight`` and so on, without what is wrapped."""
        for part in ("down", "up"):
            for name, parameter in getattr(self, part).named_parameters():
                yield f"{part}.{name}", parameter


class BottleneckAdapter(Adapter):
    """A :class:`Bottleneck` around each chosen output linear."""

    method = "bottleneck"
    linear = False

    def __init__(self, bundle: Bundle, config: Config, seed: int) -> None:
        self.config = config
        self._wrapped: dict[str, tuple[nn.Module, str, Bottleneck]] = {}
        with seeded(seed):
            for site in sites(bundle, config):
                place, _, last = site.output.rpartition(".")
                holder = bundle.components[site.component].get_submodule(place)
                layer = Bottleneck(getattr(holder, last), site.width, config, bundle.device)
                setattr(holder, last, layer)
                self._wrapped[f"{site.component}/{site.output}"] = (holder, last, layer)

    def _layers(self) -> dict[str, Bottleneck]:
        return {name: layer for name, (_, _, layer) in self._wrapped.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{part}": parameter
            for name, layer in self._layers().items()
            for part, parameter in layer.trained()
        }

    def state(self) -> State:
        state: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.parameters().items():
            component, path = name.split("/", 1)
            # A copy, not a view of what goes on training.
            state.setdefault(component, {})[path] = parameter.detach().cpu().clone()
        return state

    def load_state(self, state: State) -> None:
        mine = self.state()
        for component in sorted(mine.keys() | state.keys()):
            match_keys(component, mine.get(component, {}), state.get(component, {}))
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                component, path = name.split("/", 1)
                parameter.copy_(state[component][path])

    def set_strength(self, strength: float) -> None:
        for layer in self._layers().values():
            layer.strength = float(strength)

    def merge(self) -> None:
        raise not_mergeable("a bottleneck adapter", SPEC)

    def detach(self) -> None:
        frozen(self.parameters().values())
        for holder, last, layer in self._wrapped.values():
            setattr(holder, last, layer.inner)
        self._wrapped = {}


__all__ = [
    "ACTIVATIONS",
    "SPEC",
    "Bottleneck",
    "BottleneckAdapter",
    "Config",
    "attach",
    "check",
    "parameter_count",
    "sites",
]
