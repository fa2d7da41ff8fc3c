"""Full fine-tuning: the base's own weights train.

It moves furthest and forgets most, hence its defaults: a rate 10 to 100 times below pre-training,
few epochs, weight decay, early stopping. What else holds it back is set here: rates that fall layer by
layer, dropout, a pull toward the start. Only what changed is saved, and loaded by replacement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import Fault, did_you_mean
from tunesmith.families._bundle import Bundle
from tunesmith.methods._adapter import Adapter, State, frozen, match_keys, placed

SPEC = {
    "summary": "full fine-tuning: all weights of the chosen components train",
    "roles": [],
    "linear": True,
    "needs": "500 recordings or more (5000 at best); the most memory",
    "identity_at_start": True,
    "saves_changes_only": True,
    "trains_base": True,
    # What it must reach on one clip and a tiny model: the contract suite holds it to this.
    "overfits": {"lr": 1e-2, "steps": 300, "share": 0.95, "regenerates": True},
}


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of ``method: full``.

    Attributes:
        components: which parts of the model train (MusicGen has decoder, conditioner and
            text_encoder); empty means all that generate, which is all but the text encoder.
        layer_decay: factor of the learning rate from each layer to the one below it: the top layer
            learns at the full rate, layer l of L at layer_decay^(L−1−l), what lies below the layers
            (embeddings) at layer_decay^L. 1 is off, 0.9 usual (discriminative fine-tuning, Howard and
            Ruder 2018, arXiv:1801.06146, section 3.1).
        dropout: of the trained model; empty means the base's own.
        pull: strength of a pull toward the starting weights (L2-SP, Li et al. 2018, arXiv:1802.01483,
            equation 3), decoupled like AdamW's decay: θ ← θ − lr·pull·(θ − θ₀). 0 is off.
    """

    components: tuple[str, ...] = ()
    layer_decay: float = 1.0
    dropout: float | None = None
    pull: float = 0.0


_ON_REQUEST = ("text_encoder", "vocoder")  # not what a model is changed in, unless asked for


def _chosen(bundle: Bundle, config: Config) -> tuple[str, ...]:
    return config.components or tuple(name for name in bundle.components if name not in _ON_REQUEST)


def check(bundle: Bundle, config: Config) -> list[Fault]:
    """What is wrong with these settings on this base."""
    faults = [
        Fault(
            "method.components", f"the base has no '{name}'", did_you_mean(name, bundle.components)
        )
        for name in config.components
        if name not in bundle.components
    ]
    if not 0 < config.layer_decay <= 1:
        faults.append(
            Fault(
                "method.layer_decay", f"{config.layer_decay} is not in 0..1", "usual: 0.9; 1 is off"
            )
        )
    if config.dropout is not None and not 0 <= config.dropout < 1:
        faults.append(
            Fault("method.dropout", f"{config.dropout} is not in 0..1", "usual: 0 to 0.1")
        )
    if config.pull < 0:
        faults.append(Fault("method.pull", f"{config.pull} is below 0", "usual: 0.01; 0 is off"))
    return faults


def parameter_count(bundle: Bundle, config: Config) -> int:
    """How many parameters will train."""
    return sum(p.numel() for p in _named(bundle, config).values())


def _named(bundle: Bundle, config: Config) -> dict[str, nn.Parameter]:
    """The parameters that train, by ``component/path``."""
    return {
        f"{component}/{path}": parameter
        for component in _chosen(bundle, config)
        for path, parameter in bundle.components[component].named_parameters()
        if f"{component}/{path}" not in bundle.fixed
    }


def _depths(bundle: Bundle, names: Iterable[str]) -> dict[str, int]:
    """How many layers stand above each parameter, of those that a layer or its input holds.

    What is registered before the first layer lies below all of them (embeddings), what comes after the
    last lies above (norms, heads) and has no entry.
    """
    roots = bundle.layer_roots()
    found: dict[str, int] = {}
    for component, layers in roots.items():
        begun = False
        for name in (name for name in names if name.startswith(f"{component}/")):
            path = name.split("/", 1)[1]
            layer = next((n for n, root in layers.items() if path.startswith(root)), None)
            begun = begun or layer is not None
            if layer is not None:
                found[name] = max(layers) - layer
            elif not begun:
                found[name] = max(layers) + 1
    # A part without layers of its own feeds those that have some.
    below = max((max(layers) + 1 for layers in roots.values()), default=0)
    for name in names:
        if name.split("/", 1)[0] not in roots:
            found[name] = below
    return found


def attach(bundle: Bundle, config: Config, seed: int | None = 0) -> FullAdapter:
    """Let the chosen components train. ``seed`` is unused: the start is the base itself."""
    return FullAdapter(bundle, config)


class FullAdapter(Adapter):
    """The chosen components' own parameters, and a copy of what they were."""

    method = "full"
    linear = True

    def __init__(self, bundle: Bundle, config: Config) -> None:
        self.config = config
        # Places, not parameters: whoever splits a base over processes puts others there.
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for name in _named(bundle, config):
            component, path = name.split("/", 1)
            holder, _, last = path.rpartition(".")
            self._places[name] = (bundle.components[component].get_submodule(holder), last)
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        # On the CPU: the way back costs no memory where memory is scarce.
        self._origin = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in self._parameters.items()
        }
        self._target: dict[str, Tensor] | None = None
        self._depths = _depths(bundle, self._parameters) if config.layer_decay != 1 else {}
        if config.dropout is not None:
            bundle.set_dropout(config.dropout)

    @property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: getattr(holder, last) for name, (holder, last) in self._places.items()}

    def rates(self) -> Mapping[str, float]:
        return {name: self.config.layer_decay**depth for name, depth in self._depths.items()}

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        if not self.config.pull:
            return
        factors = self.rates()
        for name, parameter in self._parameters.items():
            share = min(1.0, rate * factors.get(name, 1.0) * self.config.pull)
            parameter.lerp_(placed(self._origin[name], parameter), share)

    def parameters(self) -> dict[str, nn.Parameter]:
        return self._parameters

    def _trained(self) -> Mapping[str, Tensor]:
        return self._target if self._target is not None else self._parameters

    def state(self) -> State:
        state: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self._trained().items():
            component, path = name.split("/", 1)
            value = tensor.detach().cpu()
            if not torch.equal(value, self._origin[name]):
                state.setdefault(component, {})[path] = value.clone().contiguous()
        return state

    def load_state(self, state: State) -> None:
        given = {
            f"{part}/{path}": value
            for part, tensors in state.items()
            for path, value in tensors.items()
        }
        # Unchanged tensors are not saved, so missing ones are the base's; foreign ones are faults.
        known = {name: self._origin[name] for name in given if name in self._origin}
        match_keys("the model", known, given)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(given.get(name, self._origin[name]))
        self._target = None

    def set_strength(self, strength: float) -> None:
        if self._target is None:
            self._target = {
                name: p.detach().to("cpu", copy=True) for name, p in self._parameters.items()
            }
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                origin, target = self._origin[name], self._target[name]
                # The ends are copies, not sums, so that 0 and 1 are exact.
                exact = {0.0: origin, 1.0: target}.get(float(strength))
                parameter.copy_(
                    exact if exact is not None else origin + strength * (target - origin)
                )

    def merge(self) -> None:
        frozen(self._parameters.values())
        self._places, self._origin, self._target = {}, {}, None

    def detach(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._origin[name])
        self.merge()

    def peft_config(self, component: str) -> Mapping[str, Any] | None:
        return None
